"""Sending the same request twice does the work once: the answer is kept with the work, in the same transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import Header, Request, Response
from pydantic import BaseModel
from sqlalchemy import Connection

from unisono.api.auth import Caller
from unisono.api.context import ApiContext
from unisono.base.errors import Conflict, InvalidInput
from unisono.base.problems import InProgress
from unisono.store import idempotency

T = TypeVar("T", bound=BaseModel)

# A UUID has 36 characters; some clients put more into it.
KEY_CHARS_MAX: Final = 255

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=KEY_CHARS_MAX,
        min_length=1,
        description="Any text of your own, new for each new request; a repetition gets the first answer.",
        examples=["5b3f2a0e-dispatch-17"],
    ),
]
RequiredIdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=KEY_CHARS_MAX,
        min_length=1,
        description="Any text of your own, new for each new request; a repetition gets the first answer.",
        examples=["5b3f2a0e-dispatch-17"],
    ),
]


class Once:
    """One request under its key (None: the caller gave none, and each repetition is a new request)."""

    def __init__(self, context: ApiContext, caller: Caller, request: Request, key: str | None) -> None:
        self._context = context
        self._caller = caller
        self._request = request
        self._key = key

    async def answer(
        self, work: Callable[[Connection], BaseModel], *, status: int, hidden: tuple[str, ...] = ()
    ) -> Response:
        """Do ``work`` and answer with what it returns; or, when it was done before, with the first answer.

        Fields in ``hidden`` (secrets) are in the first answer only; a repetition has null there. Raises InProgress
        while the first request is being worked on, InvalidInput when the key was used with another body.
        """
        claim = None if self._key is None else await self._claim(self._key)

        def once(connection: Connection) -> tuple[int, bytes, bool]:
            if claim is None:
                return status, _encoded(work(connection)), False
            now_ns = self._context.clock.wall_ns()
            attempt = idempotency.begin(connection, claim, now_ns)
            if attempt.answer is not None:
                return attempt.answer.status, attempt.answer.body, True
            made = work(connection)
            kept = made.model_copy(update=dict.fromkeys(hidden)) if hidden else made
            idempotency.finish(connection, attempt, status, _encoded(kept), now_ns)
            return status, _encoded(made), False

        try:
            code, body, is_replayed = await self._context.run(once)
        except Conflict as conflict:
            raise _in_our_words(conflict) from conflict
        return _response(code, body, is_replayed=is_replayed)

    async def _claim(self, key: str) -> idempotency.Claim:
        if not key.isprintable():
            raise InvalidInput("Idempotency-Key", key, "must be printable text")
        endpoint = f"{self._request.method} {self._request.url.path}"
        body = await self._request.body()
        return idempotency.Claim(organisation_id=self._caller.organisation_id, key=key, endpoint=endpoint, body=body)


def _in_our_words(conflict: Conflict) -> Exception:
    """Tell the two collisions of a key apart: come back later, or take another key."""
    if conflict.kind != "Idempotency-Key":
        return conflict
    if "in progress" in conflict.rule:
        return InProgress(conflict.ref)
    return InvalidInput("Idempotency-Key", conflict.ref, conflict.rule)


def _encoded(made: BaseModel) -> bytes:
    return made.model_dump_json().encode()


def _response(status: int, body: bytes, *, is_replayed: bool) -> Response:
    headers = {}
    if is_replayed:
        headers["Idempotency-Replayed"] = "true"
    location = _location(msgspec.json.decode(body)) if status in (201, 202) else None
    if location is not None:
        headers["Location"] = location
    return Response(body, status, headers, "application/json")


def _location(made: dict[str, Any]) -> str | None:
    """Return where the thing that was made can be looked at."""
    url = made.get("status_url")
    return url if isinstance(url, str) else None
