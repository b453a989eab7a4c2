"""FleetTable: one stable row a device, its sites and gateways, and portfolios as (overlapping) lists of rows.

Rows are never moved nor reused; a retired device keeps its row. Arrays grow by doubling, so a group of columns must be
taken from the table anew in each cycle and not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from unisono.base.calendar import zone
from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_S
from unisono.fleet.columns import (
    I4,
    I8,
    N_COUNTERS,
    Gateways,
    Leases,
    Nameplate,
    Picture,
    Sites,
    Slots,
    allocate,
    grown,
)
from unisono.model.registry import DeviceRecord, GatewayRecord, PortfolioRecord
from unisono.model.technology import CommandKind

# The kinds that a setpoint in watts can be said in. A device is steered with the first of them that it names.
STEERABLE_KINDS: Final = (
    CommandKind.POWER_SETPOINT,
    CommandKind.IMPORT_EXPORT_LIMIT,
    CommandKind.SHED_LEVEL,
    CommandKind.TEMPERATURE_OFFSET,
)
NOT_CONTROLLABLE: Final = 255
# Slower is not a ramp but a device that does not follow; it also keeps divisions finite.
RAMP_LEAST_W_PER_S: Final = 0.1
# A revision is per thing; the first of each is above this.
NO_REVISION: Final = -1
_NEVER_NS: Final = 2**62
# An asked opt-out is remembered so long after its end: a request may come twice, minutes apart at most.
OPT_OUT_KEPT_S: Final = 24 * 3600


@dataclass(slots=True)
class Portfolio:
    """One portfolio and the rows of its members, ascending; members that are not enrolled yet are waited for."""

    portfolio_no: int
    portfolio_id: str
    organisation_id: str
    revision: int
    device_nos: I4
    rows: I4


@dataclass(slots=True)
class FleetTable:
    """All columns of a shard's fleet; ``version`` grows with every change of who is in it."""

    nameplate: Nameplate = field(default_factory=lambda: allocate(Nameplate, 64))
    slots: Slots = field(default_factory=lambda: allocate(Slots, 64))
    picture: Picture = field(default_factory=lambda: allocate(Picture, 64))
    leases: Leases = field(default_factory=lambda: allocate(Leases, 64))
    sites: Sites = field(default_factory=lambda: allocate(Sites, 64))
    gateways: Gateways = field(default_factory=lambda: allocate(Gateways, 16))
    # (gateway row, COUNTER_NAMES): what became of the readings.
    counters: I8 = field(default_factory=lambda: np.zeros((16, N_COUNTERS), np.int64))
    n_devices: int = 0
    n_sites: int = 0
    n_gateways: int = 1
    version: int = 0
    # -1 where there is no such device here.
    row_of_device: I4 = field(default_factory=lambda: np.full(64, -1, np.int32))
    device_ids: list[str] = field(default_factory=list)
    organisation_ids: list[str] = field(default_factory=list)
    row_of_device_id: dict[str, int] = field(default_factory=dict)
    site_of_no: dict[int, int] = field(default_factory=dict)
    gateway_of_no: dict[int, int] = field(default_factory=lambda: {-1: 0})
    gateway_revisions: dict[int, int] = field(default_factory=dict)
    # Windows [start_ns, end_ns) in which the owner wants the device left alone; only rows that have any.
    opt_outs_of_row: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    # The same by request id, heard during operation: a later registry record does not take them back, the owner does.
    asked_opt_outs_of_row: dict[int, dict[str, tuple[int, int]]] = field(default_factory=dict)
    opt_outs_due_ns: int = 0
    # Time zones of sites; UTC stands for a site without one.
    zones: list[str] = field(default_factory=lambda: ["UTC"])
    # The quarter-hour in which `begin_seasons` looked last; -1: it must look again.
    seasons_looked_at: int = -1
    portfolios: dict[int, Portfolio] = field(default_factory=dict)
    # Membership as compressed rows: the portfolios of a row, as positions in ``portfolios``, are
    # portfolio_of[portfolio_starts[row]:portfolio_starts[row + 1]], ascending.
    portfolio_of: I4 = field(default_factory=lambda: np.empty(0, np.int32))
    portfolio_starts: I4 = field(default_factory=lambda: np.zeros(1, np.int32))

    def upsert_device(self, record: DeviceRecord) -> bool:
        """Enrol the device or replace what is known of it; an old or repeated revision changes nothing (False)."""
        row = self.row(record.device_no)
        if row < 0:
            row = self._new_row(record)
        elif record.revision <= self.nameplate.revision[row]:
            return False
        self.organisation_ids[row] = record.organisation_id
        for name, value in _nameplate_values(record).items():
            getattr(self.nameplate, name)[row] = value
        self.nameplate.site[row] = self._site(record)
        self.nameplate.gateway[row] = gateway = self._gateway(record.gateway_no)
        self.gateways.ttl_max_s[gateway] = max(self.gateways.ttl_max_s[gateway], record.command_ttl_s)
        self.nameplate.zone[row] = self._zone(record.time_zone)
        self.seasons_looked_at = -1
        self._set_opt_outs(row, [(o.start_ns, o.end_ns) for o in record.opt_outs])
        self.version += 1
        return True

    def upsert_gateway(self, record: GatewayRecord) -> bool:
        """Note the gateway; an old or repeated revision changes nothing (False)."""
        if record.revision <= self.gateway_revisions.get(record.gateway_no, NO_REVISION):
            return False
        self.gateway_revisions[record.gateway_no] = record.revision
        self._gateway(record.gateway_no)
        return True

    def upsert_portfolio(self, record: PortfolioRecord) -> bool:
        """Set the portfolio's present members; an old or repeated revision changes nothing (False)."""
        known = self.portfolios.get(record.portfolio_no)
        if known is not None and record.revision <= known.revision:
            return False
        nos = np.array([] if record.is_retired else sorted(set(record.device_nos)), np.int32)
        self.portfolios[record.portfolio_no] = Portfolio(
            portfolio_no=record.portfolio_no,
            portfolio_id=record.portfolio_id,
            organisation_id=record.organisation_id,
            revision=record.revision,
            device_nos=nos,
            rows=np.empty(0, np.int32),
        )
        self.version += 1
        return True

    def index_portfolios(self) -> None:
        """Find every portfolio's rows again; due whenever ``version`` has changed."""
        for portfolio in self.portfolios.values():
            portfolio.rows = self.rows_of(portfolio.device_nos)
        rows = [portfolio.rows for portfolio in self.portfolios.values()]
        member_rows = np.concatenate([np.empty(0, np.int32), *rows])
        portfolios = np.repeat(np.arange(len(rows), dtype=np.int32), [r.size for r in rows])
        self.portfolio_of = portfolios[np.argsort(member_rows, kind="stable")]
        n_of_row = np.bincount(member_rows, minlength=self.n_devices)
        self.portfolio_starts = np.concatenate([[0], np.cumsum(n_of_row)]).astype(np.int32)

    def rows_of(self, device_nos: I4) -> I4:
        """Return the rows of those devices that are here, ascending."""
        inside = device_nos[(device_nos >= 0) & (device_nos < self.row_of_device.size)]
        rows = self.row_of_device[inside]
        return np.sort(rows[rows >= 0])

    def row(self, device_no: int) -> int:
        """Return the row of a device, -1 if it is not here."""
        return int(self.row_of_device[device_no]) if 0 <= device_no < self.row_of_device.size else -1

    def set_opt_out(self, row: int, request_id: str, window: tuple[int, int]) -> bool:
        """Note a request's window [start_ns, end_ns) in which the device is left alone; False if that changes nothing.

        A withdrawal comes under the same id with an earlier end (the start, when the window has not begun). The
        earliest end ever told holds, so a repetition of the request does not bring back what was withdrawn.
        """
        windows = self.asked_opt_outs_of_row.setdefault(row, {})
        known = windows.get(request_id)
        if known is not None and known[1] <= window[1]:
            return False
        windows[request_id] = window
        self.opt_outs_due_ns = 0
        return True

    def refresh_opt_outs(self, now_ns: int) -> None:
        """Set ``is_opted_out`` for the present; does nothing until the next window begins or ends."""
        if now_ns < self.opt_outs_due_ns:
            return
        due_ns = _NEVER_NS
        for row in self.opt_outs_of_row.keys() | self.asked_opt_outs_of_row.keys():
            asked = self.asked_opt_outs_of_row.get(row, {})
            windows = [*self.opt_outs_of_row.get(row, ()), *asked.values()]
            self.picture.is_opted_out[row] = any(start <= now_ns < end for start, end in windows)
            due_ns = min([due_ns, *(edge for window in windows for edge in window if edge > now_ns)])
        self.opt_outs_due_ns = due_ns
        self._forget_opt_outs(now_ns - OPT_OUT_KEPT_S * NS_PER_S)

    def _forget_opt_outs(self, ended_ns: int) -> None:
        """Forget the asked windows that had ended by then."""
        for row, asked in list(self.asked_opt_outs_of_row.items()):
            left = {request_id: window for request_id, window in asked.items() if window[1] > ended_ns}
            if left:
                self.asked_opt_outs_of_row[row] = left
            else:
                del self.asked_opt_outs_of_row[row]

    def _set_opt_outs(self, row: int, windows: Sequence[tuple[int, int]]) -> None:
        if windows or row in self.opt_outs_of_row:
            self.opt_outs_of_row[row] = list(windows)
            self.picture.is_opted_out[row] = 0
            self.opt_outs_due_ns = 0

    def _new_row(self, record: DeviceRecord) -> int:
        row = self.n_devices
        if row == self.nameplate.device_no.size:
            n = 2 * row
            self.nameplate, self.slots = grown(self.nameplate, n), grown(self.slots, n)
            self.picture, self.leases = grown(self.picture, n), grown(self.leases, n)
        if record.device_no >= self.row_of_device.size:
            longer = np.full(max(2 * self.row_of_device.size, record.device_no + 1), -1, np.int32)
            longer[: self.row_of_device.size] = self.row_of_device
            self.row_of_device = longer
        self.row_of_device[record.device_no] = row
        self.row_of_device_id[record.device_id] = row
        self.device_ids.append(record.device_id)
        self.organisation_ids.append(record.organisation_id)
        self.n_devices += 1
        return row

    def _site(self, record: DeviceRecord) -> int:
        """Return the row of the record's site and take its limits from the newest record."""
        site = self.site_of_no.get(record.site_no)
        if site is None:
            site = self.site_of_no[record.site_no] = self.n_sites
            if site == self.sites.site_no.size:
                self.sites = grown(self.sites, 2 * site)
            self.sites.site_no[site] = record.site_no
            self.n_sites += 1
        self.sites.export_limit_w[site] = record.export_limit_w if record.export_is_allowed else 0.0
        self.sites.import_limit_w[site] = record.import_limit_w
        return site

    def _zone(self, time_zone: str) -> int:
        """Return the index of the zone; one that this machine does not know counts as UTC."""
        if time_zone not in self.zones:
            try:
                zone(time_zone)
            except InvalidInput:
                return 0
            self.zones.append(time_zone)
        return self.zones.index(time_zone)

    def _gateway(self, gateway_no: int) -> int:
        gateway = self.gateway_of_no.get(gateway_no)
        if gateway is None:
            gateway = self.gateway_of_no[gateway_no] = self.n_gateways
            if gateway == self.gateways.gateway_no.size:
                self.gateways = grown(self.gateways, 2 * gateway)
                self.counters = np.concatenate([self.counters, np.zeros_like(self.counters)])
            self.gateways.gateway_no[gateway] = gateway_no
            self.n_gateways += 1
        return gateway


def _nameplate_values(record: DeviceRecord) -> dict[str, Any]:
    ratings, limits = record.ratings, record.limits
    kinds = [kind for kind in record.control_kinds if kind in STEERABLE_KINDS]
    return {
        "device_no": record.device_no,
        "revision": record.revision,
        "technology": record.technology,
        "lifecycle": record.lifecycle,
        "power_max_w": ratings.power_max_w,
        "power_min_w": ratings.power_min_w,
        "rating_w": max(abs(ratings.power_max_w), abs(ratings.power_min_w)),
        "energy_capacity_wh": ratings.energy_capacity_wh,
        "charge_efficiency_frac": ratings.charge_efficiency_frac,
        "discharge_efficiency_frac": ratings.discharge_efficiency_frac,
        "ramp_w_per_s": max(ratings.ramp_w_per_s, RAMP_LEAST_W_PER_S),
        "power_step_min_w": ratings.power_step_min_w,
        "is_on_off": ratings.is_on_off,
        "min_on_s": ratings.min_on_s,
        "min_off_s": ratings.min_off_s,
        "notice_s": ratings.notice_s,
        "duration_max_s": ratings.duration_max_s,
        "rebound_frac": ratings.rebound_frac,
        "soc_reserve_frac": limits.soc_reserve_frac,
        "soc_max_frac": limits.soc_max_frac,
        "comfort_low_degc": limits.comfort_low_degc,
        "comfort_high_degc": limits.comfort_high_degc,
        "ready_by_ns": limits.ready_by_ns,
        "needed_energy_wh": limits.needed_energy_wh,
        "events_per_season_max": min(limits.events_per_season_max, 2**31 - 1),
        "export_is_allowed": record.export_is_allowed,
        "latitude_deg": record.latitude_deg,
        "longitude_deg": record.longitude_deg,
        "period_s": record.telemetry_period_s,
        "latency_s": record.command_latency_s,
        "ttl_s": record.command_ttl_s,
        "control_kind": kinds[0] if kinds else NOT_CONTROLLABLE,
        "fallback": record.fallback,
        "merit_micros_per_kwh": record.merit_micros_per_kwh,
    }
