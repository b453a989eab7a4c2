"""Sites and gateways."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from unisono.api import present
from unisono.api.auth import Enroller, Reader
from unisono.api.context import Context
from unisono.api.event_notes import note
from unisono.api.idempotency import IdempotencyKey, Once
from unisono.api.paging import LIMIT_DEFAULT, Cursor, Limit, decode_cursor, encode_cursor, link_next
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.fleet import Gateway, GatewaySecret, Site
from unisono.api.schemas.types import Page
from unisono.base.ids import check_id
from unisono.store import gateways, keys, listings, views

router = APIRouter(prefix="/v1", tags=["sites and gateways"], responses=PROBLEM_RESPONSES)


@router.get("/sites", summary="List sites")
async def list_sites(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Site]:
    """Sites of the organisation, in the order in which they were enrolled."""
    after = decode_cursor(cursor, int)
    rows = await context.run(
        lambda connection: views.sites(connection, caller.organisation_id, after=after, limit=limit + 1)
    )
    more = encode_cursor(rows[limit - 1]["site_no"]) if len(rows) > limit else None
    return Page(items=[present.site(row) for row in rows[:limit]], next_cursor=link_next(request, response, more))


@router.get("/sites/{site_id}", summary="One site")
async def get_site(site_id: str, caller: Reader, context: Context) -> Site:
    """A place with its connection point's devices counted."""
    check_id("site", site_id, "site_id")
    return present.site(await context.run(lambda connection: views.site(connection, caller.organisation_id, site_id)))


@router.get("/gateways", summary="List gateways")
async def list_gateways(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Gateway]:
    """Gateways of the organisation, in the order in which they were enrolled."""
    after = decode_cursor(cursor, int)
    found = await context.run(
        lambda connection: listings.gateways(connection, caller.organisation_id, after=after, limit=limit + 1)
    )
    more = encode_cursor(found[limit - 1].record.gateway_no) if len(found) > limit else None
    return Page(items=[present.gateway(one) for one in found[:limit]], next_cursor=link_next(request, response, more))


@router.get("/gateways/{gateway_id}", summary="One gateway")
async def get_gateway(gateway_id: str, caller: Reader, context: Context) -> Gateway:
    """A gateway, without its secret."""
    check_id("gateway", gateway_id, "gateway_id")
    return present.gateway(
        await context.run(lambda connection: listings.gateway(connection, caller.organisation_id, gateway_id))
    )


@router.post(
    "/gateways/{gateway_id}/rotate-secret",
    response_model=GatewaySecret,
    summary="Give a gateway a new secret, shown once",
)
async def rotate_secret(
    gateway_id: str, request: Request, caller: Enroller, context: Context, idempotency_key: IdempotencyKey = None
) -> Response:
    """The old secret is refused as soon as the fronts have heard of it; a revoked gateway is let in again."""
    check_id("gateway", gateway_id, "gateway_id")

    def work(connection: Connection) -> GatewaySecret:
        secret = secrets.token_urlsafe(32)
        now_ns = context.clock.wall_ns()
        gateways.set_secret(connection, caller.organisation_id, gateway_id, keys.digest(secret), now_ns)
        note(connection, caller, now_ns, "gateway.secret_rotated", subject_id=gateway_id)
        return GatewaySecret(gateway_id=gateway_id, gateway_secret=secret)

    once = Once(context, caller, request, idempotency_key)
    return await once.answer(work, status=200, hidden=("gateway_secret",))


@router.post("/gateways/{gateway_id}/revoke", summary="Shut a gateway out")
async def revoke_gateway(gateway_id: str, caller: Enroller, context: Context) -> Gateway:
    """It is refused as soon as the fronts have heard of it; rotating its secret lets it in again."""
    check_id("gateway", gateway_id, "gateway_id")

    def work(connection: Connection) -> Gateway:
        now_ns = context.clock.wall_ns()
        was_revoked = listings.gateway(connection, caller.organisation_id, gateway_id).record.is_revoked
        gateways.revoke(connection, caller.organisation_id, gateway_id, now_ns)
        if not was_revoked:
            note(connection, caller, now_ns, "gateway.revoked", subject_id=gateway_id)
        return present.gateway(listings.gateway(connection, caller.organisation_id, gateway_id))

    return await context.run(work)
