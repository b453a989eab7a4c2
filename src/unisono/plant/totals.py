"""A shard's totals of one cycle."""

from __future__ import annotations

import math

import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.brain.flexibility.firm import DERATE, firm_w
from unisono.fleet.columns import N_COUNTERS
from unisono.fleet.groups import FIRST_LEVEL, FIRST_TRUST, N_VALUES, fleet_sums, portfolio_sums
from unisono.fleet.table import Portfolio
from unisono.model.dispatch import DispatchProgress
from unisono.model.ingest import IngestCounters, no_counts
from unisono.model.technology import Lifecycle, Technology, Trust
from unisono.model.totals import PortfolioTotals, ShardTotals
from unisono.plant.state import PlantState


def shard_totals(state: PlantState, progress: tuple[DispatchProgress, ...], now_ns: int, mono_ns: int) -> ShardTotals:
    """Return the cycle's totals; ``cycle_ms`` and ``readings_seq`` are left for whoever has a clock and a stream."""
    (power_w, up_w, down_w), n_by_trust = fleet_sums(state.fleet)
    return ShardTotals(
        shard=state.shard,
        epoch=state.epoch,
        cycle=state.cycle,
        at_ns=now_ns,
        cycle_ms=0.0,
        n_devices=state.fleet.n_devices,
        n_by_trust=tuple(n_by_trust),
        power_w=power_w,
        up_w=up_w,
        down_w=down_w,
        readings_seq=0,
        portfolios=_portfolios(state, mono_ns),
        dispatches=progress,
        ingest=_ingest(state, now_ns, mono_ns),
    )


def _portfolios(state: PlantState, mono_ns: int) -> tuple[PortfolioTotals, ...]:
    table = state.fleet
    n = table.nameplate.device_no.size
    up_w, down_w = np.zeros(n, np.float32), np.zeros(n, np.float32)
    hold_s = state.config.dispatchable_hold_s
    firm_w(table.n_devices, mono_ns, hold_s, DERATE, table.nameplate, table.picture, table.leases, up_w, down_w)
    sums = portfolio_sums(table, up_w, down_w).tolist()
    return tuple(_one(state, portfolio, row) for portfolio, row in zip(table.portfolios.values(), sums, strict=True))


def _one(state: PlantState, portfolio: Portfolio, sums: list[float]) -> PortfolioTotals:
    (
        power_w, variance, commanded_w, acknowledged_w, reported_w, measured_w, up_w, down_w, firm_up_w, firm_down_w,
        energy_up_wh, energy_down_wh,
    ) = sums[:N_VALUES]  # fmt: skip
    n_active, n_active_fresh = sums[N_VALUES:FIRST_TRUST]
    n_commanded, n_acknowledged, n_reported, n_measured = (int(n) for n in sums[FIRST_LEVEL:])
    constant = state.static_totals.get(portfolio.portfolio_no)
    if constant is None:
        constant = state.static_totals[portfolio.portfolio_no] = _constant(state, portfolio)
    return PortfolioTotals(
        **constant,  # type: ignore[arg-type]  # the values of `_constant`
        n_by_trust=tuple(int(n) for n in sums[FIRST_TRUST : FIRST_TRUST + len(Trust)]),
        power_w=power_w,
        power_sd_w=math.sqrt(variance),
        commanded_w=commanded_w,
        acknowledged_w=acknowledged_w,
        reported_w=reported_w,
        measured_w=measured_w,
        n_by_level=(n_commanded, n_acknowledged, n_reported, n_measured),
        up_w=up_w,
        down_w=down_w,
        dispatchable_up_w=firm_up_w,
        dispatchable_down_w=firm_down_w,
        dispatchable_hold_s=state.config.dispatchable_hold_s,
        energy_up_wh=energy_up_wh,
        energy_down_wh=energy_down_wh,
        completeness_frac=n_active_fresh / n_active if n_active else 0.0,
    )


def _constant(state: PlantState, portfolio: Portfolio) -> dict[str, object]:
    """Return the fields that change only with the registry."""
    nameplate, rows = state.fleet.nameplate, portfolio.rows
    technology, lifecycle = nameplate.technology[rows], nameplate.lifecycle[rows]
    export_w = np.bincount(technology, np.maximum(nameplate.power_max_w[rows], 0.0), len(Technology) + 1)
    n_of = np.bincount(technology, minlength=len(Technology) + 1)
    return {
        "portfolio_no": portfolio.portfolio_no,
        "n_devices": int(rows.size),
        "n_by_lifecycle": tuple(np.bincount(lifecycle, minlength=len(Lifecycle)).tolist()),
        "n_by_technology": {t: int(n) for t, n in enumerate(n_of.tolist()) if n},
        "enrolled_export_w_by_technology": {t: float(export_w[t]) for t, n in enumerate(n_of.tolist()) if n},
    }


def _ingest(state: PlantState, now_ns: int, mono_ns: int) -> IngestCounters | None:
    """Return the counters that are due; None in the cycles between. A cycle that begins a little early is not early."""
    since_s = (mono_ns - state.counters_mono_ns) / NS_PER_S
    if since_s < state.config.counters_every_s - 0.5 * state.config.cycle_s and state.telling.told.size:
        return None
    state.counters_mono_ns = mono_ns
    table = state.fleet
    counts = no_counts(table.n_gateways)
    counts[:, :N_COUNTERS] = table.counters[: table.n_gateways]
    rows, n_gateways = state.telling.due(counts)
    return IngestCounters.of_rows(
        table.gateways.gateway_no[rows],
        counts[rows],
        role="realtime",
        instance=f"shard-{state.shard}",
        run=state.epoch,
        at_ns=now_ns,
        n_gateways=n_gateways,
    )
