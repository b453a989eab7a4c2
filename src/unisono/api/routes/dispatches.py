"""Dispatches: asked for, revised, cancelled; followed live; read afterwards, cycle by cycle."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from unisono.api import present_dispatch as present
from unisono.api.auth import Caller, Dispatcher, Reader
from unisono.api.context import ApiContext, Context
from unisono.api.event_notes import note
from unisono.api.idempotency import Once, RequiredIdempotencyKey
from unisono.api.paging import LIMIT_DEFAULT, Cursor, Limit, decode_cursor, encode_cursor, link_next
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.dispatches import (
    CancelAsked,
    Dispatch,
    DispatchAccepted,
    DispatchAsked,
    DispatchPreview,
    DispatchRevision,
    DispatchWithProgress,
    OutcomeCycle,
)
from unisono.api.schemas.types import Page, Text
from unisono.base.errors import InvalidInput, NotFound
from unisono.base.ids import check_id
from unisono.base.instants import format_rfc3339
from unisono.base.units import kw_of_w
from unisono.model.dispatch import Dispatch as ModelDispatch
from unisono.model.technology import Lifecycle
from unisono.services.ask_shards import preview
from unisono.store import dispatches, listings, portfolios, views
from unisono.store.identity import fresh_id

router = APIRouter(prefix="/v1/vpp", tags=["dispatches"], responses=PROBLEM_RESPONSES)

StateName = Literal["scheduled", "active", "completed", "cancelled"]
# An epoch stands for a change of owner; neither it nor a cycle's number comes near 19 digits.
_CURSOR_PARTS = 3


@router.post(
    "/portfolios/{portfolio_id}/dispatches",
    status_code=201,
    response_model=DispatchAccepted,
    summary="Call a portfolio for power",
)
async def make_dispatch(
    portfolio_id: str,
    asked: DispatchAsked,
    request: Request,
    caller: Dispatcher,
    context: Context,
    idempotency_key: RequiredIdempotencyKey,
) -> Response:
    """Accepted means kept: it is sent to the shards although this process should die now.

    More than the fleet can give is accepted too: ``expected_shortfall_kw`` says how much is not covered, and the
    closed loop gives as much as there is. So is one for an empty portfolio, with a warning.
    """
    check_id("portfolio", portfolio_id, "portfolio_id")

    def work(connection: Connection) -> DispatchAccepted:
        now_ns = context.clock.wall_ns()
        portfolio = _open_portfolio(connection, caller, portfolio_id)
        present.check_asked(asked, now_ns)
        new = present.model_dispatch(
            asked,
            organisation_id=caller.organisation_id,
            portfolio_id=portfolio_id,
            portfolio_no=portfolio.portfolio_no,
            dispatch_id=fresh_id("dispatch", now_ns),
            revision=1,
            now_ns=now_ns,
        )
        reference = asked.partner_reference or ""
        kept = dispatches.create(connection, new, requested_by=caller.key_id, partner_reference=reference)
        accepted = _accepted(connection, context, asked, kept, partner_reference=reference)
        _note_accepted(connection, caller, kept, accepted, "dispatch.requested")
        return accepted

    return await Once(context, caller, request, idempotency_key).answer(work, status=201)


@router.post("/portfolios/{portfolio_id}/dispatches/preview", summary="What such a dispatch would get now")
async def preview_dispatch(
    portfolio_id: str, asked: DispatchAsked, caller: Reader, context: Context
) -> DispatchPreview:
    """Asked of realtime, as if it were in full force now; nothing is kept or sent.

    So are other dispatches that overlap and are as urgent or more so: what they may take is left out.
    """
    check_id("portfolio", portfolio_id, "portfolio_id")
    now_ns = context.clock.wall_ns()
    portfolio = await context.run(lambda connection: _open_portfolio(connection, caller, portfolio_id))
    present.check_asked(asked, now_ns)
    supposed = present.model_dispatch(
        asked,
        organisation_id=caller.organisation_id,
        portfolio_id=portfolio_id,
        portfolio_no=portfolio.portfolio_no,
        dispatch_id=fresh_id("dispatch", now_ns),
        revision=1,
        now_ns=now_ns,
    )
    answer = await preview(context.bus, context.picture, supposed)
    return DispatchPreview(
        as_of=format_rfc3339(answer.at_ns),
        target_kw=kw_of_w(answer.target_w),
        deliverable_kw=kw_of_w(answer.deliverable_w),
        shortfall_kw=kw_of_w(answer.shortfall_w),
        eligible=answer.n_eligible,
        targeted=answer.n_targeted,
        opted_out=answer.n_opted_out,
        silent=answer.n_silent,
        suspect=answer.n_suspect,
        claimed=answer.n_claimed,
    )


@router.get("/dispatches", summary="List dispatches")
async def list_dispatches(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    portfolio_id: Text | None = None,
    state: StateName | None = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Dispatch]:
    """Newest first, each in its newest revision."""
    before = decode_cursor(cursor, int) or None
    found = await context.run(
        lambda connection: listings.dispatches(
            connection,
            caller.organisation_id,
            portfolio_id=portfolio_id,
            state=state,
            before=before,
            limit=limit + 1,
        )
    )
    more = encode_cursor(found[limit - 1].dispatch.dispatch_no) if len(found) > limit else None
    return Page(items=[present.dispatch(one) for one in found[:limit]], next_cursor=link_next(request, response, more))


@router.get("/portfolios/{portfolio_id}/dispatches", summary="List a portfolio's dispatches")
async def list_portfolio_dispatches(
    portfolio_id: str,
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    state: StateName | None = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Dispatch]:
    """As GET /v1/vpp/dispatches, of one portfolio."""
    check_id("portfolio", portfolio_id, "portfolio_id")
    await context.run(lambda connection: portfolios.get(connection, caller.organisation_id, portfolio_id))
    return await list_dispatches(request, response, caller, context, portfolio_id, state, limit, cursor)


@router.get("/dispatches/{dispatch_id}", summary="One dispatch, with its live progress")
async def get_dispatch(dispatch_id: str, caller: Reader, context: Context) -> DispatchWithProgress:
    """The funnel, the power, the shortfall, as the newest cycle of each shard has it."""
    check_id("dispatch", dispatch_id, "dispatch_id")
    stored = await context.run(lambda connection: dispatches.get(connection, caller.organisation_id, dispatch_id))
    return present.dispatch_with_progress(stored, context.picture.dispatch(dispatch_id))


@router.put("/dispatches/{dispatch_id}", response_model=DispatchAccepted, summary="Revise a dispatch")
async def revise_dispatch(
    dispatch_id: str,
    asked: DispatchRevision,
    request: Request,
    caller: Dispatcher,
    context: Context,
    idempotency_key: RequiredIdempotencyKey,
) -> Response:
    """The whole of it again; 409 names the revision that is expected when somebody else was faster.

    Once it runs, its start can't be moved later (422); its end and its targets can.
    """
    check_id("dispatch", dispatch_id, "dispatch_id")

    def work(connection: Connection) -> DispatchAccepted:
        now_ns = context.clock.wall_ns()
        before = dispatches.get(connection, caller.organisation_id, dispatch_id)
        is_open = before.state in ("scheduled", "active")
        present.check_asked(asked, now_ns, before.dispatch.start_ns, is_open=is_open)
        if asked.kind != present.ASKED_OF_EVENT_KIND[before.dispatch.kind]:
            rule = "can't be revised: cancel this dispatch and make another"
            raise InvalidInput("kind", asked.kind, rule)
        new = present.model_dispatch(
            asked,
            organisation_id=caller.organisation_id,
            portfolio_id=before.dispatch.portfolio_id,
            portfolio_no=before.dispatch.portfolio_no,
            dispatch_id=dispatch_id,
            revision=asked.revision,
            now_ns=now_ns,
        )
        kept = dispatches.revise(connection, new, requested_by=caller.key_id)
        accepted = _accepted(
            connection, context, asked, kept, partner_reference=before.partner_reference, state=before.state
        )
        _note_accepted(connection, caller, kept, accepted, "dispatch.revised")
        return accepted

    return await Once(context, caller, request, idempotency_key).answer(work, status=200)


@router.post("/dispatches/{dispatch_id}/cancel", response_model=Dispatch, summary="Call a dispatch off")
async def cancel_dispatch(
    dispatch_id: str,
    asked: CancelAsked,
    request: Request,
    caller: Dispatcher,
    context: Context,
    idempotency_key: RequiredIdempotencyKey,
) -> Response:
    """Cancelled is a state: nothing is deleted. Its devices return to normal with the next cycle."""
    check_id("dispatch", dispatch_id, "dispatch_id")

    def work(connection: Connection) -> Dispatch:
        now_ns = context.clock.wall_ns()
        before = dispatches.get(connection, caller.organisation_id, dispatch_id)
        kept = dispatches.cancel(
            connection,
            caller.organisation_id,
            dispatch_id,
            now_ns,
            reason=asked.reason or "",
            requested_by=caller.key_id,
        )
        if kept.revision != before.dispatch.revision:
            note(
                connection,
                caller,
                now_ns,
                "dispatch.cancel_requested",
                portfolio_id=kept.portfolio_id,
                subject_id=dispatch_id,
                revision=kept.revision,
                reason=kept.reason,
            )
        return Dispatch(**present.dispatch_fields(kept, "cancelled", before.partner_reference))

    return await Once(context, caller, request, idempotency_key).answer(work, status=200)


@router.get("/dispatches/{dispatch_id}/outcome", summary="What came of it, cycle by cycle")
async def get_outcome(
    dispatch_id: str,
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Annotated[str | None, Query(max_length=200, description="next_cursor of the page before.")] = None,
) -> Page[OutcomeCycle]:
    """As recorded: one entry a cycle and shard, with counts, powers, and the digest of its command frames."""
    check_id("dispatch", dispatch_id, "dispatch_id")
    after = _cycle_key(decode_cursor(cursor, str))

    def work(connection: Connection) -> list[present.Row]:
        stored = dispatches.get(connection, caller.organisation_id, dispatch_id)
        return list(views.dispatch_cycles(connection, stored.dispatch.dispatch_no, after=after, limit=limit + 1))

    rows = await context.run(work)
    more = None
    if len(rows) > limit:
        last = rows[limit - 1]
        more = encode_cursor(f"{last['epoch']}.{last['cycle']}.{last['shard']}")
    items = [present.outcome_cycle(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=link_next(request, response, more))


def _open_portfolio(connection: Connection, caller: Caller, portfolio_id: str) -> portfolios.Portfolio:
    found = portfolios.get(connection, caller.organisation_id, portfolio_id)
    if found.retired_ns is not None:
        raise NotFound("portfolio", portfolio_id)
    return found


def _accepted(
    connection: Connection,
    context: ApiContext,
    asked: DispatchAsked,
    kept: ModelDispatch,
    *,
    partner_reference: str,
    state: str = "scheduled",
) -> DispatchAccepted:
    """Return the answer to an accepted dispatch: what is not covered by what can be counted on, and what to know."""
    picture = context.picture.portfolio(kept.portfolio_no)
    members = views.enrolled(connection, kept.organisation_id, kept.portfolio_no)
    n_active = sum(row["n_devices"] for row in members if row["lifecycle"] == Lifecycle.ACTIVE)
    warnings = []
    if not members:
        warnings.append("the portfolio is empty: nothing will be moved")
    elif not n_active:
        warnings.append("the portfolio has no active device: nothing will be moved")
    n_rivals, claimed_w = _claimed_w(connection, kept)
    if n_rivals:
        warnings.append(
            f"other dispatches in that time ({n_rivals}) may take the same devices: what they may is left out"
        )
    shortfall_kw = present.expected_shortfall_kw(asked, picture.totals, claimed_w)
    if shortfall_kw is None and not n_active:
        shortfall_kw = present.uncovered_kw(asked)
    if picture.stale_reason and n_active:
        warnings.append(f"the expected shortfall is uncertain: {picture.stale_reason}")
    if shortfall_kw:
        warnings.append(f"{shortfall_kw:g} kW of the target are more than can be counted on now")
    fields = present.dispatch_fields(kept, state, partner_reference)
    return DispatchAccepted(
        **fields,
        expected_shortfall_kw=shortfall_kw,
        expected_shortfall_basis=present.SHORTFALL_BASIS,
        warnings=warnings,
    )


def _claimed_w(connection: Connection, kept: ModelDispatch) -> tuple[int, tuple[float, float]]:
    """Return how many others may take devices from ``kept``, and how much upwards and downwards."""
    others = [one.dispatch for one in listings.rivals(connection, kept)]
    shared_w = listings.shared_w(connection, kept.portfolio_no, {one.portfolio_no for one in others}) if others else {}
    claims_w = [present.claim_w(one, shared_w[one.portfolio_no]) for one in others if one.portfolio_no in shared_w]
    return len(claims_w), (sum(up_w for up_w, _ in claims_w), sum(down_w for _, down_w in claims_w))


def _note_accepted(
    connection: Connection, caller: Caller, kept: ModelDispatch, accepted: DispatchAccepted, kind: str
) -> None:
    note(
        connection,
        caller,
        kept.requested_ns,
        kind,
        portfolio_id=kept.portfolio_id,
        subject_id=kept.dispatch_id,
        revision=kept.revision,
        dispatch_kind=accepted.kind,
        start=accepted.start,
        end=accepted.end,
        targets=[[target.interval_start, target.power_kw] for target in accepted.targets],
        test=kept.is_test,
        reason=kept.reason,
        expected_shortfall_kw=accepted.expected_shortfall_kw,
    )


def _cycle_key(cursor: str) -> tuple[int, int, int]:
    """Return (epoch, cycle, shard) behind which a page begins; below all without a cursor."""
    if not cursor:
        return -1, -1, -1
    parts = cursor.split(".")
    if len(parts) != _CURSOR_PARTS or not all(part.isdecimal() and len(part) < 19 for part in parts):
        raise InvalidInput("cursor", cursor, "is no cursor of this list")
    epoch, cycle, shard = map(int, parts)
    return epoch, cycle, shard
