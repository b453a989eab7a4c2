"""Portfolios: made of new assets or of existing devices; their status and their event log."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from unisono.api import present
from unisono.api.auth import Caller, Enroller, Reader
from unisono.api.context import Context
from unisono.api.enrolment.line import line_of_asset
from unisono.api.enrolment.new_devices import NewDevices
from unisono.api.event_notes import note
from unisono.api.idempotency import IdempotencyKey, Once
from unisono.api.paging import LIMIT_DEFAULT, Cursor, Limit, decode_cursor, encode_cursor, link_next
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.portfolios import (
    Asset,
    DeclaredAsset,
    DeviceFilter,
    EventEntry,
    Portfolio,
    PortfolioAsked,
    PortfolioMade,
    PortfolioPatch,
    PortfolioStatus,
)
from unisono.api.schemas.types import Page
from unisono.base.errors import InvalidInput, NotFound
from unisono.base.ids import check_id
from unisono.base.problems import ProblemsFound
from unisono.model.technology import TECHNOLOGY_OF_ASSET_TYPE, Lifecycle
from unisono.store import devices, enrolment, listings, portfolios, views
from unisono.store.enrolment import NewDevice
from unisono.store.listings import DeviceChoice

router = APIRouter(prefix="/v1/vpp/portfolios", tags=["portfolios"], responses=PROBLEM_RESPONSES)


@router.post("", status_code=201, response_model=PortfolioMade, summary="Make a portfolio")
async def make_portfolio(
    asked: PortfolioAsked, request: Request, caller: Enroller, context: Context, idempotency_key: IdempotencyKey = None
) -> Response:
    """``assets`` become declared devices, one site each from the ZIP: enrolled, but 0 dependable until commissioned.

    ``members`` are existing devices, by id or by filter; a filter is resolved now and not again later.
    """
    new = _declared(asked.assets)

    def work(connection: Connection) -> PortfolioMade:
        now_ns = context.clock.wall_ns()
        member_nos = _member_nos(connection, caller, asked.members, "members")
        enrolled = enrolment.enrol(connection, caller.organisation_id, new, now_ns) if new else []
        for at, one in enumerate(enrolled):
            if not one.is_new:
                rule = "is the reference of a device that is enrolled already; name it under members"
                raise InvalidInput(f"assets[{at}].partner_reference", one.partner_reference, rule)
        made = portfolios.create(
            connection,
            caller.organisation_id,
            asked.name,
            now_ns,
            purpose=asked.purpose,
            partner_reference=asked.partner_reference or "",
            device_nos=[*member_nos, *(one.device_no for one in enrolled)],
        )
        note(
            connection,
            caller,
            now_ns,
            "portfolio.created",
            portfolio_id=made.portfolio_id,
            name=made.name,
            n_devices=made.n_devices,
            n_declared=len(enrolled),
        )
        assets = [
            DeclaredAsset(
                device_id=one.device_id,
                site_id=one.site_id,
                partner_reference=one.partner_reference or None,
                asset_type=asset.asset_type,
                lifecycle="declared",
            )
            for one, asset in zip(enrolled, asked.assets, strict=True)
        ]
        return PortfolioMade(**present.portfolio(made).model_dump(), assets=assets)

    return await Once(context, caller, request, idempotency_key).answer(work, status=201)


@router.get("", summary="List portfolios")
async def list_portfolios(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Portfolio]:
    """In the order in which they were made."""
    after = decode_cursor(cursor, int)
    found = await context.run(
        lambda connection: listings.portfolios(connection, caller.organisation_id, after=after, limit=limit + 1)
    )
    more = encode_cursor(found[limit - 1].portfolio_no) if len(found) > limit else None
    return Page(items=[present.portfolio(one) for one in found[:limit]], next_cursor=link_next(request, response, more))


@router.get("/{portfolio_id}", summary="One portfolio")
async def get_portfolio(portfolio_id: str, caller: Reader, context: Context) -> Portfolio:
    """As it is enrolled; its picture is under /status."""
    check_id("portfolio", portfolio_id, "portfolio_id")
    return present.portfolio(
        await context.run(lambda connection: portfolios.get(connection, caller.organisation_id, portfolio_id))
    )


@router.patch("/{portfolio_id}", response_model=Portfolio, summary="Rename a portfolio, let members in and out")
async def change_portfolio(
    portfolio_id: str,
    asked: PortfolioPatch,
    request: Request,
    caller: Enroller,
    context: Context,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Who is in already stays, who is not in leaves unnoticed; a dispatch under way follows with its next cycle."""
    check_id("portfolio", portfolio_id, "portfolio_id")

    def work(connection: Connection) -> Portfolio:
        now_ns = context.clock.wall_ns()
        add = _member_nos(connection, caller, asked.add_members, "add_members")
        remove = _member_nos(connection, caller, asked.remove_members, "remove_members")
        changed = portfolios.change(
            connection, caller.organisation_id, portfolio_id, now_ns, name=asked.name, add=add, remove=remove
        )
        note(
            connection,
            caller,
            now_ns,
            "portfolio.changed",
            portfolio_id=portfolio_id,
            n_asked_in=len(add),
            n_asked_out=len(remove),
            n_devices=changed.n_devices,
        )
        return present.portfolio(changed)

    return await Once(context, caller, request, idempotency_key).answer(work, status=200)


@router.get("/{portfolio_id}/status", summary="What a portfolio has, does, and can be counted on for")
async def get_status(portfolio_id: str, caller: Reader, context: Context) -> PortfolioStatus:
    """Enrolment from the records; power, trust and capability from the newest cycle, with its age.

    Without a picture the powers are null, never 0, and ``stale_reason`` says why.
    """
    check_id("portfolio", portfolio_id, "portfolio_id")

    def work(connection: Connection) -> tuple[portfolios.Portfolio, Sequence[present.Row], Sequence[present.Row]]:
        found = portfolios.get(connection, caller.organisation_id, portfolio_id)
        enrolled = views.enrolled(connection, caller.organisation_id, found.portfolio_no)
        points = views.interconnection(connection, caller.organisation_id, found.portfolio_no)
        return found, enrolled, points

    found, enrolled, points = await context.run(work)
    picture = context.picture.portfolio(found.portfolio_no)
    return present.portfolio_status(portfolio_id, enrolled, points, picture)


@router.get("/{portfolio_id}/events", summary="The portfolio's event log")
async def list_events(
    portfolio_id: str,
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[EventEntry]:
    """What is told of the portfolio, of its dispatches, and of its devices while they are members; oldest first.

    Each entry carries its place and hash in the chain. The last page gives no cursor: ask it again.
    """
    check_id("portfolio", portfolio_id, "portfolio_id")
    after = decode_cursor(cursor, int)

    def work(connection: Connection) -> Sequence[present.Row]:
        portfolios.get(connection, caller.organisation_id, portfolio_id)
        return views.events(connection, caller.organisation_id, portfolio_id=portfolio_id, after=after, limit=limit + 1)

    rows = await context.run(work)
    more = encode_cursor(rows[limit - 1]["seq"]) if len(rows) > limit else None
    return Page(items=[present.event(row) for row in rows[:limit]], next_cursor=link_next(request, response, more))


def _declared(assets: Sequence[Asset]) -> list[NewDevice]:
    """Return the devices that ``assets`` stand for; raises ProblemsFound with every asset's first fault."""
    new, found = [], []
    for at, asset in enumerate(assets):
        try:
            device = NewDevices(seed=b"").of_line(line_of_asset(asset))
            new.append(msgspec.structs.replace(device, partner_reference=asset.partner_reference or ""))
        except InvalidInput as wrong:
            found.append(InvalidInput(f"assets[{at}].{wrong.field}", wrong.value, wrong.rule))
    references = [asset.partner_reference for asset in assets if asset.partner_reference]
    for at, asset in enumerate(assets):
        if asset.partner_reference and references.count(asset.partner_reference) > 1:
            rule = "must be another one for each asset"
            found.append(InvalidInput(f"assets[{at}].partner_reference", asset.partner_reference, rule))
    if found:
        raise ProblemsFound(found)
    return new


def _member_nos(connection: Connection, caller: Caller, members: Sequence[str | DeviceFilter], field: str) -> list[int]:
    """Return the numbers of the devices meant, ids and filters together; raises InvalidInput for an unknown id."""
    ids = {member: at for at, member in reversed(list(enumerate(members))) if isinstance(member, str)}
    try:
        found = set(devices.numbers_of_ids(connection, caller.organisation_id, list(ids)) if ids else ())
    except NotFound as unknown:
        rule = "is no device of this organisation"
        raise InvalidInput(f"{field}[{ids[unknown.ref]}]", unknown.ref, rule) from unknown
    for at, member in enumerate(members):
        if isinstance(member, DeviceFilter):
            _check_portfolio(connection, caller, member, f"{field}[{at}].portfolio_id")
            found.update(listings.device_nos(connection, caller.organisation_id, _choice(member)))
    return sorted(found)


def _check_portfolio(connection: Connection, caller: Caller, asked: DeviceFilter, field: str) -> None:
    if asked.portfolio_id is None:
        return
    try:
        portfolios.get(connection, caller.organisation_id, asked.portfolio_id)
    except NotFound as unknown:
        raise InvalidInput(field, asked.portfolio_id, "is no portfolio of this organisation") from unknown


def _choice(asked: DeviceFilter) -> DeviceChoice:
    return DeviceChoice(
        technology=None if asked.asset_type is None else int(TECHNOLOGY_OF_ASSET_TYPE[asked.asset_type]),
        lifecycle=None if asked.lifecycle is None else int(Lifecycle[asked.lifecycle.upper()]),
        vendor=asked.vendor,
        node_path_prefix=asked.node_path_prefix,
        portfolio_id=asked.portfolio_id,
        every_nth=asked.every_nth or 1,
        with_retired=False,
    )
