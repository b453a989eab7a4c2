"""How far each device's picture can be believed: fresh, stale, silent, suspect; and how uncertain its power is.

Freshness is counted in the device's own reporting periods: 2 s and 15 min are both normal. A device is suspect when its
readings contradict what it said it would do. A refusal is no reason for suspicion.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, part
from unisono.fleet.columns import I4, LEASES, N_SOURCES, NAMEPLATE, PICTURE, SLOTS, Leases, Nameplate, Picture, Slots
from unisono.fleet.evidence import INSTANT_SPAN_S, is_alive, settle_s, shows


class SuspectReason(IntEnum):
    """Why a device is suspect."""

    NONE = 0
    FROZEN = 1
    NOT_MOVING = 2
    WRONG_SIGN = 3
    JUMP = 4
    NO_ANSWER = 5
    SOURCES_DISAGREE = 6


class LeaseState(IntEnum):
    """Where a device's lease stands: none, held (a setpoint was sent), or being released."""

    NONE = 0
    HELD = 1
    RELEASING = 2


# Periods: three missed reports may be chance on a lossy carrier (2 % loss: 8 in a million), ten are not.
FRESH_PERIODS: Final = 3.0
STALE_PERIODS: Final = 10.0
# Floors for devices that report faster than a cycle: ours is the slower clock then.
FRESH_S: Final = 10.0
STALE_S: Final = 30.0
# Uncertainty of a fresh power, and how it grows with silence towards a third of the rating, in ten minutes or so.
SD_FRESH_FRAC: Final = 0.01
SD_SILENT_FRAC: Final = 0.3
SD_GROWTH_S: Final = 600.0
# A move smaller than this says nothing; a quarter of a move is a move (taper, a slow ramp, a coarse meter).
MOVE_MIN_FRAC: Final = 0.05
MOVE_MIN_W: Final = 100.0
MOVED_FRAC: Final = 0.25
# A process sheds in blocks, of an eighth of its rating at most; it rounds to whole ones.
BLOCK_FRAC: Final = 0.1
# Output fades over the last per cents above the reserve, charging over the last tenth; a tank near its highest
# temperature may have reached it since it was last read.
EMPTY_FRAC: Final = 0.03
TAPER_FRAC: Final = 0.88
WARM_K: Final = 3.0
# After its least time on or off an engine or a compressor has a minute to start or stop.
START_S: Final = 60.0
# As near to the opposite of its setpoint as this is no chance.
MIRRORED_FRAC: Final = 0.05
# First pause of a suspect device; it doubles each time up to four hours. A wrong jump or a missing answer weighs less.
SUSPECT_S: Final = 900.0
SUSPECT_MAX_S: Final = 14_400.0
SUSPECT_SHORT_S: Final = 120.0
# Repetitions without an answer before a device that does not move either is let go.
RESENT_SUSPECT: Final = 3
_NS: Final = 1e-9
_NO_SOURCE: Final = 255
_PV, _EV, _EVSE, _WATER_HEATER, _FLEX_LOAD = 1, 3, 4, 5, 7
# Codes of Trust and SuspectReason as kernels know them.
SUSPECT: Final = 4
JUMP: Final = 4
NO_ANSWER: Final = 5

_ARRAY_I4 = types.Array(types.int32, 1, "C")


@part
def _best_source(row: int, mono_ns: int, fresh_s: float, slots: Slots) -> int:
    """Return the first fresh source by priority, long means after all others; without a fresh one the newest."""
    newest, mean = _NO_SOURCE, _NO_SOURCE
    newest_age_s = math.inf
    for source in range(N_SOURCES):
        received_ns = slots.received_mono_ns[source, row]
        if received_ns < 0:
            continue
        age_s = max(0.0, (mono_ns - received_ns) * _NS)
        if age_s < newest_age_s:
            newest, newest_age_s = source, age_s
        if age_s > fresh_s:
            continue
        if slots.span_s[source, row] <= INSTANT_SPAN_S:
            return source
        if mean == _NO_SOURCE:
            mean = source
    return newest if mean == _NO_SOURCE else mean


@column_kernel(types.void(types.int64, types.int64, NAMEPLATE, SLOTS, PICTURE))
def reconcile(n: int, mono_ns: int, nameplate: Nameplate, slots: Slots, picture: Picture) -> None:
    """Choose each device's source and grade its freshness."""
    for row in range(n):
        fresh_s = max(FRESH_PERIODS * nameplate.period_s[row], FRESH_S)
        stale_s = max(STALE_PERIODS * nameplate.period_s[row], STALE_S)
        best = _best_source(row, mono_ns, fresh_s, slots)
        picture.source[row] = best
        if best == _NO_SOURCE:
            picture.age_s[row] = math.inf
            picture.trust[row] = 0
            continue
        best_age_s = max(0.0, (mono_ns - slots.received_mono_ns[best, row]) * _NS)
        picture.age_s[row] = best_age_s
        rating_w = nameplate.rating_w[row]
        picture.power_w[row] = slots.power_w[best, row]
        picture.received_mono_ns[row] = slots.received_mono_ns[best, row]
        picture.span_s[row] = slots.span_s[best, row]
        beyond_s = best_age_s - fresh_s
        grown = 1.0 - math.exp(-beyond_s / SD_GROWTH_S) if beyond_s > 0.0 else 0.0
        picture.power_sd_w[row] = rating_w * (SD_FRESH_FRAC + (SD_SILENT_FRAC - SD_FRESH_FRAC) * grown)
        if mono_ns < picture.suspect_until_mono_ns[row]:
            picture.trust[row] = 4
        else:
            picture.trust[row] = 1 if best_age_s <= fresh_s else 2 if best_age_s <= stale_s else 3


@part
def _may_hold_still(nameplate: Nameplate, picture: Picture, row: int, wanted_w: float) -> bool:
    """Return whether a device that does not move as told may be honest: empty, full, gone or sated."""
    technology, power_w = nameplate.technology[row], picture.power_w[row]
    soc_frac = picture.soc_frac[row]
    # What it may have come to since it was told.
    soc_age_h = max(0.0, (picture.received_mono_ns[row] - picture.soc_mono_ns[row]) * _NS) / 3600.0
    drift_frac = soc_age_h * nameplate.rating_w[row] / max(float(nameplate.energy_capacity_wh[row]), 1.0)
    is_idle = abs(power_w) <= MOVE_MIN_FRAC * nameplate.rating_w[row]
    since_s = (picture.received_mono_ns[row] - picture.switched_mono_ns[row]) * _NS
    least_s = float(nameplate.min_off_s[row] if is_idle else nameplate.min_on_s[row])
    if least_s > 0.0 and since_s < least_s + START_S:
        return True
    if wanted_w > 0.0:
        return bool(soc_frac - drift_frac <= nameplate.soc_reserve_frac[row] + EMPTY_FRAC)
    if technology in (_EV, _EVSE):
        return bool(is_idle)
    if technology == _WATER_HEATER:
        is_warm = picture.temperature_degc[row] >= nameplate.comfort_high_degc[row] - WARM_K
        return bool(is_idle and (is_warm or math.isnan(picture.temperature_degc[row])))
    # A load takes no more than its process wants, an array gives no more than the sun does.
    return bool(technology == _FLEX_LOAD or soc_frac + drift_frac >= TAPER_FRAC)


@part
def _least_move_w(nameplate: Nameplate, row: int) -> float:
    frac = BLOCK_FRAC if nameplate.technology[row] == _FLEX_LOAD else MOVE_MIN_FRAC
    return max(frac * float(nameplate.rating_w[row]), MOVE_MIN_W)


@part
def _judge_move(nameplate: Nameplate, picture: Picture, leases: Leases, row: int, mono_ns: int) -> int:
    """Return 0: moved or nothing to see, -1: too early to say, else the SuspectReason."""
    from_w = leases.move_from_w[row]
    wanted_w = leases.move_to_w[row] - from_w
    rating_w = nameplate.rating_w[row]
    if abs(wanted_w) < _least_move_w(nameplate, row) or math.isnan(from_w):
        return 0
    received_ns = picture.received_mono_ns[row]
    wait_s = settle_s(nameplate, picture, row, wanted_w)
    if (received_ns - leases.move_mono_ns[row]) * _NS < wait_s:
        return -1
    power_w = picture.power_w[row]
    near_w = max(0.1 * abs(wanted_w), MOVE_MIN_FRAC * rating_w)
    if abs(power_w - leases.setpoint_w[row]) <= near_w:
        return 0
    if nameplate.technology[row] == _PV and power_w <= leases.setpoint_w[row] + near_w:
        return 0
    moved_frac = (power_w - from_w) / wanted_w
    if moved_frac >= MOVED_FRAC or _may_hold_still(nameplate, picture, row, wanted_w):
        return 0
    # An answer to an earlier command, before this move, says nothing of it.
    was_acknowledged = leases.acked_seq[row] >= 0 and (leases.acked_w[row] - from_w) / wanted_w >= 0.5
    if not was_acknowledged and (
        leases.n_resent[row] < RESENT_SUSPECT or (received_ns - leases.resent_mono_ns[row]) * _NS < wait_s
    ):
        return -1
    if was_acknowledged and not is_alive(nameplate, picture, leases, row, mono_ns):
        return -1
    if picture.n_against[row] == 0:
        # One reading may have been held up on its way: the next has to say the same.
        picture.n_against[row] = 1
        leases.move_mono_ns[row] = received_ns - np.int64(wait_s * 1e9) + 1_000_000
        return -1
    if moved_frac <= -MOVED_FRAC:
        return 3
    if not was_acknowledged:
        return 5
    return 1 if picture.n_same[row] >= 2 else 2


@part
def _is_mirrored(nameplate: Nameplate, picture: Picture, leases: Leases, row: int) -> bool:
    """Return whether a device that accepted its setpoint is read at just the opposite of it: a meter's wrong sign.

    A move is judged once; a meter may be turned round later, in the middle of the hold.
    """
    setpoint_w = float(leases.setpoint_w[row])
    if leases.acked_seq[row] != leases.seq[row] or abs(setpoint_w) < max(
        MOVE_MIN_FRAC * nameplate.rating_w[row], MOVE_MIN_W
    ):
        return False
    is_opposite = abs(picture.power_w[row] + setpoint_w) <= MIRRORED_FRAC * abs(setpoint_w)
    return bool(is_opposite and shows(nameplate, picture, leases, row, setpoint_w))


@part
def _pause_ns(reason: int, n_suspect: int) -> int:
    pause_s = min(SUSPECT_S * 2.0 ** (min(n_suspect, 10) - 1), SUSPECT_MAX_S)
    return int((SUSPECT_SHORT_S if reason in (JUMP, NO_ANSWER) else pause_s) * 1e9)


@column_kernel(types.int64(types.int64, types.int64, NAMEPLATE, PICTURE, LEASES, _ARRAY_I4))
def suspect(n: int, mono_ns: int, nameplate: Nameplate, picture: Picture, leases: Leases, found_rows: I4) -> int:
    """Judge every open move and what readings accuse of; write the rows found suspect now, return how many.

    Who is accused while suspect stays so for another pause: one is trusted again after a pause without new evidence.
    """
    n_found = 0
    for row in range(n):
        reason = int(picture.accused_code[row])
        if reason > 0:
            picture.accused_code[row] = 0
            if picture.trust[row] == SUSPECT:
                until_ns = mono_ns + _pause_ns(reason, picture.n_suspect[row])
                picture.suspect_until_mono_ns[row] = max(picture.suspect_until_mono_ns[row], until_ns)
                continue
        elif leases.state[row] == 1 and leases.move_mono_ns[row] >= 0 and picture.trust[row] == 1:
            reason = _judge_move(nameplate, picture, leases, row, mono_ns)
            if reason == 0:
                leases.move_mono_ns[row] = -1
                leases.heard_mono_ns[row] = max(leases.heard_mono_ns[row], picture.received_mono_ns[row])
                picture.record_frac[row] += np.float32(0.1) * (np.float32(1.0) - picture.record_frac[row])
        elif leases.state[row] == 1 and picture.trust[row] == 1 and _is_mirrored(nameplate, picture, leases, row):
            reason = 3
        if reason <= 0:
            continue
        picture.n_suspect[row] = min(picture.n_suspect[row] + 1, 200)
        picture.suspect_code[row] = reason
        picture.suspect_until_mono_ns[row] = mono_ns + _pause_ns(reason, picture.n_suspect[row])
        picture.record_frac[row] *= np.float32(0.5)
        picture.trust[row] = SUSPECT
        leases.move_mono_ns[row] = -1
        found_rows[n_found] = row
        n_found += 1
    return n_found
