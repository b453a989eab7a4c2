"""Answers to questions about a shard: the state of devices, and what would come of a dispatch. Nothing is changed."""

from __future__ import annotations

import numpy as np

from unisono.fleet.columns import I4
from unisono.fleet.snapshot import Snapshot
from unisono.model.queries import PAGE_MAX, Answer, DevicePage, DeviceQuery, DeviceStates, Preview, Query
from unisono.model.totals import DeviceState
from unisono.plant.preview import preview
from unisono.plant.state import PlantState


def answer(state: PlantState, query: Query, now_ns: int, monotonic_ns: int) -> Answer:
    """Return the answer from the newest finished cycle."""
    mono_ns = monotonic_ns + state.mono_shift_ns
    if isinstance(query, Preview):
        return preview(state, query, now_ns, monotonic_ns)
    if isinstance(query, DeviceQuery):
        row = state.fleet.row(query.device_no)
        rows = np.array([row] if row >= 0 else [], np.int32)
        return DeviceStates(at_ns=now_ns, states=_states(state, rows, now_ns, mono_ns))
    return _page(state, query, now_ns, mono_ns)


def device_state(state: PlantState, device_no: int, now_ns: int, monotonic_ns: int) -> DeviceState:
    """Return the state of one device; raises NotFound."""
    return Snapshot(state.fleet, now_ns, monotonic_ns + state.mono_shift_ns).device_no(device_no)


def _states(state: PlantState, rows: I4, now_ns: int, mono_ns: int) -> tuple[DeviceState, ...]:
    snapshot = Snapshot(state.fleet, now_ns, mono_ns)
    return tuple(snapshot.row(row) for row in rows.tolist())


def _page(state: PlantState, query: DevicePage, now_ns: int, mono_ns: int) -> DeviceStates:
    """Return the next devices by number that pass every filter."""
    table = state.fleet
    rows = np.arange(table.n_devices, dtype=np.int32)
    if query.portfolio_no >= 0:
        portfolio = table.portfolios.get(query.portfolio_no)
        rows = rows[:0] if portfolio is None else portfolio.rows
    passes = table.nameplate.device_no[rows] > query.after
    if query.technology >= 0:
        passes &= table.nameplate.technology[rows] == query.technology
    if query.trust >= 0:
        passes &= table.picture.trust[rows] == query.trust
    if query.organisation_id:
        passes &= table.is_of_organisation(query.organisation_id)[rows]
    rows = rows[passes]
    rows = rows[np.argsort(table.nameplate.device_no[rows], kind="stable")]
    limit = min(max(query.limit, 1), PAGE_MAX)
    return DeviceStates(
        at_ns=now_ns, states=_states(state, rows[:limit], now_ns, mono_ns), has_more=bool(rows.size > limit)
    )
