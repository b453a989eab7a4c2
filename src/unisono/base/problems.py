"""What every error is answered with, whichever door it came through: problem details (RFC 9457)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from unisono.base.errors import (
    Conflict,
    DamagedRecord,
    Forbidden,
    InvalidInput,
    NotFound,
    TooMany,
    Unavailable,
    UnisonoError,
)
from unisono.base.rule_words import plain_value

MEDIA_TYPE: Final = "application/problem+json"
# When to come back after something of ours was away: engines restart within a second or two (measured 0.03-2.1 s).
RETRY_AFTER_S: Final = 2


class Unauthenticated(UnisonoError):
    """No key, or none that is valid now; ``rule`` says why without telling whether the key exists."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class MethodNotAllowed(UnisonoError):
    """The path is there, but not for this method."""

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{method} is not for this path")
        self.method = method
        self.allowed = tuple(allowed)


class ProblemsFound(UnisonoError):
    """Several fields break rules at once."""

    def __init__(self, errors: Sequence[InvalidInput]) -> None:
        assert errors, "at least one"
        super().__init__("; ".join(str(error) for error in errors))
        self.errors = tuple(errors)


class InProgress(UnisonoError):
    """The first request with this Idempotency-Key is still being worked on."""

    def __init__(self, key: str, retry_after_s: int = 1) -> None:
        super().__init__(f"the first request with Idempotency-Key {key!r} is still in progress")
        self.key = key
        self.retry_after_s = retry_after_s


class Broken(NamedTuple):
    """One field that breaks one rule; ``value`` as JSON can hold it."""

    field: str
    value: Any
    rule: str


class Told(NamedTuple):
    """What a problem says, apart from the request."""

    status: int
    kind: str
    title: str
    detail: str
    errors: Sequence[Broken]
    headers: Mapping[str, str] = {}

    def body(self, path: str) -> dict[str, Any]:
        """Return the problem; the first of ``errors`` is repeated at the top for callers who look no further."""
        body: dict[str, Any] = {
            "type": f"urn:unisono:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
        }
        if self.errors:
            body |= self.errors[0]._asdict() | {"errors": [error._asdict() for error in self.errors]}
        return body


def told_of(error: Exception) -> Told | None:
    """Return what an error is answered with; None for one that nobody expected."""
    return _told_of_input(error) or _told_of_state(error)


def told_of_fields(errors: Sequence[Broken]) -> Told:
    """Return the problem of fields that break rules."""
    first = errors[0]
    detail = f"{first.field} = {json.dumps(first.value, ensure_ascii=False)}: {first.rule}"
    if len(errors) > 1:
        detail += f" (and {len(errors) - 1} more)"
    title = "A field breaks a rule" if len(errors) == 1 else "Fields break rules"
    return Told(422, "invalid-input", title, detail, errors)


def _told_of_input(error: Exception) -> Told | None:
    """Errors that the caller mends by sending something else."""
    match error:
        case InvalidInput():
            return told_of_fields([_broken(error)])
        case ProblemsFound():
            return told_of_fields([_broken(one) for one in error.errors])
        case Unauthenticated():
            fields = [Broken("Authorization", None, error.rule)]
            headers = {"WWW-Authenticate": 'Bearer realm="unisono"'}
            return Told(401, "unauthenticated", "A valid key is needed", error.rule, fields, headers)
        case Forbidden():
            fields = [Broken("scopes", None, f"needs {error.needs}")]
            return Told(403, "forbidden", "This key may not do this", str(error), fields)
        case NotFound():
            fields = [Broken(error.kind, plain_value(error.ref), "must exist")]
            return Told(404, "not-found", "No such thing, or none that this key may see", str(error), fields)
        case MethodNotAllowed():
            fields = [Broken("method", plain_value(error.method), f"must be {' or '.join(error.allowed)}")]
            headers = {"Allow": ", ".join(error.allowed)}
            return Told(405, "method-not-allowed", "This path has no such method", str(error), fields, headers)
    return None


def _told_of_state(error: Exception) -> Told | None:
    """Errors of the moment: the same request may succeed later, or never in this state."""
    match error:
        case InProgress():
            rule = "come back when the first request has been answered"
            fields = [Broken("Idempotency-Key", plain_value(error.key), rule)]
            headers = {"Retry-After": str(error.retry_after_s)}
            return Told(409, "in-progress", "The first request is still in progress", str(error), fields, headers)
        case Conflict():
            fields = [Broken(error.kind, plain_value(error.ref), error.rule)]
            return Told(409, "conflict", "This collides with the present state", str(error), fields)
        case TooMany():
            fields = [Broken(error.what, None, f"the limit is {error.limit}")]
            if error.retry_after_s is None:
                return Told(413, "too-many", "A limit is reached", str(error), fields)
            headers = {"Retry-After": str(math.ceil(error.retry_after_s))}
            return Told(429, "too-many", "A limit is reached", str(error), fields, headers)
        case Unavailable():
            fields = [Broken(error.what, None, error.why)]
            detail = f"{error}; repeat the same call, with the same Idempotency-Key if it had one"
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            return Told(503, "unavailable", "Something behind the API is away", detail, fields, headers)
        case DamagedRecord():
            fields = [Broken(error.what, None, error.why)]
            return Told(500, "damaged-record", "A stored record is damaged", str(error), fields)
    return None


def _broken(error: InvalidInput) -> Broken:
    return Broken(error.field, plain_value(error.value), error.rule)
