"""Who calls: a bearer key, looked up at each request, so that a revoked one ends at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy import Connection

from unisono.api.context import ANSWER_S, ApiContext, context_of
from unisono.base.errors import Forbidden, TooMany, Unavailable
from unisono.base.problems import Unauthenticated
from unisono.store import keys, organisations

# What a key may do; ``admin`` manages the keys of its own organisation and does not imply the others.
SCOPES: Final = ("read", "enrol", "dispatch", "admin")
# The organisation that the first start makes is the operator's: only its keys see the whole plant, and only its admin
# keys see and make other organisations.
OPERATOR_NAME: Final = "default"
# Longer tokens are none of ours (47 characters); hashing a header of 64 kB would only be work for an attacker.
TOKEN_CHARS_MAX: Final = 200
# Load balancers and supervisors ask whether we are ready every few seconds and give up about as fast.
READY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Caller:
    """The organisation and key behind a request."""

    organisation_id: str
    key_id: str
    name: str
    scopes: frozenset[str]


async def caller_of_token(context: ApiContext, token: str, timeout_s: float = ANSWER_S) -> Caller:
    """Return the caller behind a token that is good now."""
    if len(token) > TOKEN_CHARS_MAX or not token.isascii():
        raise Unauthenticated("is no key of this service")
    key = await context.run(lambda connection: keys.find(connection, token), timeout_s)
    if key is None:
        raise Unauthenticated("is no key of this service")
    refusal = key.refusal(context.clock.wall_ns())
    if refusal:
        raise Unauthenticated(f"this key is {refusal}")
    return Caller(key.organisation_id, key.key_id, key.name, frozenset(key.scopes))


_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="Authorization: Bearer uni_...")


async def caller_with(
    request: Request,
    needed: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Caller:
    """Return the caller if the key is good now and holds every needed scope."""
    return await _caller(context_of(request), needed, credentials, ANSWER_S)


async def database_problem(
    request: Request,
    needed: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> str:
    """Return "" when the caller may read, or within READY_S why the database does not say whether it may."""
    try:
        await _caller(context_of(request), needed, credentials, READY_S)
    except (Unavailable, TooMany) as away:
        return str(away)
    return ""


async def _caller(
    context: ApiContext, needed: SecurityScopes, credentials: HTTPAuthorizationCredentials | None, timeout_s: float
) -> Caller:
    if credentials is None:
        raise Unauthenticated("needs the header Authorization: Bearer <key>")
    caller = await caller_of_token(context, credentials.credentials, timeout_s)
    for scope in needed.scopes:
        if scope not in caller.scopes:
            raise Forbidden(f"scope {scope}")
    return caller


def check_operator(connection: Connection, caller: Caller) -> None:
    """Raise Forbidden unless the caller belongs to the operator's organisation."""
    if organisations.get(connection, caller.organisation_id).name != OPERATOR_NAME:
        raise Forbidden(f"a key of the operator's organisation {OPERATOR_NAME!r}, with the same scopes")


async def operator_with(request: Request, caller: Annotated[Caller, Depends(caller_with)]) -> Caller:
    """Return the caller if the key is the operator's: what shows the whole plant shows every organisation's part."""
    await context_of(request).run(lambda connection: check_operator(connection, caller))
    return caller


# For views of the whole plant.
OPERATOR_READS: Final = Security(operator_with, scopes=["read"])
DatabaseProblem = Annotated[str, Security(database_problem, scopes=["read"])]
Reader = Annotated[Caller, Security(caller_with, scopes=["read"])]
Enroller = Annotated[Caller, Security(caller_with, scopes=["enrol"])]
Dispatcher = Annotated[Caller, Security(caller_with, scopes=["dispatch"])]
Admin = Annotated[Caller, Security(caller_with, scopes=["admin"])]
