"""Devices: what is enrolled, what realtime knows of each, what was commanded, how reliably it is heard."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from unisono.api import present
from unisono.api.auth import Caller, Dispatcher, Reader
from unisono.api.context import ApiContext, Context
from unisono.api.idempotency import IdempotencyKey, Once
from unisono.api.paging import LIMIT_DEFAULT, Cursor, Limit, decode_cursor, encode_cursor, link_next
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.fleet import (
    CommandLog,
    CommandLogEntry,
    Connectivity,
    Device,
    DeviceDetail,
    OptOut,
    OptOutAsked,
)
from unisono.api.schemas.types import AssetType, Instant, Page, Text, instant_text, kw
from unisono.base.errors import InvalidInput, Unavailable
from unisono.base.ids import check_id, shard_of_site
from unisono.base.instants import NS_PER_MS, NS_PER_S, format_rfc3339
from unisono.model.queries import DevicePage, DeviceQuery, DeviceStates
from unisono.model.technology import TECHNOLOGY_OF_ASSET_TYPE, AckCode, CommandKind, Lifecycle, Trust
from unisono.model.totals import DeviceState
from unisono.services.ask_shards import page_of_devices
from unisono.services.picture import ask
from unisono.store import devices, listings, portfolios, views
from unisono.store.identity import fresh_id
from unisono.store.listings import DeviceChoice, StoredDevice

router = APIRouter(prefix="/v1", tags=["devices"], responses=PROBLEM_RESPONSES)

LifecycleName = Literal["declared", "commissioning", "active", "suspended", "retired"]
TrustName = Literal["unknown", "fresh", "stale", "silent", "suspect"]
# Without a stated start: a day, which covers the event that somebody asks about.
LOG_DEFAULT_S = 86_400
# History answers one device's week in well under a second; months are for its own query tools.
LOG_MAX_S = 31 * 86_400
OPT_OUT_MAX_S = 366 * 86_400


@router.get("/devices", summary="List devices")
async def list_devices(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    asset_type: AssetType | None = None,
    lifecycle: LifecycleName | None = None,
    vendor: Text | None = None,
    node_path_prefix: Text | None = None,
    partner_reference: Text | None = None,
    site_id: Text | None = None,
    gateway_id: Text | None = None,
    portfolio_id: Text | None = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[Device]:
    """Devices that meet every filter given, in the order in which they were enrolled."""
    after = decode_cursor(cursor, int)
    choice = DeviceChoice(
        technology=None if asset_type is None else int(TECHNOLOGY_OF_ASSET_TYPE[asset_type]),
        lifecycle=None if lifecycle is None else int(Lifecycle[lifecycle.upper()]),
        vendor=vendor,
        node_path_prefix=node_path_prefix,
        site_id=site_id,
        gateway_id=gateway_id,
        portfolio_id=portfolio_id,
        partner_reference=partner_reference,
    )
    now_ns = context.clock.wall_ns()

    found = await context.run(
        lambda connection: listings.devices(
            connection, caller.organisation_id, now_ns, choice, after=after, limit=limit + 1
        )
    )
    more = encode_cursor(found[limit - 1].record.device_no) if len(found) > limit else None
    return Page(items=[present.device(one) for one in found[:limit]], next_cursor=link_next(request, response, more))


@router.get("/devices/states", summary="Realtime's picture of many devices")
async def list_device_states(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    portfolio_id: Text | None = None,
    asset_type: AssetType | None = None,
    trust: TrustName | None = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[dict[str, Any]]:
    """Each item is a device's id and number with what GET /v1/devices/{id} shows under ``now``."""
    after = decode_cursor(cursor, int)
    portfolio_no = -1
    if portfolio_id is not None:
        check_id("portfolio", portfolio_id, "portfolio_id")
        found = await context.run(lambda connection: portfolios.get(connection, caller.organisation_id, portfolio_id))
        portfolio_no = found.portfolio_no
    query = DevicePage(
        organisation_id=caller.organisation_id,
        portfolio_no=portfolio_no,
        technology=-1 if asset_type is None else int(TECHNOLOGY_OF_ASSET_TYPE[asset_type]),
        trust=-1 if trust is None else int(Trust[trust.upper()]),
        after=after,
        limit=limit,
    )
    answer = await page_of_devices(context.bus, context.picture.n_shards, query)
    more = encode_cursor(answer.states[-1].device_no) if answer.has_more and answer.states else None
    items = [
        {"device_id": state.device_id, "device_no": state.device_no, **present.device_now(state).model_dump()}
        for state in answer.states
    ]
    return Page(items=items, next_cursor=link_next(request, response, more))


@router.get("/devices/{device_id}", summary="One device, with its four-level truth")
async def get_device(device_id: str, caller: Reader, context: Context) -> DeviceDetail:
    """What is enrolled, and under ``now`` what realtime knows; ``now_missing_reason`` says why that is null."""
    now_ns = context.clock.wall_ns()
    check_id("device", device_id, "device_id")

    def work(connection: Connection) -> tuple[StoredDevice, list[str]]:
        found = listings.device(connection, caller.organisation_id, device_id, now_ns)
        return found, listings.portfolio_ids_of_device(connection, caller.organisation_id, found.record.device_no)

    found, portfolio_ids = await context.run(work)
    state, reason = await _state_of(context, found)
    return present.device_detail(found, portfolio_ids, state, reason)


@router.get("/devices/{device_id}/opt-outs", summary="A device's opt-outs that are not over")
async def list_opt_outs(device_id: str, caller: Reader, context: Context) -> Page[OptOut]:
    """In force and coming ones, by their start."""
    check_id("device", device_id, "device_id")

    def work(connection: Connection) -> list[OptOut]:
        device_no = devices.numbers_of_ids(connection, caller.organisation_id, [device_id])[0]
        rows = views.opt_outs(connection, caller.organisation_id, device_no, context.clock.wall_ns())
        return [_opt_out(row["request_id"], device_id, (row["start_ns"], row["end_ns"]), row["reason"]) for row in rows]

    return Page(items=await context.run(work))


@router.post(
    "/devices/{device_id}/opt-outs", status_code=201, response_model=OptOut, summary="Leave a device alone for a while"
)
async def make_opt_out(
    device_id: str,
    asked: OptOutAsked,
    request: Request,
    caller: Dispatcher,
    context: Context,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Holds from the next cycle on, also for a dispatch that is under way."""
    check_id("device", device_id, "device_id")

    def work(connection: Connection) -> OptOut:
        now_ns = context.clock.wall_ns()
        if asked.end <= asked.start:
            raise InvalidInput("end", format_rfc3339(asked.end), f"must be after start ({format_rfc3339(asked.start)})")
        if asked.end <= now_ns:
            raise InvalidInput("end", format_rfc3339(asked.end), "must be in the future")
        if asked.end - asked.start > OPT_OUT_MAX_S * NS_PER_S:
            raise InvalidInput("end", format_rfc3339(asked.end), "must be at most 366 days after start")
        word = devices.opt_out(
            connection,
            caller.organisation_id,
            device_id,
            (asked.start, asked.end),
            now_ns,
            request_id=fresh_id("job", now_ns).replace("job_", "opt_"),
            reason=asked.reason or "",
        )
        return _opt_out(word.request_id, device_id, (word.start_ns, word.end_ns), word.reason)

    return await Once(context, caller, request, idempotency_key).answer(work, status=201)


@router.post("/devices/{device_id}/opt-outs/{opt_out_id}/withdraw", summary="Take an opt-out back")
async def withdraw_opt_out(device_id: str, opt_out_id: str, caller: Dispatcher, context: Context) -> OptOut:
    """Its window ends now; withdrawing it again changes nothing."""
    check_id("device", device_id, "device_id")

    def work(connection: Connection) -> OptOut:
        devices.numbers_of_ids(connection, caller.organisation_id, [device_id])
        word = devices.withdraw_opt_out(connection, caller.organisation_id, opt_out_id, context.clock.wall_ns())
        return _opt_out(word.request_id, device_id, (word.start_ns, word.end_ns), word.reason)

    return await context.run(work)


@router.get("/devices/{device_id}/command-log", summary="What a device was told")
async def command_log(
    device_id: str,
    caller: Reader,
    context: Context,
    start: Annotated[Instant | None, Query(description="Default: a day before end.")] = None,
    end: Annotated[Instant | None, Query(description="Default: now.")] = None,
    limit: Limit = LIMIT_DEFAULT,
) -> CommandLog:
    """The newest ``limit`` commands issued in [start, end), oldest first, with their answers.

    ``missing`` says what history can't answer for.
    """
    found, window = await device_and_window(context, caller, device_id, (start, end))
    items: list[CommandLogEntry] = []
    missing = ["command history is not available here"]
    history = context.history
    if history is not None:
        device_no = found.record.device_no
        rows = await context.in_thread(lambda: history.device_commands(device_no, *window, limit))
        missing = missing_of(await context.in_thread(lambda: history.through_ns("commands")), window[1])
        items = [_command(row) for row in rows]
        if len(items) == limit:
            missing.append(f"only the newest {limit} are shown: ask again with end at the first one's instant")
    return CommandLog(
        device_id=device_id,
        interval_start=format_rfc3339(window[0]),
        interval_end=format_rfc3339(window[1]),
        items=items,
        missing=missing,
    )


@router.get("/devices/{device_id}/connectivity", summary="How reliably a device is heard")
async def connectivity(
    device_id: str, caller: Reader, context: Context, start: Instant | None = None, end: Instant | None = None
) -> Connectivity:
    """Readings kept in [start, end) against those its period promises, from history; trust now from realtime.

    The interval begins at the device's enrolment if that is later: nothing from before it is put down to it.
    """
    found, (start_ns, end_ns) = await device_and_window(context, caller, device_id, (start, end))
    window = min(max(start_ns, found.enrolled_ns // NS_PER_MS * NS_PER_MS), end_ns), end_ns
    state, reason = await _state_of(context, found)
    missing = ["reading history is not available here"]
    n_readings: int | None = None
    last_ns = -1
    history = context.history
    if history is not None:
        device_no = found.record.device_no
        n_readings, last_ns = await context.in_thread(lambda: history.device_readings_count(device_no, *window))
        missing = missing_of(await context.in_thread(lambda: history.through_ns("readings")), window[1])
    missing += [f"the present trust: {reason}"] if reason else []
    expected = int((window[1] - window[0]) / NS_PER_S / found.record.telemetry_period_s)
    if state is not None and state.age_s is not None:
        last_ns = max(last_ns, state.at_ns - int(state.age_s * NS_PER_S))
    return Connectivity(
        device_id=device_id,
        interval_start=format_rfc3339(window[0]),
        interval_end=format_rfc3339(window[1]),
        n_readings=n_readings,
        expected_readings=expected,
        completeness_frac=None if n_readings is None or not expected else round(min(n_readings / expected, 1.0), 4),
        last_heard_at=instant_text(last_ns // NS_PER_MS * NS_PER_MS if last_ns > 0 else None),
        trust_now=None if state is None else Trust(state.trust).name.lower(),
        missing=missing,
    )


async def device_and_window(
    context: ApiContext, caller: Caller, device_id: str, asked: tuple[int | None, int | None]
) -> tuple[StoredDevice, tuple[int, int]]:
    """Return the device and the half-open window asked for (default: the last day); raises NotFound, InvalidInput."""
    check_id("device", device_id, "device_id")
    now_ns = context.clock.wall_ns()
    window = window_of(now_ns, asked)
    found = await context.run(lambda connection: listings.device(connection, caller.organisation_id, device_id, now_ns))
    return found, window


def window_of(now_ns: int, asked: tuple[int | None, int | None]) -> tuple[int, int]:
    """Return the half-open window of history asked for; what is left out is a day up to now. Raises InvalidInput."""
    now_ns = now_ns // NS_PER_MS * NS_PER_MS
    end_ns = now_ns if asked[1] is None else asked[1]
    start_ns = end_ns - LOG_DEFAULT_S * NS_PER_S if asked[0] is None else asked[0]
    if end_ns <= start_ns:
        raise InvalidInput("end", format_rfc3339(end_ns), f"must be after start ({format_rfc3339(start_ns)})")
    if end_ns - start_ns > LOG_MAX_S * NS_PER_S:
        raise InvalidInput("start", format_rfc3339(start_ns), f"must be at most {LOG_MAX_S // 86_400} days before end")
    return start_ns, end_ns


async def _state_of(context: ApiContext, found: StoredDevice) -> tuple[DeviceState | None, str | None]:
    """Return realtime's picture of a device, or why there is none."""
    try:
        shard = shard_of_site(found.record.site_id, context.picture.n_shards)
        answer = await ask(context.bus, shard, DeviceQuery(device_no=found.record.device_no))
    except Unavailable as away:
        return None, str(away)
    if isinstance(answer, DeviceStates) and answer.states:
        return answer.states[0], None
    return None, "realtime has not heard of this device yet"


def missing_of(through_ns: int, end_ns: int) -> list[str]:
    """Return what history can't answer yet of a window that ends at ``end_ns``."""
    if through_ns < 0:
        return ["history has not written anything yet"]
    if through_ns < end_ns:
        return [f"history has not yet written anything newer than {format_rfc3339(through_ns)}"]
    return []


def _command(row: dict[str, Any]) -> CommandLogEntry:
    kind = CommandKind(row["kind"])
    is_power = kind in (CommandKind.POWER_SETPOINT, CommandKind.IMPORT_EXPORT_LIMIT)
    return CommandLogEntry(
        at=instant_text(row["at_ns"]),
        epoch=row["epoch"],
        seq=row["seq"],
        kind=kind.name.lower(),
        power_kw=kw(row["value"]) if is_power else None,
        interval_start=instant_text(row["start_ns"]),
        expires_at=instant_text(row["expires_ns"]),
        dispatch_id=row["dispatch_id"],
        answer=None if row["ack_code"] is None else AckCode(row["ack_code"]).name.lower(),
        answered_at=instant_text(row["answered_ns"]),
    )


def _opt_out(opt_out_id: str, device_id: str, window: tuple[int, int], reason: str) -> OptOut:
    return OptOut(
        opt_out_id=opt_out_id,
        device_id=device_id,
        interval_start=format_rfc3339(window[0]),
        interval_end=format_rfc3339(window[1]),
        reason=reason,
    )
