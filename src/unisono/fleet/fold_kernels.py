"""The kernels of `apply`: one pass over the readings, one over the answers."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, part, type_of
from unisono.fleet.columns import (
    F4,
    F8,
    GATEWAYS,
    I4,
    I8,
    LEASES,
    N_SOURCES,
    NAMEPLATE,
    PICTURE,
    SLOTS,
    U1,
    U2,
    Gateways,
    Leases,
    Nameplate,
    Picture,
    Slots,
)
from unisono.fleet.doubt import ON_FRAC, note_impossible, note_kept
from unisono.fleet.evidence import INSTANT_SPAN_S

# Counters, as in COUNTER_NAMES.
_ACCEPTED, _KEPT, _DUPLICATE, _LATE, _OUT_OF_RANGE, _FUTURE, _UNKNOWN, _MALFORMED = range(8)

# A device's clock may be wrong by so much and is then corrected; beyond it, its readings are future-dated or late.
CLOCK_BOUND_S: Final = 300.0
# The offset follows a smaller difference by half at once (one stray reading can't take it along) and forgets it over
# ten minutes, so that it stays near the least delay of the last ten minutes.
OFFSET_GAIN_DOWN: Final = 0.5
OFFSET_FORGET_S: Final = 600.0
# A power beyond this much of the rating is no measurement of that device; the margin is for small meters' noise.
RANGE_FACTOR: Final = 1.5
RANGE_MARGIN_W: Final = 100.0
# Windows of the two means.
MEAN_S: Final = 900.0
LONG_MEAN_S: Final = 10_800.0
_NS: Final = 1e-9
_SECONDS_TO_HOURS: Final = 3600.0

_ARRAY_I4 = types.Array(types.int32, 1, "C")
_ARRAY_I8 = types.Array(types.int64, 1, "C")
_ARRAY_U1 = types.Array(types.uint8, 1, "C")
_ARRAY_F8 = types.Array(types.float64, 1, "C")
_COUNTERS = types.Array(types.int64, 2, "C")


class Inflow(NamedTuple):
    """The readings of one cycle in the order of their arrival; ``batch`` indexes the arrays of their batches."""

    batch: I4
    device_no: I4
    source_kind: U1
    reading_kind: U1
    status: U2
    measured_ns: I8
    interval_start_ns: I8
    power_w: F4
    energy_wh: F8
    soc_frac: F4
    temperature_degc: F4
    voltage_v: F4


def _empty_inflow() -> Inflow:
    dtypes = ["i4", "i4", "u1", "u1", "u2", "i8", "i8", "f4", "f8", "f4", "f4", "f4"]
    return Inflow(*(np.empty(0, dtype) for dtype in dtypes))


INFLOW: Final = type_of(_empty_inflow())


@column_kernel(types.float64(types.float64, types.float64))
def register_step_wh(before_wh: float, now_wh: float) -> float:
    """Return the energy between two register readings; a roll-over at a power of ten is seen through, a reset is NaN.

    Registers that count what flows out of the grid come as negative numbers (power is positive into the grid).
    """
    a = abs(before_wh)
    b = abs(now_wh)
    sign = -1.0 if before_wh < 0.0 or now_wh < 0.0 else 1.0
    if b >= a:
        return sign * (b - a)
    width = 10_000.0
    while width <= a:
        width *= 10.0
    if a > 0.9 * width and b < 0.1 * width:
        return sign * (width - a + b)
    return math.nan


@part
def _power_of(inflow: Any, k: int, source: int, row: int, slots: Slots) -> float:
    """Return the reading's power, NaN when it has none (a first register, a reset), infinity when it is malformed."""
    kind = inflow.reading_kind[k]
    if kind == 0:
        power_w = float(inflow.power_w[k])
        return power_w if math.isfinite(power_w) else math.inf
    energy_wh = inflow.energy_wh[k]
    if not math.isfinite(energy_wh):
        return math.inf
    if kind == 1:
        span_s = (inflow.measured_ns[k] - inflow.interval_start_ns[k]) * _NS
        if inflow.interval_start_ns[k] < 0 or span_s <= 0.0:
            return math.inf
        return float(energy_wh * _SECONDS_TO_HOURS / span_s)
    before_wh = slots.register_wh[source, row]
    span_s = (inflow.measured_ns[k] - slots.register_ns[source, row]) * _NS
    if math.isnan(before_wh) or span_s <= 0.0:
        return math.nan
    return float(register_step_wh(before_wh, energy_wh) * _SECONDS_TO_HOURS / span_s)


@part
def _follow_offset(slots: Slots, source: int, row: int, delay_s: float, since_s: float) -> None:
    """Move the clock offset of a slot towards the least of its recent differences known - measured."""
    offset_s = slots.offset_s[source, row]
    if math.isnan(offset_s):
        slots.offset_s[source, row] = delay_s
    elif delay_s < offset_s:
        slots.offset_s[source, row] = offset_s + OFFSET_GAIN_DOWN * (delay_s - offset_s)
    else:
        slots.offset_s[source, row] = offset_s + min(1.0, since_s / OFFSET_FORGET_S) * (delay_s - offset_s)


@part
def _follow_means(picture: Picture, row: int, power_w: float, mono_ns: int, period_s: float) -> None:
    """Let both means take in that the power was ``power_w`` since the last reading (at most three periods)."""
    before_ns = picture.mean_mono_ns[row]
    picture.mean_mono_ns[row] = mono_ns
    span_s = period_s if before_ns < 0 else min((mono_ns - before_ns) * _NS, 3.0 * period_s)
    if span_s <= 0.0:
        return
    if before_ns < 0:
        picture.mean_w[row] = power_w
        picture.long_mean_w[row] = power_w
    share = 1.0 - math.exp(-span_s / MEAN_S)
    kept = picture.mean_weight[row] * (1.0 - share)
    picture.mean_w[row] = (picture.mean_w[row] * kept + power_w * share) / (kept + share)
    picture.mean_weight[row] = kept + share
    share = 1.0 - math.exp(-span_s / LONG_MEAN_S)
    kept = picture.long_mean_weight[row] * (1.0 - share)
    picture.long_mean_w[row] = (picture.long_mean_w[row] * kept + power_w * share) / (kept + share)
    picture.long_mean_weight[row] = kept + share


@part
def _note_switch(nameplate: Nameplate, picture: Picture, row: int, power_w: float, mono_ns: int) -> None:
    is_on = 1 if abs(power_w) > ON_FRAC * nameplate.rating_w[row] else 0
    if is_on != picture.is_on[row]:
        picture.is_on[row] = is_on
        picture.switched_mono_ns[row] = mono_ns


@part
def _span_s(inflow: Any, k: int, source: int, row: int, slots: Slots) -> float:
    """Return how long the reading's power is the mean of: its interval, or the time since the register before."""
    if inflow.reading_kind[k] == 0:
        return 0.0
    since_ns = inflow.interval_start_ns[k] if inflow.reading_kind[k] == 1 else slots.register_ns[source, row]
    return float((inflow.measured_ns[k] - since_ns) * _NS) if since_ns >= 0 else 0.0


@part
def _keep(
    inflow: Any,
    k: int,
    row: int,
    power_w: float,
    known_ns: int,
    mono_ns: int,
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    leases: Leases,
) -> None:
    """Let an admitted reading touch the state."""
    source = int(inflow.source_kind[k])
    span_s = _span_s(inflow, k, source, row, slots)
    if inflow.reading_kind[k] == 2:
        slots.register_wh[source, row] = inflow.energy_wh[k]
        slots.register_ns[source, row] = inflow.measured_ns[k]
    if not math.isnan(power_w):
        measured_ns = inflow.measured_ns[k]
        note_kept(nameplate, slots, picture, leases, source, row, power_w, span_s, known_ns, mono_ns, measured_ns)
        if source <= picture.source[row]:
            if leases.state[row] == 0:
                _follow_means(picture, row, power_w, mono_ns, float(nameplate.period_s[row]))
            else:
                picture.mean_mono_ns[row] = mono_ns
            if span_s <= INSTANT_SPAN_S:
                _note_switch(nameplate, picture, row, power_w, mono_ns)
        slots.power_w[source, row] = power_w
        slots.span_s[source, row] = span_s
        slots.received_mono_ns[source, row] = mono_ns
    slots.measured_ns[source, row] = inflow.measured_ns[k]
    if not math.isnan(inflow.soc_frac[k]):
        picture.soc_frac[row] = min(max(inflow.soc_frac[k], 0.0), 1.0)
        picture.soc_mono_ns[row] = mono_ns
    if not math.isnan(inflow.temperature_degc[k]):
        picture.temperature_degc[row] = inflow.temperature_degc[k]
    if not math.isnan(inflow.voltage_v[k]):
        picture.voltage_v[row] = inflow.voltage_v[k]
    picture.status[row] = inflow.status[k]


@part
def _verdict(inflow: Any, k: int, row: int, known_ns: int, mono_ns: int, nameplate: Nameplate, slots: Slots) -> int:
    """Return the counter that a well-formed reading of a known device ends in; follow its clock on the way."""
    source = int(inflow.source_kind[k])
    measured_ns = inflow.measured_ns[k]
    delay_s = (known_ns - measured_ns) * _NS
    newest_ns = slots.measured_ns[source, row]
    if delay_s < -CLOCK_BOUND_S:
        return _FUTURE
    if measured_ns == newest_ns:
        return _DUPLICATE
    # A slot stamped ahead of the present while this reading is not: the device's clock was set back.
    was_set_back = newest_ns - known_ns > 5_000_000_000 and delay_s > -1.0
    if measured_ns < newest_ns and not was_set_back:
        return _LATE
    if delay_s > CLOCK_BOUND_S + 2.0 * nameplate.period_s[row]:
        return _LATE
    if was_set_back:
        slots.offset_s[source, row] = math.nan
    before_ns = slots.received_mono_ns[source, row]
    _follow_offset(slots, source, row, delay_s, 0.0 if before_ns < 0 else (mono_ns - before_ns) * _NS)
    return _KEPT


@part
def _is_in_range(inflow: Any, k: int, row: int, power_w: float, nameplate: Nameplate) -> bool:
    """Return whether power and state of charge are possible for this device."""
    soc_frac = inflow.soc_frac[k]
    if soc_frac < -0.01 or soc_frac > 1.01:
        return False
    if math.isnan(power_w):
        return True
    high_w = RANGE_FACTOR * nameplate.power_max_w[row] + RANGE_MARGIN_W
    low_w = RANGE_FACTOR * nameplate.power_min_w[row] - RANGE_MARGIN_W
    return bool(low_w <= power_w <= high_w)


@column_kernel(
    types.int64(
        INFLOW, _ARRAY_I4, _ARRAY_I8, _ARRAY_I8, _ARRAY_I4, NAMEPLATE, SLOTS, PICTURE, LEASES, GATEWAYS, _COUNTERS
    )
)
def fold_readings(
    inflow: Inflow,
    gateway_of_batch: I4,
    known_ns: I8,
    received_mono_ns: I8,
    row_of_device: I4,
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    leases: Leases,
    gateways: Gateways,
    counters: I8,
) -> int:
    """Fold all readings in order; return how many were kept. ``counters`` are (gateway, COUNTER_NAMES)."""
    n_kept = 0
    for k in range(inflow.device_no.size):
        batch = inflow.batch[k]
        gateway = gateway_of_batch[batch]
        device_no = inflow.device_no[k]
        row = row_of_device[device_no] if 0 <= device_no < row_of_device.size else -1
        if gateway == 0 and row >= 0:
            gateway = nameplate.gateway[row]
            gateways.heard_mono_ns[gateway] = received_mono_ns[batch]
        counters[gateway, _ACCEPTED] += 1
        if row < 0:
            counters[gateway, _UNKNOWN] += 1
            continue
        source = int(inflow.source_kind[k])
        if source >= N_SOURCES or inflow.reading_kind[k] > 2 or inflow.measured_ns[k] <= 0:
            counters[gateway, _MALFORMED] += 1
            continue
        power_w = _power_of(inflow, k, source, row, slots)
        if math.isinf(power_w):
            counters[gateway, _MALFORMED] += 1
            continue
        if not _is_in_range(inflow, k, row, power_w, nameplate):
            counters[gateway, _OUT_OF_RANGE] += 1
            if inflow.measured_ns[k] > slots.measured_ns[source, row] and not math.isnan(power_w):
                note_impossible(nameplate, slots, picture, source, row, power_w)
            if inflow.reading_kind[k] == 2 and inflow.measured_ns[k] > slots.register_ns[source, row]:
                # A glitch, or another meter in its place: the next step is counted from here.
                slots.register_wh[source, row] = inflow.energy_wh[k]
                slots.register_ns[source, row] = inflow.measured_ns[k]
            continue
        mono_ns = received_mono_ns[batch]
        verdict = _verdict(inflow, k, row, known_ns[batch], mono_ns, nameplate, slots)
        counters[gateway, verdict] += 1
        if verdict == _KEPT:
            n_kept += 1
            _keep(inflow, k, row, power_w, known_ns[batch], mono_ns, nameplate, slots, picture, leases)
    return n_kept


@column_kernel(
    types.int64(
        _ARRAY_I4,
        _ARRAY_I4,
        _ARRAY_I8,
        _ARRAY_U1,
        _ARRAY_I4,
        _ARRAY_I8,
        types.int64,
        _ARRAY_F8,
        _ARRAY_I4,
        LEASES,
        GATEWAYS,
    )
)
def fold_acks(
    batch: I4,
    device_no: I4,
    seq: I8,
    code: U1,
    gateway_of_batch: I4,
    received_mono_ns: I8,
    now_ns: int,
    pause_s: F8,
    row_of_device: I4,
    leases: Leases,
    gateways: Gateways,
) -> int:
    """Fold answers; return how many refused, each once. Answers to older commands, and from strangers, change nothing.

    What was accepted of the owner before, who gave the same command, is accepted.
    """
    n_refused = 0
    for k in range(device_no.size):
        gateway = gateway_of_batch[batch[k]]
        mono_ns = received_mono_ns[batch[k]]
        if device_no[k] == -1:
            is_of_ours = gateways.acked_seq[gateway] <= seq[k] <= gateways.newest_command_seq[gateway]
            if code[k] == 0 and is_of_ours:
                gateways.acked_seq[gateway] = seq[k]
                gateways.acked_mono_ns[gateway] = mono_ns
            continue
        row = row_of_device[device_no[k]] if 0 <= device_no[k] < row_of_device.size else -1
        if row < 0:
            continue
        is_of_former_owner = code[k] == 0 and seq[k] >= 0 and seq[k] == leases.former_seq[row]
        if seq[k] != leases.seq[row] and not is_of_former_owner:
            continue
        is_known = leases.ack_code[row] == code[k]
        leases.ack_code[row] = code[k]
        if code[k] == 0:
            leases.acked_seq[row] = leases.seq[row]
            leases.acked_w[row] = leases.setpoint_w[row]
            if leases.state[row] == 1:
                leases.heard_mono_ns[row] = mono_ns
                leases.expires_ns[row] = now_ns + np.int64(leases.ttl_s[row] * 1e9)
            else:
                # A release that was heard: the lease is over.
                leases.state[row] = 0
            continue
        if is_known:
            # The same refusal again: the pause counts from the first.
            continue
        n_refused += 1
        leases.move_mono_ns[row] = -1
        pause_ns = np.int64(pause_s[min(code[k], pause_s.size - 1)] * 1e9)
        leases.refused_until_mono_ns[row] = mono_ns + pause_ns
    return n_refused
