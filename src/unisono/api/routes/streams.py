"""Live streams as server-sent events: a portfolio's picture, a dispatch's progress, the event log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, Final

import anyio
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import StreamingResponse

from unisono.api import present, present_dispatch
from unisono.api.auth import Reader, caller_of_token
from unisono.api.context import ApiContext, Context
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.base.errors import InvalidInput, TooMany, UnisonoError
from unisono.base.ids import check_id
from unisono.base.instants import NS_PER_S
from unisono.base.problems import Unauthenticated
from unisono.store import dispatches, portfolios, views

router = APIRouter(prefix="/v1/stream", tags=["live streams"], responses=PROBLEM_RESPONSES)

# Proxies cut silent connections after 30-60 s; a comment now and then keeps them, and finds the dead ones.
PING_S: Final = 10.0
# A stream outlives its key's lookup: this long at most after a revocation.
KEY_CHECK_S: Final = 15.0
# The log is polled: a second is as live as a person needs, and one indexed query costs half a millisecond.
EVENTS_POLL_S: Final = 1.0
STREAMS_MAX: Final = 200
EVENTS_PER_POLL: Final = 500

_SSE_EXAMPLE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Server-sent events without an end.",
        "content": {
            "text/event-stream": {"example": 'event: status\nid: 17\ndata: {"dispatchable_capacity_kw": 5200.0}\n\n'}
        },
    }
}


@router.get(
    "/portfolios/{portfolio_id}",
    response_class=StreamingResponse,
    responses=_SSE_EXAMPLE,
    summary="A portfolio's picture at each cycle",
)
async def stream_portfolio(portfolio_id: str, request: Request, caller: Reader, context: Context) -> StreamingResponse:
    """Event ``status``: as GET .../status without the enrolled sums; one at once, then one with each cycle."""
    check_id("portfolio", portfolio_id, "portfolio_id")
    found = await context.run(lambda connection: portfolios.get(connection, caller.organisation_id, portfolio_id))

    async def events() -> AsyncIterator[bytes]:
        version = -1
        while True:
            newest = context.picture.version
            if newest != version:
                version = newest
                picture = context.picture.portfolio(found.portfolio_no)
                yield _event("status", present.sse_status(portfolio_id, picture), str(version))
            elif await context.picture.changed(version, PING_S) == version:
                yield b": still here\n\n"

    return _stream(request, context, events())


@router.get(
    "/dispatches/{dispatch_id}",
    response_class=StreamingResponse,
    responses=_SSE_EXAMPLE,
    summary="A dispatch's progress at each cycle",
)
async def stream_dispatch(dispatch_id: str, request: Request, caller: Reader, context: Context) -> StreamingResponse:
    """Event ``progress``: one shard's newest cycle; event ``end`` and the stream ends when the dispatch is over."""
    check_id("dispatch", dispatch_id, "dispatch_id")
    await context.run(lambda connection: dispatches.get(connection, caller.organisation_id, dispatch_id))

    async def events() -> AsyncIterator[bytes]:
        version = -1
        while True:
            newest = context.picture.version
            if newest != version:
                version = newest
                for progress, age_s in context.picture.dispatch(dispatch_id):
                    shown = present_dispatch.one_progress(progress, age_s).model_dump()
                    yield _event("progress", shown, str(version))
                record = await context.run(lambda c: dispatches.get(c, caller.organisation_id, dispatch_id))
                if record.state in ("completed", "cancelled") and not context.picture.dispatch(dispatch_id):
                    yield _event("end", {"dispatch_id": dispatch_id, "state": record.state}, str(version))
                    return
            elif await context.picture.changed(version, PING_S) == version:
                yield b": still here\n\n"

    return _stream(request, context, events())


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses=_SSE_EXAMPLE,
    summary="The organisation's event log as it grows",
)
async def stream_events(
    request: Request,
    caller: Reader,
    context: Context,
    portfolio_id: Annotated[str | None, Query(description="Only this portfolio's entries.")] = None,
    last_event_id: Annotated[str | None, Header(description="Go on after this seq; without it from now on.")] = None,
) -> StreamingResponse:
    """Event ``event``: one entry of the log, with its seq as id, so that a reconnecting client misses nothing."""
    if last_event_id is not None and not (last_event_id.isdecimal() and len(last_event_id) < 19):
        raise InvalidInput("Last-Event-ID", last_event_id, "must be a seq of the event log")
    if portfolio_id is not None:
        check_id("portfolio", portfolio_id, "portfolio_id")
        await context.run(lambda connection: portfolios.get(connection, caller.organisation_id, portfolio_id))
    if last_event_id is None:
        begin = await context.run(views.newest_event_seq)
    else:
        begin = int(last_event_id)

    async def events() -> AsyncIterator[bytes]:
        after = begin
        silent_s = 0.0
        while True:
            rows = await context.run(
                partial(
                    views.events,
                    organisation_id=caller.organisation_id,
                    portfolio_id=portfolio_id or "",
                    after=after,
                    limit=EVENTS_PER_POLL,
                )
            )
            for row in rows:
                after = row["seq"]
                yield _event("event", present.event(row).model_dump(), str(after))
            if len(rows) < EVENTS_PER_POLL:
                silent_s = 0.0 if rows else silent_s + EVENTS_POLL_S
                if silent_s >= PING_S:
                    silent_s = 0.0
                    yield b": still here\n\n"
                await anyio.sleep(EVENTS_POLL_S)

    return _stream(request, context, events())


def _stream(request: Request, context: ApiContext, events: AsyncIterator[bytes]) -> StreamingResponse:
    if context.n_streams >= STREAMS_MAX:
        raise TooMany("live streams", STREAMS_MAX, retry_after_s=10.0)
    token = request.headers["Authorization"].partition(" ")[2].strip()

    async def guarded() -> AsyncIterator[bytes]:
        checked_ns = context.clock.monotonic_ns()
        context.n_streams += 1
        try:
            yield b"retry: 2000\n\n"
            async for chunk in events:
                now_ns = context.clock.monotonic_ns()
                if now_ns - checked_ns > KEY_CHECK_S * NS_PER_S:
                    await caller_of_token(context, token)
                    checked_ns = now_ns
                yield chunk
        except Unauthenticated as over:
            yield _event("end", {"reason": over.rule}, "")
        except UnisonoError as away:
            # The client reconnects after ``retry``; what it missed of the log comes then, by Last-Event-ID.
            yield _event("end", {"reason": str(away)}, "")
        finally:
            context.n_streams -= 1

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(guarded(), media_type="text/event-stream", headers=headers)


def _event(kind: str, body: dict[str, Any], event_id: str) -> bytes:
    identity = f"id: {event_id}\n" if event_id else ""
    return f"event: {kind}\n{identity}data: ".encode() + present.json_of(body) + b"\n\n"
