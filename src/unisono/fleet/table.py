"""FleetTable: one stable row a device, its sites and gateways, and portfolios as (overlapping) lists of rows.

Rows are never moved nor reused; a retired device keeps its row. Arrays grow by doubling, so a group of columns must be
taken from the table anew in each cycle and not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

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
from unisono.model.registry import DeviceColumns, DeviceRecord, GatewayRecord, PortfolioRecord, kinds_of
from unisono.model.technology import CommandKind

# The kinds that a setpoint in watts can be said in. A device is steered with the first of them that it names.
STEERABLE_KINDS: Final = (
    CommandKind.POWER_SETPOINT,
    CommandKind.IMPORT_EXPORT_LIMIT,
    CommandKind.SHED_LEVEL,
    CommandKind.TEMPERATURE_OFFSET,
)
NOT_CONTROLLABLE: Final = 255
# Three letters, an underscore and a ULID (`base.ids`).
ID_DTYPE: Final = np.dtype("S30")
# Slower is not a ramp but a device that does not follow; it also keeps divisions finite.
RAMP_LEAST_W_PER_S: Final = 0.1
# A revision is per thing; the first of each is above this.
NO_REVISION: Final = -1
_NEVER_NS: Final = 2**62
# An asked opt-out is remembered so long after its end: a request may come twice, minutes apart at most.
OPT_OUT_KEPT_S: Final = 24 * 3600

A = TypeVar("A", bound=np.generic)
Ids = NDArray[np.bytes_]
Places = NDArray[np.intp]


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
    # By row: the device's id, and its organisation as a place in ``organisations``.
    device_ids: Ids = field(default_factory=lambda: np.zeros(64, ID_DTYPE))
    organisation: I4 = field(default_factory=lambda: np.zeros(64, np.int32))
    organisations: list[str] = field(default_factory=list)
    # Rows of sites and gateways by their numbers; -1 where there is none here.
    site_of_no: I4 = field(default_factory=lambda: np.full(64, -1, np.int32))
    gateway_of_no: I4 = field(default_factory=lambda: np.full(16, -1, np.int32))
    # By row of the gateway.
    gateway_revision: I8 = field(default_factory=lambda: np.full(16, NO_REVISION, np.int64))
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
        return bool(self.upsert_devices(DeviceColumns.of([record])))

    def upsert_devices(self, told: DeviceColumns) -> int:
        """Do the same for each of many devices and return how many changed; of those told of twice, the newest holds.

        New rows stand in the order in which their devices are told of first.
        """
        device_no, revision = told["device_no"], told["revision"]
        self.row_of_device = _reaching(self.row_of_device, device_no)
        known = self.row_of_device[device_no]
        before = np.where(known >= 0, self.nameplate.revision[known], NO_REVISION)
        at = _newest(device_no, revision)
        at = at[revision[at] > before[at]]
        if not at.size:
            return 0
        self._add_rows(told, _firsts(device_no, known < 0))
        rows = self.row_of_device[device_no[at]]
        self.organisation[rows] = self._organisations(told["organisation_id"][at])
        self._set_nameplate(told, at, rows)
        self._set_places(told, at, rows)
        self._set_all_opt_outs(told, at, rows)
        self.seasons_looked_at = -1
        self.version += 1
        return int(at.size)

    def upsert_gateway(self, record: GatewayRecord) -> bool:
        """Note the gateway; an old or repeated revision changes nothing (False)."""
        return bool(self.upsert_gateways([record]))

    def upsert_gateways(self, records: Sequence[GatewayRecord]) -> int:
        """Note these gateways and return how many of them are told of anew."""
        gateway_no = np.array([record.gateway_no for record in records], np.int64)
        revision = np.array([record.revision for record in records], np.int64)
        at = _newest(gateway_no, revision)
        rows = self._gateways(gateway_no)[at]
        is_news = revision[at] > self.gateway_revision[rows]
        self.gateway_revision[rows[is_news]] = revision[at][is_news]
        return int(is_news.sum())

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

    def device_id(self, row: int) -> str:
        """Return the id of the device at ``row``."""
        return bytes(self.device_ids[row]).decode()

    def organisation_id(self, row: int) -> str:
        """Return the id of the organisation whose device is at ``row``."""
        return self.organisations[int(self.organisation[row])]

    def is_of_organisation(self, organisation_id: str) -> NDArray[np.bool_]:
        """Return of each row whether its device is that organisation's."""
        if organisation_id not in self.organisations:
            return np.zeros(self.n_devices, np.bool_)
        place = np.int32(self.organisations.index(organisation_id))
        return np.equal(self.organisation[: self.n_devices], place)

    def gateway_rows(self, gateway_nos: I4 | I8) -> I4:
        """Return the rows of gateways; 0 for -1 (none) and for strangers."""
        inside = (gateway_nos >= 0) & (gateway_nos < self.gateway_of_no.size)
        return np.maximum(np.where(inside, self.gateway_of_no[np.where(inside, gateway_nos, 0)], 0), 0)

    def gateway_row(self, gateway_no: int) -> int:
        """Return the row of a gateway; 0 for -1 (none) and for a stranger."""
        inside = 0 <= gateway_no < self.gateway_of_no.size
        return max(int(self.gateway_of_no[gateway_no]), 0) if inside else 0

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

    def _set_all_opt_outs(self, told: DeviceColumns, at: Places, rows: I4) -> None:
        had = self.opt_outs_of_row.keys() & set(rows.tolist()) if self.opt_outs_of_row else set()
        windows_of_row = {
            int(self.row_of_device[told["device_no"][place]]): [(o.start_ns, o.end_ns) for o in told.opt_outs[place]]
            for place in told.opt_outs.keys() & set(at.tolist())
        }
        for row in had | windows_of_row.keys():
            self.opt_outs_of_row[row] = windows_of_row.get(row, [])
            self.picture.is_opted_out[row] = 0
            self.opt_outs_due_ns = 0

    def _add_rows(self, told: DeviceColumns, at: Places) -> None:
        """Give the devices at these places the next rows."""
        first, end = self.n_devices, self.n_devices + at.size
        size = self.nameplate.device_no.size
        while size < end:
            size *= 2
        if size > self.nameplate.device_no.size:
            self.nameplate, self.slots = grown(self.nameplate, size), grown(self.slots, size)
            self.picture, self.leases = grown(self.picture, size), grown(self.leases, size)
            self.device_ids, self.organisation = _longer(self.device_ids, size), _longer(self.organisation, size)
        ids = told["device_id"][at]
        assert ids.dtype.itemsize <= ID_DTYPE.itemsize, f"a device id has at most {ID_DTYPE.itemsize} bytes"
        self.device_ids[first:end] = ids
        self.row_of_device[told["device_no"][at]] = np.arange(first, end)
        self.n_devices = end

    def _set_nameplate(self, told: DeviceColumns, at: Places, rows: I4) -> None:
        for name, values in _nameplate_values(told, at).items():
            getattr(self.nameplate, name)[rows] = values

    def _set_places(self, told: DeviceColumns, at: Places, rows: I4) -> None:
        """Set site, gateway and zone; a site takes its limits from the record that is told last."""
        self.nameplate.site[rows] = sites = self._sites(told["site_no"][at])
        self.sites.export_limit_w[sites] = np.where(told["export_is_allowed"], told["export_limit_w"], 0.0)[at]
        self.sites.import_limit_w[sites] = told["import_limit_w"][at]
        self.nameplate.gateway[rows] = gateways = self._gateways(told["gateway_no"][at])
        np.maximum.at(self.gateways.ttl_max_s, gateways, told["command_ttl_s"][at].astype(np.float32))
        self.nameplate.zone[rows] = _coded(told["time_zone"][at], self._zone)

    def _sites(self, site_nos: I8) -> I4:
        """Return the rows of sites, which are made where there are none."""
        self.site_of_no = _reaching(self.site_of_no, site_nos)
        fresh = site_nos[_firsts(site_nos, self.site_of_no[site_nos] < 0)]
        first, end = self.n_sites, self.n_sites + fresh.size
        while self.sites.site_no.size < end:
            self.sites = grown(self.sites, 2 * self.sites.site_no.size)
        self.sites.site_no[first:end] = fresh
        self.site_of_no[fresh] = np.arange(first, end)
        self.n_sites = end
        return self.site_of_no[site_nos]

    def _gateways(self, gateway_nos: I8) -> I4:
        """Return the rows of gateways, which are made where there are none; 0 for -1."""
        self.gateway_of_no = _reaching(self.gateway_of_no, gateway_nos)
        is_fresh = (gateway_nos >= 0) & (self.gateway_of_no[gateway_nos] < 0)
        fresh = gateway_nos[_firsts(gateway_nos, is_fresh)]
        first, end = self.n_gateways, self.n_gateways + fresh.size
        while self.gateways.gateway_no.size < end:
            size = 2 * self.gateways.gateway_no.size
            self.gateways = grown(self.gateways, size)
            self.counters = np.concatenate([self.counters, np.zeros_like(self.counters)])
            self.gateway_revision = _longer(self.gateway_revision, size, NO_REVISION)
        self.gateways.gateway_no[first:end] = fresh
        self.gateway_of_no[fresh] = np.arange(first, end)
        self.n_gateways = end
        return self.gateway_rows(gateway_nos)

    def _zone(self, time_zone: bytes) -> int:
        """Return the index of the zone; one that this machine does not know counts as UTC."""
        name = time_zone.decode()
        if name not in self.zones:
            try:
                zone(name)
            except InvalidInput:
                return 0
            self.zones.append(name)
        return self.zones.index(name)

    def _organisations(self, ids: NDArray[np.bytes_]) -> I4:
        def place(organisation_id: bytes) -> int:
            name = organisation_id.decode()
            if name not in self.organisations:
                self.organisations.append(name)
            return self.organisations.index(name)

        return _coded(ids, place)


def _newest(numbers: I8, revisions: I8) -> Places:
    """Return the place of each number's highest revision, in growing order; of equal ones the first."""
    in_order = np.lexsort((-np.arange(numbers.size), revisions, numbers))
    is_last = np.append(numbers[in_order][1:] != numbers[in_order][:-1], True)
    return np.sort(in_order[is_last[: in_order.size]])


def _firsts(numbers: I8, is_meant: NDArray[np.bool_]) -> Places:
    """Return the first place of each number among those that are meant, in growing order."""
    meant = np.flatnonzero(is_meant)
    return np.sort(meant[np.unique(numbers[meant], return_index=True)[1]])


def _coded(values: NDArray[np.bytes_], code_of: Callable[[bytes], int]) -> I4:
    """Return the code of each value; ``code_of`` is asked once for each that differs, in the order of their places."""
    different, firsts, index = np.unique(values, return_index=True, return_inverse=True)
    codes = np.zeros(different.size, np.int32)
    for which in np.argsort(firsts).tolist():
        codes[which] = code_of(bytes(different[which]))
    return codes[index]


def _reaching(row_of_no: I4, numbers: I8) -> I4:
    """Return an index that has room for all numbers."""
    size = int(numbers.max(initial=-1)) + 1
    return row_of_no if size <= row_of_no.size else _longer(row_of_no, max(2 * row_of_no.size, size), -1)


def _longer(array: NDArray[A], size: int, missing: int = 0) -> NDArray[A]:
    fresh = np.full(size, missing, array.dtype) if missing else np.zeros(size, array.dtype)
    fresh[: array.size] = array
    return fresh


# Columns of the nameplate that are told as they are kept.
_AS_TOLD: Final = (
    *("device_no", "revision", "technology", "lifecycle", "power_max_w", "power_min_w", "energy_capacity_wh"),
    *("charge_efficiency_frac", "discharge_efficiency_frac", "power_step_min_w", "is_on_off", "min_on_s", "min_off_s"),
    *("notice_s", "duration_max_s", "rebound_frac", "soc_reserve_frac", "soc_max_frac", "comfort_low_degc"),
    *("comfort_high_degc", "ready_by_ns", "needed_energy_wh", "export_is_allowed", "latitude_deg", "longitude_deg"),
    *("fallback", "merit_micros_per_kwh"),
)


def _nameplate_values(told: DeviceColumns, at: Places) -> dict[str, NDArray[Any]]:
    return {name: told[name][at] for name in _AS_TOLD} | {
        "rating_w": np.maximum(np.abs(told["power_max_w"][at]), np.abs(told["power_min_w"][at])),
        "ramp_w_per_s": np.maximum(told["ramp_w_per_s"][at], RAMP_LEAST_W_PER_S),
        "events_per_season_max": np.minimum(told["events_per_season_max"][at], 2**31 - 1),
        "period_s": told["telemetry_period_s"][at],
        "latency_s": told["command_latency_s"][at],
        "ttl_s": told["command_ttl_s"][at],
        "control_kind": _coded(told["control_kinds"][at], _steered_with),
    }


def _steered_with(code: bytes) -> int:
    """Return the first of a device's kinds that a setpoint can be said in."""
    return next((kind for kind in kinds_of(code) if kind in STEERABLE_KINDS), NOT_CONTROLLABLE)
