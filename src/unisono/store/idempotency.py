"""Idempotency keys: the same request, sent again under the same key, gets the same answer and does nothing twice.

Within the transaction of the work itself (the rule)::

    with database.begin() as connection:
        attempt = begin(connection, claim, now_ns)
        if attempt.answer is not None:
            return attempt.answer
        ...the work...
        finish(connection, attempt, status, body, now_ns)

A crash, or an error, rolls the key back together with the work. While the transaction runs, the same key elsewhere
gets Conflict "in progress". Work that takes several transactions commits after ``begin``: the key is then visibly in
progress; if its server dies, another may take it over after TAKEOVER_S, and only the newest attempt can ``finish``.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from sqlalchemy import Connection, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from unisono.base.errors import Conflict
from unisono.base.instants import NS_PER_S
from unisono.store.tables.operations import IDEMPOTENCY_KEY

# Twice the longest statement: a request that has not ended by then never will.
TAKEOVER_S: Final = 60.0
_IN_PROGRESS: Final = "is still in progress: the first request has not been answered yet"
_C = IDEMPOTENCY_KEY.c


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller sent: whose key, for which endpoint (method and path), with which body."""

    organisation_id: str
    key: str
    endpoint: str
    body: bytes


class Answer(msgspec.Struct, frozen=True):
    """The answer that was given the first time."""

    status: int
    body: bytes


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """The right to do the work (``answer`` None), or the answer of the time when it was done."""

    claim: Claim
    number: int
    answer: Answer | None = None


def begin(connection: Connection, claim: Claim, now_ns: int) -> Attempt:
    """Claim a key, or return the stored answer. See the module for its use.

    Raises Conflict if the key was used with another body, or if the same request is still in progress.
    """
    if not connection.execute(_LOCK, {"name": _name(claim)}).scalar_one():
        raise Conflict("Idempotency-Key", claim.key, _IN_PROGRESS)
    digest = hashlib.sha256(claim.body).digest()
    row = connection.execute(select(IDEMPOTENCY_KEY).where(_is(claim))).first()
    if row is None:
        values = {"organisation_id": claim.organisation_id, "key": claim.key, "endpoint": claim.endpoint}
        connection.execute(insert(IDEMPOTENCY_KEY).values(**values, request_sha256=digest, begun_ns=now_ns))
        return Attempt(claim=claim, number=1)
    if bytes(row.request_sha256) != digest:
        raise Conflict("Idempotency-Key", claim.key, "was used with another body; use a new key for another request")
    if row.state == "done":
        return Attempt(claim=claim, number=row.attempt, answer=Answer(row.status, bytes(row.response)))
    if now_ns - row.begun_ns < TAKEOVER_S * NS_PER_S:
        raise Conflict("Idempotency-Key", claim.key, _IN_PROGRESS)
    number = row.attempt + 1
    connection.execute(update(IDEMPOTENCY_KEY).where(_is(claim)).values(attempt=number, begun_ns=now_ns))
    return Attempt(claim=claim, number=number)


def finish(connection: Connection, attempt: Attempt, status: int, body: bytes, now_ns: int) -> None:
    """Store the answer. Conflict (roll the work back) if another attempt has taken the key over meanwhile."""
    mine = _is(attempt.claim) & (_C.attempt == attempt.number) & (_C.state == "in_progress")
    values = {"state": "done", "status": status, "response": body, "done_ns": now_ns}
    if connection.execute(update(IDEMPOTENCY_KEY).where(mine).values(**values)).rowcount != 1:
        raise Conflict("Idempotency-Key", attempt.claim.key, "was taken over by a later attempt")


def abandon(connection: Connection, attempt: Attempt) -> None:
    """Give a committed claim back after the work has failed, so that the caller may try again at once."""
    mine = _is(attempt.claim) & (_C.attempt == attempt.number) & (_C.state == "in_progress")
    connection.execute(delete(IDEMPOTENCY_KEY).where(mine))


def prune(connection: Connection, before_ns: int) -> int:
    """Forget keys begun before that instant and return how many."""
    return connection.execute(delete(IDEMPOTENCY_KEY).where(_C.begun_ns < before_ns)).rowcount


_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")


def _name(claim: Claim) -> str:
    # The lengths keep two different claims from reading the same.
    parts = (claim.organisation_id, claim.key, claim.endpoint)
    return "idempotency " + " ".join(f"{len(part)} {part}" for part in parts)


def _is(claim: Claim) -> ColumnElement[bool]:
    return (_C.organisation_id == claim.organisation_id) & (_C.key == claim.key) & (_C.endpoint == claim.endpoint)
