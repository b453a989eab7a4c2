"""The devices of one dispatch as columns, and what each of them is worth to it in this cycle."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, part, type_of
from unisono.fleet.columns import F4, F8, I4, LEASES, NAMEPLATE, PICTURE, SLOTS, U1, Leases, Nameplate, Picture, Slots
from unisono.fleet.evidence import answer_s, arrives_frac, is_alive, is_on_its_way, is_quick, settle_s

# Modes of a member in a cycle; those who wait could be called if nobody else can give.
EXCLUDED, FREE, PINNED, WAITING = 0, 1, 2, 3
# Rows of ``Sums``.
SUM_NAMES: Final = (
    "commanded_w",
    "acknowledged_w",
    "reported_w",
    "measured_w",
    "delivered_w",
    "delivered_var_w2",
    "reference_w",
    "pinned_w",
    "under_way_w",
    "coming_w",
    "kept_w",
    "gap_w",
    "reach_w",
    "net_w",
    "base_w",
    "n_eligible",
    "n_targeted",
    "n_acknowledged",
    "n_moving",
    "n_delivered",
    "n_opted_out",
    "n_refused",
    "n_silent",
    "n_suspect",
    "n_reported",
    "n_measured",
)
(
    _COMMANDED,
    _ACKNOWLEDGED,
    _REPORTED,
    _MEASURED,
    _DELIVERED,
    _VARIANCE,
    _REFERENCE,
    _PINNED_W,
    _UNDER_WAY,
    _COMING,
    _KEPT,
    _GAP,
    _REACH,
    _NET,
    _BASE,
    _ELIGIBLE,
    _TARGETED,
    _N_ACKNOWLEDGED,
    _MOVING,
    _N_DELIVERED,
    _OPTED_OUT,
    _REFUSED,
    _SILENT,
    _SUSPECT,
    _N_REPORTED,
    _N_MEASURED,
) = range(len(SUM_NAMES))

# A device is moving when a quarter of its change shows, and has delivered when nine tenths do.
MOVING_FRAC: Final = 0.25
DELIVERED_FRAC: Final = 0.9
# A change below both of these is not worth a command.
WORTH_W: Final = 50.0
WORTH_FRAC: Final = 0.01
# A load that switches forgets its present run in a quarter of an hour; a charging session has hours left: of those that
# charge now, a half is still charging after 1.4 h (choices, not fits; the first by the region's hot-water draws).
SWITCHING_DRIFT_S: Final = 900.0
SESSION_DRIFT_S: Final = 7200.0
# What a tank is on over a day: some 12 kWh of hot water through a 4.5 kW element (US DOE test procedure, 10 CFR 430
# subpart B, appendix E: medium draw pattern). It stands in until an hour of the device's own three-hour mean is seen.
TANK_DUTY_FRAC: Final = 0.11
LONG_ENOUGH: Final = 0.283
# Below it the clear-sky ratio says nothing.
DUSK_W_PER_M2: Final = 20.0
# After so many repetitions a device that neither answers nor moves is let go.
RESENT_MAX: Final = 6
NO_ANSWER_YET: Final = 255
# Variance of a slow device's unanswered command as a share of its square: one in twenty may act and not answer.
DOUBT_FRAC: Final = 0.05
_NS: Final = 1e-9
_PV: Final = 1
_EV: Final = 3
_EVSE: Final = 4
_WATER_HEATER: Final = 5
# Trust codes of devices that are not heard.
_UNKNOWN, _SILENT_TRUST = 0, 3


class Members(NamedTuple):
    """One dispatch's devices, ascending by row; ``reach_w`` and ``share_w`` are >= 0 in the dispatch's direction."""

    row: I4
    # Indices of members in merit order (ties: the older device first).
    order: I4
    accepted_reference_w: F4
    accepted_clear_sky: F4
    # The reference drifts from there to ``settled_w`` with this time constant (infinite: it does not).
    settled_w: F4
    drift_s: F4
    method: U1
    # In this cycle: reference, change now commanded, most it could change, mode, what it is believed to deliver.
    reference_w: F4
    held_w: F4
    reach_w: F4
    mode: U1
    credit_w: F4
    # What the allocation gives it.
    share_w: F4


def new_members(rows: I4, nameplate: Nameplate, picture: Picture) -> Members:
    """Return the members at ``rows`` with their references frozen as they are now."""
    n = rows.size
    drifts_home = (nameplate.is_on_off[rows] == 1) & np.isfinite(picture.long_mean_w[rows])
    is_new_tank = (picture.long_mean_weight[rows] < LONG_ENOUGH) & (nameplate.technology[rows] == _WATER_HEATER)
    usual_w = np.where(is_new_tank, TANK_DUTY_FRAC * nameplate.power_min_w[rows], picture.long_mean_w[rows])
    ends = (nameplate.technology[rows] == _EV) | (nameplate.technology[rows] == _EVSE)
    order = np.lexsort((nameplate.device_no[rows], nameplate.merit_micros_per_kwh[rows])).astype(np.int32)
    return Members(
        row=rows.astype(np.int32),
        order=order,
        accepted_reference_w=picture.reference_w[rows].copy(),
        accepted_clear_sky=picture.clear_sky_w_per_m2[rows].copy(),
        settled_w=np.where(drifts_home, usual_w, 0.0).astype(np.float32),
        drift_s=np.where(drifts_home, SWITCHING_DRIFT_S, np.where(ends, SESSION_DRIFT_S, np.inf)).astype(np.float32),
        method=picture.reference_method[rows].copy(),
        reference_w=picture.reference_w[rows].copy(),
        held_w=np.zeros(n, np.float32),
        reach_w=np.zeros(n, np.float32),
        mode=np.zeros(n, np.uint8),
        credit_w=np.zeros(n, np.float32),
        share_w=np.zeros(n, np.float32),
    )


def carried_over(fresh: Members, before: Members) -> Members:
    """Keep the references that were frozen before for those who still are members."""
    _, here, there = np.intersect1d(fresh.row, before.row, assume_unique=True, return_indices=True)
    fresh.accepted_reference_w[here] = before.accepted_reference_w[there]
    fresh.accepted_clear_sky[here] = before.accepted_clear_sky[there]
    fresh.settled_w[here] = before.settled_w[there]
    fresh.drift_s[here] = before.drift_s[there]
    fresh.method[here] = before.method[there]
    return fresh


def _empty_members() -> Members:
    dtypes = ["i4", "i4", "f4", "f4", "f4", "f4", "u1", "f4", "f4", "f4", "u1", "f4", "f4"]
    return Members(*(np.empty(0, dtype) for dtype in dtypes))


MEMBERS: Final = type_of(_empty_members())
_F8: Final = types.Array(types.float64, 1, "C")


@part
def _reference_now_w(members: Members, k: int, since_s: float, nameplate: Nameplate, picture: Picture) -> float:
    """Return the reference by the formula frozen at acceptance: PV follows the clear sky, runs of loads end."""
    row = members.row[k]
    reference_w = float(members.accepted_reference_w[k])
    then = members.accepted_clear_sky[k]
    now = picture.clear_sky_w_per_m2[row]
    if nameplate.technology[row] == _PV and then > DUSK_W_PER_M2 and not math.isnan(now):
        return float(min(reference_w * now / then, float(nameplate.power_max_w[row])))
    drift_s = members.drift_s[k]
    if math.isfinite(drift_s):
        settled_w = float(members.settled_w[k])
        return float(settled_w + (reference_w - settled_w) * math.exp(-since_s / drift_s))
    return reference_w


@part
def _is_unanswered(nameplate: Nameplate, leases: Leases, row: int, mono_ns: int) -> bool:
    """Return whether its command is neither answered nor seen to act, and can't be taken for on its way."""
    if leases.ack_code[row] != NO_ANSWER_YET or leases.move_mono_ns[row] < 0:
        return False
    return not is_on_its_way(nameplate, leases, row, mono_ns)


@part
def _mode(
    members: Members,
    k: int,
    sign: int,
    dispatch_no: int,
    mono_ns: int,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    sums: F8,
) -> int:
    """Say whether the member may be used, counting those who may not."""
    row = members.row[k]
    is_held = leases.state[row] == 1 and leases.dispatch_no[row] == dispatch_no
    if nameplate.lifecycle[row] != 2 or nameplate.control_kind[row] == 255:
        return EXCLUDED
    if picture.is_opted_out[row] == 1:
        sums[_OPTED_OUT] += 1.0
        return EXCLUDED
    trust = picture.trust[row]
    if trust == 4:
        sums[_SUSPECT] += 1.0
        return EXCLUDED
    if mono_ns < leases.refused_until_mono_ns[row]:
        sums[_REFUSED] += 1.0
        return EXCLUDED
    if leases.n_events[row] >= nameplate.events_per_season_max[row] and leases.event_no[row] != dispatch_no:
        return EXCLUDED
    if leases.wanted_no[row] >= 0:
        # A more urgent dispatch has it.
        return EXCLUDED
    if trust in (_UNKNOWN, _SILENT_TRUST):
        sums[_SILENT] += 1.0
        is_on_its_way = (mono_ns - leases.sent_mono_ns[row]) * _NS < answer_s(nameplate, row)
        return PINNED if is_held and (is_alive(nameplate, leases, row, mono_ns) or is_on_its_way) else EXCLUDED
    if trust == 2 and not is_held:
        return EXCLUDED
    is_slow_and_told = not is_quick(nameplate, row) and leases.ack_code[row] == 0
    if is_held and is_slow_and_told and (mono_ns - leases.sent_mono_ns[row]) * _NS < answer_s(nameplate, row):
        # It is not told anew before it has settled: quick ones balance.
        return PINNED
    if is_held and _is_unanswered(nameplate, leases, row, mono_ns):
        # It keeps being told, and what it shows counts; its share goes to others until it answers.
        is_late = (mono_ns - leases.sent_mono_ns[row]) * _NS >= answer_s(nameplate, row)
        sums[_SILENT] += 1.0 if is_late else 0.0
        return PINNED if leases.n_resent[row] < RESENT_MAX else EXCLUDED
    hold_s = picture.hold_up_s[row] if sign > 0 else picture.hold_down_s[row]
    if hold_s <= 0.0:
        return EXCLUDED
    if picture.high_w[row] - picture.low_w[row] < 1.0:
        return PINNED if is_held else EXCLUDED
    return FREE


@part
def _end_w(bound_w: float, sign: int, least_w: float, reference_w: float) -> float:
    """Return the last power before the bound at which the device can run: not between 0 W and its least power."""
    if abs(bound_w) >= least_w or bound_w == 0.0:
        return bound_w
    if bound_w * sign > 0.0:
        return 0.0
    return -sign * least_w if sign * reference_w <= -least_w else reference_w


@part
def _reach_w(members: Members, k: int, sign: int, nameplate: Nameplate, picture: Picture) -> float:
    """Return how far the device can go from its reference in the dispatch's direction."""
    row = members.row[k]
    reference_w = members.reference_w[k]
    high_w = float(picture.high_w[row])
    low_w = float(picture.low_w[row])
    if nameplate.is_on_off[row] == 1:
        on_w = float(nameplate.power_max_w[row] if nameplate.power_max_w[row] > 0.0 else nameplate.power_min_w[row])
        level_w = max(0.0, on_w) if sign > 0 else min(0.0, on_w)
        if not low_w - 1.0 <= level_w <= high_w + 1.0:
            return 0.0
        reach_w = sign * (level_w - reference_w)
    elif sign > 0:
        reach_w = _end_w(high_w, sign, float(nameplate.power_step_min_w[row]), reference_w) - reference_w
        reach_w = 0.0 if nameplate.technology[row] == _PV else reach_w
    else:
        reach_w = reference_w - _end_w(low_w, sign, float(nameplate.power_step_min_w[row]), reference_w)
    worth_w = max(WORTH_W, WORTH_FRAC * nameplate.rating_w[row])
    return reach_w if reach_w >= worth_w else 0.0


@part
def _default_w(nameplate: Nameplate, row: int, reference_w: float, held_w: float) -> float:
    """Return the change that a device shows once its lease has run out."""
    fallback = nameplate.fallback[row]
    return -reference_w if fallback == 1 else held_w if fallback == 2 else 0.0


@part
def _credit(
    members: Members, k: int, mono_ns: int, nameplate: Nameplate, picture: Picture, leases: Leases
) -> tuple[float, float]:
    """Return what a device that holds our lease is believed to deliver, and the variance of that.

    Its reading counts once it is late enough to show the command; before that, and in silence, its lease does.
    """
    row = members.row[k]
    reference_w = float(members.reference_w[k])
    held_w = float(members.held_w[k])
    record = min(1.0, max(0.0, float(picture.record_frac[row])))
    trust = picture.trust[row]
    is_heard = trust not in (_UNKNOWN, _SILENT_TRUST)
    power_w = float(picture.power_w[row])
    sd_w = float(picture.power_sd_w[row])
    sent_ns = leases.sent_mono_ns[row]
    wait_s = settle_s(nameplate, row, held_w, picture.source[row])
    if is_heard and (picture.received_mono_ns[row] - sent_ns) * _NS >= wait_s:
        return power_w - reference_w, sd_w * sd_w
    expected_w = float(leases.expected_w[row]) - reference_w
    if is_heard:
        is_answered = leases.acked_seq[row] == leases.seq[row]
        doubt = record * (1.0 - record) if is_answered or is_quick(nameplate, row) else DOUBT_FRAC
        return expected_w, sd_w * sd_w + held_w * held_w * doubt
    if is_alive(nameplate, leases, row, mono_ns) or is_on_its_way(nameplate, leases, row, mono_ns):
        return record * held_w, held_w * held_w * record * (1.0 - record) + sd_w * sd_w
    doubt_w = (1.0 - 0.5 * record) * abs(held_w)
    return _default_w(nameplate, row, reference_w, held_w), doubt_w * doubt_w + sd_w * sd_w


@part
def _leftover_w(
    members: Members, k: int, mono_ns: int, nameplate: Nameplate, picture: Picture, leases: Leases
) -> float:
    """Return what a device that was let go changes all the same: it has not heard of it yet, or makes up for the call.

    A car that gave back charges again, a tank that was held off heats: that is part of what the call does.
    """
    row = members.row[k]
    trust = picture.trust[row]
    change_w = float(leases.setpoint_w[row] - members.reference_w[k])
    wait_s = settle_s(nameplate, row, change_w, picture.source[row])
    if trust == 4:
        return 0.0
    if (picture.received_mono_ns[row] - leases.sent_mono_ns[row]) * _NS >= wait_s:
        return float(picture.power_w[row] - members.reference_w[k])
    if leases.state[row] == 0:
        return 0.0
    if trust in (_UNKNOWN, _SILENT_TRUST):
        return change_w if is_alive(nameplate, leases, row, mono_ns) else 0.0
    if is_quick(nameplate, row):
        return 0.0
    # A slow cloud has not passed it on yet.
    was_accepted = leases.acked_seq[row] >= 0
    return change_w if was_accepted else float(picture.power_w[row] - members.reference_w[k])


@part
def _count_under_way(
    members: Members,
    k: int,
    mono_ns: int,
    lead_s: float,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    sums: F8,
) -> None:
    """Add by how much its credit changes once a slow cloud passes a command on, and how much of that is likely soon."""
    row = members.row[k]
    if is_quick(nameplate, row) or leases.ack_code[row] != NO_ANSWER_YET or leases.state[row] == 0:
        return
    arrives = arrives_frac(nameplate, leases, row, mono_ns, lead_s)
    if arrives > 0.0:
        record = min(1.0, max(0.0, float(picture.record_frac[row])))
        change_w = record * (float(members.held_w[k]) - float(members.credit_w[k]))
        sums[_UNDER_WAY] += change_w
        sums[_COMING] += arrives * change_w


@part
def _count_held(members: Members, k: int, slots: Slots, picture: Picture, leases: Leases, sums: F8) -> None:
    """Add a device that holds our lease to the four levels of truth and to the funnel."""
    row = members.row[k]
    reference_w = members.reference_w[k]
    held_w = members.held_w[k]
    sums[_TARGETED] += 1.0
    sums[_COMMANDED] += held_w
    sums[_REFERENCE] += reference_w
    if leases.acked_seq[row] >= 0:
        sums[_N_ACKNOWLEDGED] += 1.0
        sums[_ACKNOWLEDGED] += leases.acked_w[row] - reference_w
    said_w = slots.power_w[1, row]
    said_w = slots.power_w[2, row] if math.isnan(said_w) else said_w
    if not math.isnan(said_w):
        sums[_N_REPORTED] += 1.0
        sums[_REPORTED] += said_w - reference_w
    if not math.isnan(slots.power_w[0, row]):
        sums[_N_MEASURED] += 1.0
        sums[_MEASURED] += slots.power_w[0, row] - reference_w
    if held_w != 0.0 and not math.isnan(picture.power_w[row]):
        share = (picture.power_w[row] - reference_w) / held_w
        sums[_MOVING] += 1.0 if share >= MOVING_FRAC else 0.0
        sums[_N_DELIVERED] += 1.0 if share >= DELIVERED_FRAC else 0.0


@column_kernel(
    types.void(
        types.int64,
        types.int64,
        types.int64,
        types.float64,
        types.float64,
        MEMBERS,
        NAMEPLATE,
        SLOTS,
        PICTURE,
        LEASES,
        _F8,
    )
)
def weigh(
    sign: int,
    dispatch_no: int,
    mono_ns: int,
    since_s: float,
    lead_s: float,
    members: Members,
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    leases: Leases,
    sums: F8,
) -> None:
    """Set each member's reference, mode, reach and credit for this cycle, and add all up in ``sums`` (SUM_NAMES).

    ``sign`` is +1 when more power into the grid is wanted, else -1; ``since_s`` is the age of the frozen references,
    ``lead_s`` how far ahead what is under way is foreseen (``coming_w`` of ``under_way_w``).
    """
    kept_w = sums[_KEPT]
    sums[:] = 0.0
    sums[_KEPT] = kept_w
    for k in range(members.row.size):
        row = members.row[k]
        reference_w = _reference_now_w(members, k, since_s, nameplate, picture)
        members.reference_w[k] = reference_w
        is_held = leases.state[row] == 1 and leases.dispatch_no[row] == dispatch_no
        members.held_w[k] = leases.setpoint_w[row] - reference_w if is_held else 0.0
        mode = _mode(members, k, sign, dispatch_no, mono_ns, nameplate, picture, leases, sums)
        reach_w = _reach_w(members, k, sign, nameplate, picture) if mode == FREE else 0.0
        credit_w, variance = 0.0, 0.0
        is_let_go = leases.state[row] != 1 and leases.event_no[row] == dispatch_no
        if is_held:
            credit_w, variance = _credit(members, k, mono_ns, nameplate, picture, leases)
            _count_held(members, k, slots, picture, leases, sums)
        elif is_let_go:
            credit_w = _leftover_w(members, k, mono_ns, nameplate, picture, leases)
            sums[_PINNED_W] += credit_w
        members.mode[k] = mode
        members.reach_w[k] = reach_w
        members.credit_w[k] = credit_w
        if mode != FREE:
            _count_under_way(members, k, mono_ns, lead_s, nameplate, picture, leases, sums)
        sums[_DELIVERED] += credit_w
        sums[_VARIANCE] += variance
        sums[_REACH] += reach_w
        sums[_ELIGIBLE] += 1.0 if mode != EXCLUDED else 0.0
        if mode == PINNED:
            sums[_PINNED_W] += credit_w
        elif is_held and mode == FREE:
            sums[_GAP] += members.held_w[k] - credit_w
        if not math.isnan(picture.power_w[row]):
            # What was called may still show it: there the reference stands for what it would do.
            base_w = reference_w if is_held or is_let_go else float(picture.power_w[row])
            sums[_BASE] += base_w
            sums[_NET] += base_w + credit_w
