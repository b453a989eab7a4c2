"""A needed change into whole-watt setpoints, by policy; and the few of them that are worth sending.

Every policy fills ``members.share_w`` (>= 0, in the dispatch's direction) for the FREE members; on-off devices get all
or nothing. Then `snap` moves shares that fall below a device's least power, `repair` gives the rest to whoever has room
in merit order, and `want` writes setpoints, leaving those alone that are within their dead-band.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, pair_of, part
from unisono.brain.dispatch.members import EXCLUDED, FREE, MEMBERS, WAITING, Members
from unisono.brain.dispatch.sums import Sum
from unisono.fleet.columns import F8, LEASES, NAMEPLATE, PICTURE, Leases, Nameplate, Picture
from unisono.fleet.evidence import is_quick

# Newton on a piecewise linear function ends in a few steps; the bisection that guards it needs 60 for a double.
WATER_STEPS_MAX: Final = 80
# A running on-off device is kept until less than half of it is needed; one that stands is called when all of it is.
KEEP_FRAC: Final = 0.5
# A device behind a slow cloud is told less often: what it is told shows a minute later, and budgets of calls are small.
SLOW_DEAD_FRAC: Final = 0.1
# What all dead-bands together may leave out: an eighth of the 2 % within which energy is to be delivered.
KEPT_FRAC: Final = 0.0025
_F8: Final = types.Array(types.float64, 1, "C")


@part
def _is_store(row: int, nameplate: Nameplate, picture: Picture) -> bool:
    """Return whether the member can be levelled: a store of known charge that can run in between."""
    is_smooth = nameplate.is_on_off[row] == 0
    return bool(is_smooth and nameplate.energy_capacity_wh[row] > 0.0 and not math.isnan(picture.soc_frac[row]))


@part
def _poured_w(level: float, sign: int, k: int, members: Members, nameplate: Nameplate, picture: Picture) -> float:
    """Return what a store gives so that it reaches the level in an hour, within its reach."""
    row = members.row[k]
    above_frac = sign * (float(picture.soc_frac[row]) - level)
    return float(min(max(above_frac * nameplate.energy_capacity_wh[row], 0.0), float(members.reach_w[k])))


@part
def _water_level(goal_w: float, sign: int, members: Members, nameplate: Nameplate, picture: Picture) -> float:
    """Return the state of charge at which the stores together give ``goal_w``; may lie outside 0..1."""
    # At `full` every store gives its whole reach, at `none` nothing does.
    full = math.inf
    none = -math.inf
    for k in range(members.row.size):
        row = members.row[k]
        if members.mode[k] == FREE and members.reach_w[k] > 0.0 and _is_store(row, nameplate, picture):
            soc = sign * float(picture.soc_frac[row])
            none = max(none, soc)
            full = min(full, soc - members.reach_w[k] / nameplate.energy_capacity_wh[row])
    if none < full:
        return 0.0
    level = 0.5 * (full + none)
    for _ in range(WATER_STEPS_MAX):
        given_w = 0.0
        slope_wh = 0.0
        for k in range(members.row.size):
            if members.mode[k] == FREE and members.reach_w[k] > 0.0 and _is_store(members.row[k], nameplate, picture):
                poured_w = _poured_w(sign * level, sign, k, members, nameplate, picture)
                given_w += poured_w
                if 0.0 < poured_w < members.reach_w[k]:
                    slope_wh += nameplate.energy_capacity_wh[members.row[k]]
        error_w = given_w - goal_w
        if abs(error_w) <= 0.1:
            break
        if error_w > 0.0:
            full = level
        else:
            none = level
        level = level + error_w / slope_wh if slope_wh > 0.0 else 0.5 * (full + none)
        if not full < level < none:
            level = 0.5 * (full + none)
    return sign * level


@part
def _switch_in_order(goal_w: float, members: Members, nameplate: Nameplate) -> float:
    """Call on-off devices in merit order up to ``goal_w``; return what is left of it."""
    left_w = goal_w
    for j in range(members.order.size):
        k = members.order[j]
        if members.mode[k] != FREE or nameplate.is_on_off[members.row[k]] == 0 or members.reach_w[k] <= 0.0:
            continue
        least_w = KEEP_FRAC * members.reach_w[k] if members.held_w[k] != 0.0 else float(members.reach_w[k])
        if left_w >= least_w:
            members.share_w[k] = members.reach_w[k]
            left_w -= members.reach_w[k]
    return left_w


@part
def allowed_share(share_w: float, sign: int, k: int, members: Members, nameplate: Nameplate) -> float:
    """Return the nearest share that the device can run at: not between 0 W and its least power."""
    row = members.row[k]
    least_w = float(nameplate.power_step_min_w[row])
    reach_w = float(members.reach_w[k])
    reference_w = float(members.reference_w[k])
    power_w = reference_w + sign * share_w
    if share_w <= 0.0 or share_w >= reach_w or abs(power_w) >= least_w or power_w == 0.0:
        return share_w
    step_w = least_w if power_w > 0.0 else -least_w
    nearest_w = step_w if abs(power_w) >= 0.5 * least_w else 0.0
    snapped_w = sign * (nearest_w - reference_w)
    if 0.0 <= snapped_w <= reach_w:
        return snapped_w
    # The near level is out of reach; the other one, or nothing.
    other_w = sign * ((0.0 if nearest_w != 0.0 else step_w) - reference_w)
    return other_w if 0.0 <= other_w <= reach_w else 0.0


@column_kernel(types.float64(types.float64, MEMBERS, NAMEPLATE))
def merit_order(need_w: float, members: Members, nameplate: Nameplate) -> float:
    """Fill the cheapest first; return what is left over (negative: an on-off device kept running gives too much)."""
    left_w = need_w
    members.share_w[:] = 0.0
    for j in range(members.order.size):
        if left_w <= 0.0:
            break
        k = members.order[j]
        reach_w = float(members.reach_w[k])
        if members.mode[k] != FREE or reach_w <= 0.0:
            continue
        if nameplate.is_on_off[members.row[k]] == 1:
            least_w = KEEP_FRAC * reach_w if members.held_w[k] != 0.0 else reach_w
            if left_w >= least_w:
                members.share_w[k] = reach_w
                left_w -= reach_w
        else:
            members.share_w[k] = min(reach_w, left_w)
            left_w -= min(reach_w, left_w)
    return left_w


@column_kernel(types.float64(types.float64, MEMBERS, NAMEPLATE))
def pro_rata(need_w: float, members: Members, nameplate: Nameplate) -> float:
    """Give everyone the same part of its reach; on-off devices make up their common part in merit order."""
    reach_w = 0.0
    switched_w = 0.0
    for k in range(members.row.size):
        members.share_w[k] = 0.0
        if members.mode[k] == FREE:
            reach_w += members.reach_w[k]
            switched_w += members.reach_w[k] * nameplate.is_on_off[members.row[k]]
    part = min(1.0, max(0.0, need_w) / reach_w) if reach_w > 0.0 else 0.0
    left_w = _switch_in_order(part * switched_w, members, nameplate)
    smooth_w = reach_w - switched_w
    smooth_need_w = max(0.0, part * smooth_w + left_w)
    part = min(1.0, smooth_need_w / smooth_w) if smooth_w > 0.0 else 0.0
    given_w = 0.0
    for k in range(members.row.size):
        if members.mode[k] == FREE:
            if nameplate.is_on_off[members.row[k]] == 0:
                members.share_w[k] = part * members.reach_w[k]
            given_w += members.share_w[k]
    return need_w - given_w


@column_kernel(types.float64(types.float64, types.int64, MEMBERS, NAMEPLATE, PICTURE))
def soc_fair(need_w: float, sign: int, members: Members, nameplate: Nameplate, picture: Picture) -> float:
    """Level the stores: each gives what lies above a common state of charge (down: takes what lies below), in an hour.

    Members without a store give the same part of their reach as all would; stores give the rest, by Newton's method on
    the water level, guarded by bisection. Returns what is left over.
    """
    store_w = 0.0
    other_w = 0.0
    for k in range(members.row.size):
        members.share_w[k] = 0.0
        if members.mode[k] == FREE:
            if _is_store(members.row[k], nameplate, picture):
                store_w += members.reach_w[k]
            else:
                other_w += members.reach_w[k]
    all_w = store_w + other_w
    if all_w <= 0.0 or need_w <= 0.0:
        return need_w
    part = min(1.0, need_w / all_w)
    left_w = need_w
    for j in range(members.order.size):
        k = members.order[j]
        row = members.row[k]
        if members.mode[k] != FREE or _is_store(row, nameplate, picture):
            continue
        share_w = part * members.reach_w[k]
        if nameplate.is_on_off[row] == 1:
            # All or nothing: in merit order until the common part is made up.
            share_w = members.reach_w[k] if need_w - left_w + members.reach_w[k] <= part * other_w else 0.0
        members.share_w[k] = share_w
        left_w -= share_w
    goal_w = min(max(left_w, 0.0), store_w)
    level = _water_level(goal_w, sign, members, nameplate, picture)
    for k in range(members.row.size):
        if members.mode[k] == FREE and _is_store(members.row[k], nameplate, picture):
            members.share_w[k] = _poured_w(level, sign, k, members, nameplate, picture)
            left_w -= members.share_w[k]
    return left_w


@column_kernel(types.void(types.int64, MEMBERS, NAMEPLATE))
def snap(sign: int, members: Members, nameplate: Nameplate) -> None:
    """Move each share that would run a device below its least power: to the least power if that is nearer, else to 0 W.

    The two ends of what it can do are kept: its reference (share 0) and its full reach.
    """
    for k in range(members.row.size):
        if members.mode[k] != FREE or members.share_w[k] <= 0.0:
            continue
        members.share_w[k] = allowed_share(float(members.share_w[k]), sign, k, members, nameplate)


@column_kernel(
    pair_of(types.int64)(types.int64, types.int64, types.float64, types.float64, MEMBERS, NAMEPLATE, LEASES, _F8)
)
def want(
    sign: int,
    dispatch_no: int,
    dead_w: float,
    dead_frac: float,
    members: Members,
    nameplate: Nameplate,
    leases: Leases,
    sums: F8,
) -> tuple[int, int]:
    """Write wanted setpoints; return how many devices are newly called and how many are let go.

    A held setpoint that is within its dead-band of the wished one stays, as long as all such differences together stay
    below the largest dead-band and a four-hundredth of the whole; beyond that, wished ones of quick devices follow in
    merit order. What is left of the differences, wished less held, goes into ``sums``: the next cycle makes up for it.
    """
    n_called = 0
    n_let_go = 0
    kept_w = 0.0
    allowed_w = dead_w
    given_w = 0.0
    n = members.order.size
    for j in range(n):
        k = members.order[j]
        row = members.row[k]
        reference_w = float(members.reference_w[k])
        is_held = leases.state[row] == 1 and leases.dispatch_no[row] == dispatch_no
        if members.mode[k] in (EXCLUDED, WAITING) or (members.mode[k] == FREE and members.share_w[k] <= 0.0):
            n_let_go += 1 if is_held else 0
            continue
        setpoint_w = float(leases.setpoint_w[row])
        if members.mode[k] == FREE:
            wished_w = np.round(reference_w + sign * float(members.share_w[k]))
            band_w = max(dead_w, dead_frac * float(nameplate.rating_w[row]))
            allowed_w = max(allowed_w, band_w)
            given_w += members.share_w[k]
            if not is_quick(nameplate, row):
                band_w = max(band_w, SLOW_DEAD_FRAC * float(nameplate.rating_w[row]))
            if is_held and nameplate.is_on_off[row] == 0 and abs(wished_w - setpoint_w) <= band_w:
                kept_w += wished_w - setpoint_w
            else:
                setpoint_w = wished_w
        n_called += 0 if is_held else 1
        leases.wanted_w[row] = setpoint_w
        leases.wanted_no[row] = dispatch_no
        leases.wanted_reference_w[row] = reference_w
    allowed_w = max(allowed_w, KEPT_FRAC * given_w)
    for j in range(n):
        if abs(kept_w) <= allowed_w:
            break
        k = members.order[j]
        row = members.row[k]
        if not is_quick(nameplate, row) or members.mode[k] != FREE or leases.wanted_no[row] != dispatch_no:
            continue
        wished_w = np.round(members.reference_w[k] + sign * members.share_w[k])
        difference_w = wished_w - leases.wanted_w[row]
        if difference_w * kept_w > 0.0:
            leases.wanted_w[row] = wished_w
            kept_w -= difference_w
    sums[Sum.KEPT_W] = kept_w
    return n_called, n_let_go
