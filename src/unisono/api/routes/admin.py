"""Keys and organisations."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from unisono.api import present
from unisono.api.auth import OPERATOR_NAME, Admin, check_operator
from unisono.api.context import Context
from unisono.api.event_notes import note
from unisono.api.idempotency import IdempotencyKey, Once
from unisono.api.paging import LIMIT_DEFAULT, Cursor, Limit, decode_cursor, encode_cursor, link_next
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.admin import Key, KeyAsked, KeyMade, Organisation, OrganisationAsked
from unisono.api.schemas.types import Page, instant_text
from unisono.base.errors import Forbidden, InvalidInput
from unisono.base.ids import check_id
from unisono.base.instants import format_rfc3339
from unisono.store import keys, listings, organisations

router = APIRouter(prefix="/v1", tags=["administration"], responses=PROBLEM_RESPONSES)


@router.post("/keys", status_code=201, response_model=KeyMade, summary="Make a key; its secret is shown once")
async def make_key(
    asked: KeyAsked, request: Request, caller: Admin, context: Context, idempotency_key: IdempotencyKey = None
) -> Response:
    """The operator's admins may make keys for any organisation, others for their own, with scopes that they hold."""

    def work(connection: Connection) -> KeyMade:
        organisation_id = caller.organisation_id
        if asked.organisation_id is not None and asked.organisation_id != caller.organisation_id:
            check_operator(connection, caller)
            organisation_id = organisations.get(connection, asked.organisation_id).organisation_id
        elif not caller.scopes.issuperset(asked.scopes):
            raise Forbidden("every scope that it gives to another key")
        now_ns = context.clock.wall_ns()
        if asked.expires_at is not None and asked.expires_at <= now_ns:
            raise InvalidInput("expires_at", format_rfc3339(asked.expires_at), "must be in the future")
        key, token = keys.make(
            connection, organisation_id, asked.name, asked.scopes, now_ns, expires_at_ns=asked.expires_at
        )
        shown = present.key(key)
        # Whose access it is has it on record, and so has who gave it.
        for owner in dict.fromkeys((organisation_id, caller.organisation_id)):
            note(
                connection,
                caller,
                now_ns,
                "key.created",
                organisation_id=owner,
                subject_id=key.key_id,
                of_organisation_id=organisation_id,
                name=key.name,
                scopes=shown.scopes,
                expires_at=shown.expires_at,
            )
        return KeyMade(**shown.model_dump(), secret=token)

    once = Once(context, caller, request, idempotency_key)
    return await once.answer(work, status=201, hidden=("secret",))


@router.get("/keys", summary="List keys, without secrets")
async def list_keys(
    request: Request,
    response: Response,
    caller: Admin,
    context: Context,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Key]:
    """Keys of the caller's organisation, oldest first; revoked ones stay in the list."""
    after = decode_cursor(cursor, str)
    found = await context.run(
        lambda connection: listings.keys(connection, caller.organisation_id, after=after, limit=limit + 1)
    )
    more = encode_cursor(found[limit - 1].key_id) if len(found) > limit else None
    return Page(items=[present.key(key) for key in found[:limit]], next_cursor=link_next(request, response, more))


@router.post("/keys/{key_id}/revoke", summary="Revoke a key, at once and for good")
async def revoke_key(key_id: str, caller: Admin, context: Context) -> Key:
    """The next request with this key is refused; revoking it again changes nothing."""
    check_id("key", key_id, "key_id")

    def work(connection: Connection) -> Key:
        now_ns = context.clock.wall_ns()
        before = keys.locked(connection, caller.organisation_id, key_id)
        revoked = keys.revoke(connection, caller.organisation_id, key_id, now_ns)
        if before.revoked_at_ns is None:
            note(connection, caller, now_ns, "key.revoked", subject_id=key_id, name=revoked.name)
        return present.key(revoked)

    return await context.run(work)


@router.post("/organisations", status_code=201, response_model=Organisation, summary="Make an organisation")
async def make_organisation(
    asked: OrganisationAsked, request: Request, caller: Admin, context: Context, idempotency_key: IdempotencyKey = None
) -> Response:
    """For the operator's admins only."""

    def work(connection: Connection) -> Organisation:
        check_operator(connection, caller)
        now_ns = context.clock.wall_ns()
        made = organisations.add(connection, asked.name, now_ns)
        note(connection, caller, now_ns, "organisation.created", subject_id=made.organisation_id, name=made.name)
        return _organisation(made)

    return await Once(context, caller, request, idempotency_key).answer(work, status=201)


@router.get("/organisations", summary="List organisations")
async def list_organisations(
    request: Request,
    response: Response,
    caller: Admin,
    context: Context,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Organisation]:
    """The operator's admins see all, others their own."""
    after = decode_cursor(cursor, str)

    def work(connection: Connection) -> list[organisations.Organisation]:
        own = organisations.get(connection, caller.organisation_id)
        if own.name != OPERATOR_NAME:
            return [own] if own.organisation_id > after else []
        return organisations.listed(connection, after, limit + 1)

    found = await context.run(work)
    more = encode_cursor(found[limit - 1].organisation_id) if len(found) > limit else None
    return Page(items=[_organisation(one) for one in found[:limit]], next_cursor=link_next(request, response, more))


def _organisation(one: organisations.Organisation) -> Organisation:
    return Organisation(organisation_id=one.organisation_id, name=one.name, created_at=instant_text(one.created_ns))
