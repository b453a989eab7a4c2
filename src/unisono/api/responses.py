"""The problem answers that any operation may give, as the OpenAPI document lists them."""

from __future__ import annotations

from typing import Any, Final

from unisono.api.problems import Problem
from unisono.base.problems import MEDIA_TYPE

_MEANING_OF_STATUS: Final = {
    401: "No key, or one that is unknown, expired or revoked.",
    403: "The key lacks a scope.",
    404: "No such thing, or none of this organisation.",
    409: "It collides with the present state; or the first request with this Idempotency-Key is in progress.",
    413: "The body is too large.",
    422: "A field breaks a rule: the problem names field, value and rule.",
    429: "Too many requests wait; come back after Retry-After seconds.",
    503: "PostgreSQL, NATS or realtime is away; come back after Retry-After seconds.",
}

PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": meaning,
        "model": Problem,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, meaning in _MEANING_OF_STATUS.items()
}
# What stands before the health routes, which answer for themselves when something is away.
KEY_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {status: PROBLEM_RESPONSES[status] for status in (401, 403)}
