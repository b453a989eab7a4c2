"""Every column of the fleet, defined once: name, dtype, unit, missing value and meaning.

A column is a field of one of the groups below; its annotation carries (unit, missing value, meaning). Allocation,
growth, checkpoints, kernel signatures and the reference page (`column_table`) all come from here. A group is a tuple of
arrays of one length, so that a kernel takes whole groups and still reads like the formula.

Instants ending in ``_mono_ns`` are monotonic (ages, leases, deadlines); others in ``_ns`` are wall instants, UTC.
Power is positive into the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import type_of
from unisono.model.technology import SourceKind

I1 = NDArray[np.int8]
U1 = NDArray[np.uint8]
U2 = NDArray[np.uint16]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
U8 = NDArray[np.uint64]
F4 = NDArray[np.float32]
F8 = NDArray[np.float64]

NAN: Final = math.nan
INF: Final = math.inf
N_SOURCES: Final = len(SourceKind)
N_COUNTERS: Final = 8


class Nameplate(NamedTuple):
    """What a device is and what its owner allows: written only by the registry. One row a device."""

    device_no: Annotated[I4, "", -1, "the device's integer for life"]
    revision: Annotated[I8, "", -1, "revision of the registry record that the row is made from"]
    site: Annotated[I4, "", -1, "row of its site in Sites"]
    gateway: Annotated[I4, "", 0, "row of its gateway in Gateways; 0: none"]
    zone: Annotated[I4, "", 0, "index of its site's time zone in FleetTable.zones"]
    technology: Annotated[U1, "", 0, "Technology"]
    lifecycle: Annotated[U1, "", 0, "Lifecycle; only ACTIVE devices are called on"]
    power_max_w: Annotated[F4, "W", 0.0, "most power into the grid"]
    power_min_w: Annotated[F4, "W", 0.0, "least power, negative: most consumption"]
    rating_w: Annotated[F4, "W", 0.0, "the larger of both, without sign"]
    energy_capacity_wh: Annotated[F4, "Wh", 0.0, "usable energy between SoC 0 and 1; 0: no store"]
    charge_efficiency_frac: Annotated[F4, "1", 1.0, "stored per energy taken from the grid"]
    discharge_efficiency_frac: Annotated[F4, "1", 1.0, "given to the grid per energy taken from the store"]
    ramp_w_per_s: Annotated[F4, "W/s", INF, "how fast its power can change"]
    power_step_min_w: Annotated[F4, "W", 0.0, "least power at which it runs when not at 0"]
    is_on_off: Annotated[U1, "", 0, "1: only 0 or full power"]
    min_on_s: Annotated[F4, "s", 0.0, "stays on at least so long"]
    min_off_s: Annotated[F4, "s", 0.0, "stays off at least so long"]
    notice_s: Annotated[F4, "s", 0.0, "from command to first change"]
    duration_max_s: Annotated[F4, "s", INF, "longest change"]
    rebound_frac: Annotated[F4, "1", 0.0, "share of the shed energy that comes back afterwards"]
    soc_reserve_frac: Annotated[F4, "1", 0.0, "state of charge kept for the owner"]
    soc_max_frac: Annotated[F4, "1", 1.0, "state of charge not charged beyond"]
    comfort_low_degc: Annotated[F4, "degC", NAN, "not to fall below; NaN: no wish"]
    comfort_high_degc: Annotated[F4, "degC", NAN, "not to rise above; NaN: no wish"]
    ready_by_ns: Annotated[I8, "ns", -1, "when an EV must hold its needed energy; -1: no wish"]
    needed_energy_wh: Annotated[F4, "Wh", 0.0, "stored energy wanted at ready_by_ns"]
    events_per_season_max: Annotated[I4, "", 2**31 - 1, "how often the owner lets it be called"]
    export_is_allowed: Annotated[U1, "", 1, "0: its connection point may not feed in"]
    latitude_deg: Annotated[F4, "deg", NAN, "north positive"]
    longitude_deg: Annotated[F4, "deg", NAN, "east positive"]
    period_s: Annotated[F4, "s", 60.0, "how often it reports"]
    latency_s: Annotated[F4, "s", 1.0, "from command to receipt by the device"]
    ttl_s: Annotated[F4, "s", 60.0, "life of a lease"]
    control_kind: Annotated[U1, "", 255, "CommandKind it is steered with; 255: not controllable"]
    fallback: Annotated[U1, "", 0, "Fallback when its lease has run out"]
    merit_micros_per_kwh: Annotated[I8, "micros/kWh", 0, "order in which merit_order calls"]


class Slots(NamedTuple):
    """The newest reading of each source kind: arrays (source kind, row)."""

    measured_ns: Annotated[I8, "ns", -1, "when it was measured, by the device's clock"]
    received_mono_ns: Annotated[I8, "ns", -1, "when it was received"]
    power_w: Annotated[F4, "W", NAN, "power"]
    span_s: Annotated[F4, "s", 0.0, "how long before measured_ns the power is the mean of; 0: of an instant"]
    offset_s: Annotated[F4, "s", NAN, "what to add to the device's clock: least known_ns - measured_ns lately"]
    register_wh: Annotated[F8, "Wh", NAN, "last cumulative register"]
    register_ns: Annotated[I8, "ns", -1, "when the register was read"]


class Picture(NamedTuple):
    """What is believed of a device now, and what it can do. One row a device."""

    power_w: Annotated[F4, "W", NAN, "power of the best source"]
    power_sd_w: Annotated[F4, "W", NAN, "its standard deviation; grows with age"]
    source: Annotated[U1, "", 255, "SourceKind that power_w is from; 255: none"]
    received_mono_ns: Annotated[I8, "ns", -1, "when power_w was received"]
    span_s: Annotated[F4, "s", 0.0, "how long before that power_w is the mean of; 0: of an instant"]
    age_s: Annotated[F4, "s", INF, "since power_w was received"]
    trust: Annotated[U1, "", 0, "Trust"]
    soc_frac: Annotated[F4, "1", NAN, "last reported state of charge"]
    soc_mono_ns: Annotated[I8, "ns", -1, "when it was received"]
    temperature_degc: Annotated[F4, "degC", NAN, "last reported temperature (tank or room)"]
    voltage_v: Annotated[F4, "V", NAN, "last reported voltage"]
    status: Annotated[U2, "", 0, "last reported status bits"]
    mean_w: Annotated[F4, "W", NAN, "mean of undispatched power over about the last 15 min"]
    mean_weight: Annotated[F4, "1", 0.0, "share of that window that has been seen"]
    long_mean_w: Annotated[F4, "W", NAN, "the same over about the last 3 h"]
    long_mean_weight: Annotated[F4, "1", 0.0, "share of that window that has been seen"]
    mean_mono_ns: Annotated[I8, "ns", -1, "up to when the means reach"]
    switched_mono_ns: Annotated[I8, "ns", -1, "when it was last seen to switch on or off"]
    is_on: Annotated[U1, "", 0, "1: seen running (above 10 % of its rating)"]
    n_same: Annotated[U1, "", 0, "readings in a row with exactly the same power, at most 255"]
    repeats_idle: Annotated[U1, "", 255, "share of 255 of its readings at idle that repeated the one before, lately"]
    repeats_on: Annotated[U1, "", 255, "the same while it runs"]
    step_w: Annotated[F4, "W", NAN, "finest change that its source has shown lately"]
    n_jumps: Annotated[U1, "", 0, "score of implausible changes: 30 each, 1 less for each plausible one"]
    n_mirrored: Annotated[U1, "", 0, "score of evidence for a turned sign"]
    other_source: Annotated[U1, "", 255, "SourceKind that speaks of it beside source; 255: none"]
    n_apart: Annotated[I1, "", 0, "score of the other source above (+) or below (-) this one"]
    charge_from_frac: Annotated[F4, "1", NAN, "state of charge at which charge_wh was 0; NaN: not yet"]
    charge_wh: Annotated[F4, "Wh", 0.0, "energy that its power has stored since"]
    n_against: Annotated[U1, "", 0, "readings that showed the present move not done in time"]
    accused_code: Annotated[U1, "", 0, "SuspectReason that its readings gave since it was last judged"]
    suspect_code: Annotated[U1, "", 0, "SuspectReason of the newest suspicion"]
    suspect_until_mono_ns: Annotated[I8, "ns", -1, "suspect until then"]
    n_suspect: Annotated[U1, "", 0, "how often it was suspect; halves its record, doubles the pause"]
    record_frac: Annotated[F4, "1", 0.98, "how much of what it was told it delivered, lately"]
    is_opted_out: Annotated[U1, "", 0, "1: the owner wants it left alone now"]
    clear_sky_w_per_m2: Annotated[F4, "W/m2", NAN, "clear-sky irradiance at its place, PV only"]
    high_w: Annotated[F4, "W", 0.0, "most power it may take in the next cycle, all limits held"]
    low_w: Annotated[F4, "W", 0.0, "least power it may take in the next cycle, all limits held"]
    energy_up_wh: Annotated[F4, "Wh", 0.0, "energy it can still give upwards, limits held"]
    energy_down_wh: Annotated[F4, "Wh", 0.0, "energy it can still take, limits held"]
    hold_up_s: Annotated[F4, "s", 0.0, "how long it can hold high_w"]
    hold_down_s: Annotated[F4, "s", 0.0, "how long it can hold low_w"]
    reference_w: Annotated[F4, "W", 0.0, "what it would do undispatched, as seen now"]
    reference_method: Annotated[U1, "", 0, "ReferenceMethod of reference_w"]


class Leases(NamedTuple):
    """What a device was told, what it answered, and how its answer looks in its readings. One row a device."""

    state: Annotated[U1, "", 0, "LeaseState"]
    gateway: Annotated[I4, "", 0, "row of the gateway that its newest command was sent through"]
    dispatch_no: Annotated[I4, "", -1, "dispatch it serves; -1: none"]
    ttl_s: Annotated[F4, "s", 60.0, "life of the lease, as it was told"]
    setpoint_w: Annotated[F4, "W", NAN, "newest setpoint sent"]
    reference_w: Annotated[F4, "W", NAN, "its reference in that dispatch"]
    seq: Annotated[I8, "", -1, "sequence of the newest command"]
    former_seq: Annotated[I8, "", -1, "sequence of the same command under the owner before; -1: none"]
    sent_mono_ns: Annotated[I8, "ns", -1, "when that command was first sent"]
    told_mono_ns: Annotated[I8, "ns", -1, "since when it has been told to change at least as much as now"]
    resent_mono_ns: Annotated[I8, "ns", -1, "when it was last sent"]
    n_resent: Annotated[I4, "", 0, "how often it was repeated"]
    acked_seq: Annotated[I8, "", -1, "newest sequence that was accepted"]
    acked_w: Annotated[F4, "W", NAN, "setpoint of that sequence"]
    ack_code: Annotated[U1, "", 255, "newest AckCode; 255: none"]
    heard_mono_ns: Annotated[I8, "ns", -1, "when we last had evidence that the lease began or was renewed"]
    expires_ns: Annotated[I8, "ns", -1, "wall instant at which it would run out, were it not renewed again"]
    refused_until_mono_ns: Annotated[I8, "ns", -1, "not asked again before"]
    move_mono_ns: Annotated[I8, "ns", -1, "when the present move began; -1: it is seen to be done"]
    move_from_w: Annotated[F4, "W", NAN, "power before the move"]
    move_to_w: Annotated[F4, "W", NAN, "first setpoint of the move"]
    expected_w: Annotated[F4, "W", NAN, "where it should be by its ramp, if it obeys"]
    called_s: Annotated[F4, "s", 0.0, "how long it has been called (runs back when let go)"]
    n_events: Annotated[I4, "", 0, "dispatches that have called on it in this season"]
    season: Annotated[I4, "", -1, "the year in which that season began; -1: none yet"]
    event_no: Annotated[I4, "", -1, "the last of them"]
    wanted_w: Annotated[F4, "W", NAN, "setpoint that this cycle wants; NaN: leave it alone"]
    wanted_no: Annotated[I4, "", -1, "dispatch that wants it"]
    wanted_reference_w: Annotated[F4, "W", NAN, "its reference in that dispatch"]


class Sites(NamedTuple):
    """Connection points. One row a site."""

    site_no: Annotated[I4, "", -1, "the site's integer for life"]
    export_limit_w: Annotated[F4, "W", INF, "most power into the grid of all its devices together"]
    import_limit_w: Annotated[F4, "W", -INF, "least (negative) power of all its devices together"]
    high_w: Annotated[F8, "W", 0.0, "sum of the most that its devices may come to by themselves"]
    low_w: Annotated[F8, "W", 0.0, "sum of the least that its devices may come to by themselves"]
    told_up_w: Annotated[F8, "W", 0.0, "sum of positive setpoints held"]
    told_down_w: Annotated[F8, "W", 0.0, "sum of negative setpoints held"]
    up_w: Annotated[F8, "W", 0.0, "sum of what its devices could add"]
    down_w: Annotated[F8, "W", 0.0, "sum of what its devices could take away"]


class Gateways(NamedTuple):
    """What carries the devices; row 0 stands for "no gateway". One row a gateway."""

    gateway_no: Annotated[I4, "", -1, "the gateway's integer for life"]
    newest_seq: Annotated[I8, "", -1, "newest batch sequence folded"]
    seq_window: Annotated[U8, "", 0, "bit k: batch newest_seq - k was folded"]
    heard_mono_ns: Annotated[I8, "ns", -1, "when anything was last heard"]
    renewed_mono_ns: Annotated[I8, "ns", -1, "when its leases were last renewed (or the first was given)"]
    renewed_seq: Annotated[I8, "", -1, "through which sequence"]
    left_mono_ns: Annotated[I8, "ns", -1, "when a device that was moved away last had a lease here; -1: never"]
    acked_mono_ns: Annotated[I8, "ns", -1, "when it last acknowledged a renewal"]
    acked_seq: Annotated[I8, "", -1, "through which sequence"]
    newest_command_seq: Annotated[I8, "", -1, "newest sequence sent through it"]
    ttl_min_s: Annotated[F4, "s", INF, "shortest lease now held through it"]
    ttl_max_s: Annotated[F4, "s", 0.0, "longest lease of any of its devices"]


G = TypeVar("G", Nameplate, Slots, Picture, Leases, Sites, Gateways)
GROUPS: Final[tuple[type[Any], ...]] = (Nameplate, Slots, Picture, Leases, Sites, Gateways)


class Column(NamedTuple):
    """One column as a reader of the reference page sees it."""

    name: str
    dtype: np.dtype[Any]
    unit: str
    missing: float
    meaning: str


def columns_of(group: type[Any]) -> tuple[Column, ...]:
    """Return the columns of a group, in order."""
    return _COLUMNS[group]


def allocate(group: type[G], n: int) -> G:
    """Return a group of ``n`` rows filled with missing values (Slots: ``n`` rows for each source kind)."""
    shape = (N_SOURCES, n) if group.__name__ == Slots.__name__ else (n,)
    return group(*(np.full(shape, column.missing, dtype=column.dtype) for column in columns_of(group)))


def grown(group: G, n: int) -> G:
    """Return a copy with room for ``n`` rows; the new ones hold missing values."""
    fresh = allocate(type(group), n)
    for name in group._fields:
        old = getattr(group, name)
        getattr(fresh, name)[..., : old.shape[-1]] = old
    return fresh


def numba_type(group: type[G]) -> Any:
    """Return the type that a kernel's signature names the group by."""
    return type_of(allocate(group, 1))


def column_table() -> str:
    """Return the reference page's Markdown: one table a group."""
    parts = []
    for group in GROUPS:
        parts.append(f"## {group.__name__}\n\n{group.__doc__}\n\n")
        parts.append("| column | dtype | unit | missing | meaning |\n|---|---|---|---|---|\n")
        parts += [f"| `{c.name}` | {c.dtype} | {c.unit} | {c.missing:g} | {c.meaning} |\n" for c in columns_of(group)]
        parts.append("\n")
    return "".join(parts)


def _read(group: type[Any]) -> Iterator[Column]:
    for name, hint in get_type_hints(group, include_extras=True).items():
        array, unit, missing, meaning = get_args(hint)
        dtype = np.dtype(get_args(get_args(array)[1])[0])
        yield Column(name, dtype, unit, missing, meaning)


_COLUMNS: Final = {group: tuple(_read(group)) for group in GROUPS}

NAMEPLATE: Final = numba_type(Nameplate)
SLOTS: Final = numba_type(Slots)
PICTURE: Final = numba_type(Picture)
LEASES: Final = numba_type(Leases)
SITES: Final = numba_type(Sites)
GATEWAYS: Final = numba_type(Gateways)
