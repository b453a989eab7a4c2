"""What was measured: a device's readings and quarter-hours, a portfolio's quarter-hours, out of the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from unisono.api.auth import Reader
from unisono.api.context import ApiContext, Context, HistoryReader
from unisono.api.paging import LIMIT_DEFAULT, Limit
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.routes.devices import device_and_window, missing_of, window_of
from unisono.api.schemas.history import DeviceRollup, PortfolioQuarter, PortfolioRollup, Quarter, Reading, Readings
from unisono.api.schemas.types import Instant, frac, instant_text, kw, kwh, milli
from unisono.base.errors import Unavailable
from unisono.base.ids import check_id
from unisono.base.instants import format_rfc3339
from unisono.model.technology import ReadingKind, SourceKind
from unisono.store import portfolios

T = TypeVar("T")

router = APIRouter(prefix="/v1", tags=["history"], responses=PROBLEM_RESPONSES)

Start = Annotated[Instant | None, Query(description="Default: a day before end.")]
End = Annotated[Instant | None, Query(description="Default: now.")]


@router.get("/devices/{device_id}/readings", summary="What a device measured")
async def device_readings(
    device_id: str,
    caller: Reader,
    context: Context,
    start: Start = None,
    end: End = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Readings:
    """The first ``limit`` readings measured in [start, end); ask again with start behind the last one."""
    found, window = await device_and_window(context, caller, device_id, (start, end))
    device_no = found.record.device_no
    rows = await _rows(context, lambda history: history.device_readings(device_no, *window, limit))
    return Readings(device_id=device_id, items=[_reading(row) for row in rows], **await _frame(context, window))


@router.get("/devices/{device_id}/rollup", summary="A device by quarter-hours")
async def device_rollup(
    device_id: str,
    caller: Reader,
    context: Context,
    start: Start = None,
    end: End = None,
    limit: Limit = LIMIT_DEFAULT,
) -> DeviceRollup:
    """The first ``limit`` quarter-hours that begin in [start, end), by source."""
    found, window = await device_and_window(context, caller, device_id, (start, end))
    device_no = found.record.device_no
    rows = await _rows(context, lambda history: history.device_rollup(device_no, *window, limit))
    return DeviceRollup(device_id=device_id, items=[_quarter(row) for row in rows], **await _frame(context, window))


@router.get("/vpp/portfolios/{portfolio_id}/rollup", summary="A portfolio by quarter-hours")
async def portfolio_rollup(
    portfolio_id: str, caller: Reader, context: Context, start: Start = None, end: End = None
) -> PortfolioRollup:
    """Sums over the present members, for each quarter-hour of [start, end) in which any of them has readings."""
    check_id("portfolio", portfolio_id, "portfolio_id")
    window = window_of(context.clock.wall_ns(), (start, end))

    def member_nos(connection: Connection) -> list[int]:
        found = portfolios.get(connection, caller.organisation_id, portfolio_id)
        return portfolios.members(connection, found.portfolio_no)

    members = await context.run(member_nos)
    rows = await _rows(context, lambda history: history.portfolio_rollup(members, *window))
    items = [_portfolio_quarter(row) for row in rows]
    frame = await _frame(context, window)
    return PortfolioRollup(portfolio_id=portfolio_id, n_members=len(members), items=items, **frame)


async def _rows(context: ApiContext, ask: Callable[[HistoryReader], T]) -> T:
    """Return what history answers; raises Unavailable where there is none."""
    history = context.history
    if history is None:
        raise Unavailable("history", "this process has no access to it")
    return await context.in_thread(lambda: ask(history))


async def _frame(context: ApiContext, window: tuple[int, int]) -> dict[str, Any]:
    """Return what every answer says beside its items: the window, and what history can't answer of it yet."""
    through_ns = await _rows(context, lambda history: history.through_ns("readings"))
    return {
        "interval_start": format_rfc3339(window[0]),
        "interval_end": format_rfc3339(window[1]),
        "missing": missing_of(through_ns, window[1]),
    }


def _reading(row: dict[str, Any]) -> Reading:
    kind = ReadingKind(row["reading_kind"])
    energy_kwh = kwh(row["energy_wh"])
    return Reading(
        measured_at=instant_text(row["measured_ns"]),
        known_at=instant_text(row["known_ns"]),
        source=SourceKind(row["source_kind"]).name.lower(),
        kind=kind.name.lower(),
        power_kw=kw(row["power_w"]),
        interval_start=instant_text(row["interval_start_ns"]),
        energy_kwh=None if kind is ReadingKind.REGISTER else energy_kwh,
        register_kwh=energy_kwh if kind is ReadingKind.REGISTER else None,
        soc_frac=frac(row["soc_frac"]),
        temperature_degc=milli(row["temperature_degc"]),
        voltage_v=milli(row["voltage_v"]),
        status=row["status"],
    )


def _quarter(row: dict[str, Any]) -> Quarter:
    return Quarter(
        interval_start=instant_text(row["interval_start_ns"]),
        interval_end=instant_text(row["interval_end_ns"]),
        source=SourceKind(row["source_kind"]).name.lower(),
        power_mean_kw=kw(row["power_mean_w"]),
        power_min_kw=kw(row["power_min_w"]),
        power_max_kw=kw(row["power_max_w"]),
        energy_kwh=kwh(row["energy_wh"]),
        energy_is_metered=row["energy_is_metered"],
        n_readings=row["n"],
        coverage_frac=frac(row["coverage_frac"]),
    )


def _portfolio_quarter(row: dict[str, Any]) -> PortfolioQuarter:
    return PortfolioQuarter(
        interval_start=instant_text(row["interval_start_ns"]),
        interval_end=instant_text(row["interval_end_ns"]),
        power_mean_kw=kw(row["power_mean_w"]),
        energy_kwh=kwh(row["energy_wh"]),
        n_devices=row["n_devices"],
        coverage_frac=frac(row["coverage_frac"]),
    )
