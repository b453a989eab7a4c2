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
from unisono.fleet.evidence import INSTANT_SPAN_S, settle_s, shows


class SuspectReason(IntEnum):
    """Why a device is suspect."""

    NONE = 0
    FROZEN = 1
    NOT_MOVING = 2
    WRONG_SIGN = 3
    JUMP = 4
    NO_ANSWER = 5


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
_PV: Final = 1

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
def _judge_move(nameplate: Nameplate, picture: Picture, leases: Leases, row: int) -> int:
    """Return 0: moved or nothing to see, -1: too early to say, else the SuspectReason."""
    from_w = leases.move_from_w[row]
    wanted_w = leases.move_to_w[row] - from_w
    rating_w = nameplate.rating_w[row]
    if abs(wanted_w) < max(MOVE_MIN_FRAC * rating_w, MOVE_MIN_W) or math.isnan(from_w):
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
    if moved_frac >= MOVED_FRAC:
        return 0
    was_acknowledged = leases.acked_seq[row] >= 0
    if not was_acknowledged and (
        leases.n_resent[row] < RESENT_SUSPECT or (received_ns - leases.resent_mono_ns[row]) * _NS < wait_s
    ):
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


@column_kernel(types.int64(types.int64, types.int64, NAMEPLATE, PICTURE, LEASES, _ARRAY_I4))
def suspect(n: int, mono_ns: int, nameplate: Nameplate, picture: Picture, leases: Leases, found_rows: I4) -> int:
    """Judge every open move and every jump; write the rows found suspect now into ``found_rows``, return how many."""
    n_found = 0
    for row in range(n):
        reason = 0
        if picture.n_jumps[row] >= 2:
            picture.n_jumps[row] = 0
            reason = 4
        elif leases.state[row] == 1 and leases.move_mono_ns[row] >= 0 and picture.trust[row] == 1:
            reason = _judge_move(nameplate, picture, leases, row)
            if reason == 0:
                leases.move_mono_ns[row] = -1
                leases.heard_mono_ns[row] = max(leases.heard_mono_ns[row], picture.received_mono_ns[row])
                picture.record_frac[row] += np.float32(0.1) * (np.float32(1.0) - picture.record_frac[row])
        elif leases.state[row] == 1 and picture.trust[row] == 1 and _is_mirrored(nameplate, picture, leases, row):
            reason = 3
        if reason <= 0:
            continue
        picture.n_suspect[row] = min(picture.n_suspect[row] + 1, 200)
        pause_s = min(SUSPECT_S * 2.0 ** (min(picture.n_suspect[row], 10) - 1), SUSPECT_MAX_S)
        pause_s = SUSPECT_SHORT_S if reason >= 4 else pause_s
        picture.suspect_code[row] = reason
        picture.suspect_until_mono_ns[row] = mono_ns + np.int64(pause_s * 1e9)
        picture.record_frac[row] *= np.float32(0.5)
        picture.trust[row] = 4
        leases.move_mono_ns[row] = -1
        found_rows[n_found] = row
        n_found += 1
    return n_found
