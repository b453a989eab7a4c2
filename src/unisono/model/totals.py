"""What a shard says of itself each cycle (``totals.<shard>``) and row by row on request (``query.<shard>``)."""

from __future__ import annotations

import msgspec

from unisono.model.dispatch import DispatchProgress
from unisono.model.ingest import IngestCounters


class PortfolioTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a portfolio's members on one shard. ``n_by_trust`` is indexed by Trust, the maps by Technology."""

    portfolio_no: int
    n_devices: int
    n_by_trust: tuple[int, ...]
    n_by_lifecycle: tuple[int, ...]
    n_by_technology: dict[int, int]
    enrolled_export_w_by_technology: dict[int, float]
    power_w: float
    power_sd_w: float
    # Four-level truth: commanded, acknowledged, reported, measured; sums over devices where the level is known.
    commanded_w: float
    acknowledged_w: float
    reported_w: float
    measured_w: float
    # Members known at each of those levels: a level that nobody is known at is unknown, not zero.
    n_by_level: tuple[int, int, int, int]
    # What the members can do next cycle beyond their reference, all limits held, whatever their trust.
    up_w: float
    down_w: float
    # Conservative lower bound: only what is fresh or leased, held for dispatchable_hold_s.
    dispatchable_up_w: float
    dispatchable_down_w: float
    dispatchable_hold_s: float
    energy_up_wh: float
    energy_down_wh: float
    # Share of ACTIVE members that are fresh.
    completeness_frac: float


class ShardTotals(msgspec.Struct, frozen=True, kw_only=True):
    """One cycle of one shard. ``n_by_trust`` is indexed by Trust; up and down are beyond the reference, next cycle."""

    shard: int
    epoch: int
    cycle: int
    at_ns: int
    cycle_ms: float
    n_devices: int
    n_by_trust: tuple[int, ...]
    power_w: float
    up_w: float
    down_w: float
    readings_seq: int
    portfolios: tuple[PortfolioTotals, ...]
    dispatches: tuple[DispatchProgress, ...]
    # Taken every few seconds; None in the cycles between.
    ingest: IngestCounters | None


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """The present picture of one device: four-level truth, trust, envelope. None means unknown, never zero."""

    device_no: int
    device_id: str
    technology: int
    lifecycle: int
    trust: int
    at_ns: int
    age_s: float | None
    commanded_w: float | None
    acknowledged_w: float | None
    reported_w: float | None
    measured_w: float | None
    power_w: float | None
    power_sd_w: float | None
    # Where it is taken to be: as read, or on its way to what it accepted as long as no reading can show it.
    expected_w: float | None
    reference_w: float | None
    reference_method: int
    soc_frac: float | None
    temperature_degc: float | None
    up_w: float
    down_w: float
    hold_up_s: float
    hold_down_s: float
    lease_seq: int
    lease_expires_ns: int
    last_ack_code: int | None
    dispatch_no: int
    clock_skew_s: float | None
    suspect_reason: str = ""


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing decided or noticed, for the hash-chained event log; ``body`` holds plain JSON values."""

    at_ns: int
    kind: str
    organisation_id: str
    portfolio_id: str = ""
    subject_id: str = ""
    body: dict[str, object] = {}


class OutcomeBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A cycle's dispatch rows and log entries on ``outcomes.<shard>.<epoch>``; (shard, epoch, cycle) identifies it."""

    shard: int
    epoch: int
    cycle: int
    at_ns: int
    progress: tuple[DispatchProgress, ...]
    log: tuple[LogEntry, ...]
