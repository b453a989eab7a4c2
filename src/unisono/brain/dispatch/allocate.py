"""A needed change into whole-watt setpoints, by policy; and the few of them that are worth sending.

Every policy fills ``members.share_w`` (>= 0, in the dispatch's direction) for the FREE members; on-off devices get all
or nothing. Then `snap` moves shares that fall below a device's least power, `repair` gives the rest to whoever has room
in merit order, and `want` writes setpoints, leaving those alone that are within their dead-band.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, index, pair_of, part, type_of
from unisono.brain.dispatch.exact import W_PER_STEP, steps
from unisono.brain.dispatch.members import EXCLUDED, FREE, MEMBERS, WAITING, Members
from unisono.brain.dispatch.sums import Sum
from unisono.brain.dispatch.switches import KEEP_FRAC, switch_in_order
from unisono.fleet.columns import F4, F8, I4, LEASES, NAMEPLATE, PICTURE, Leases, Nameplate, Picture
from unisono.fleet.evidence import is_quick

# Newton on a piecewise linear function ends in a few steps; the bisection that guards it needs 60 for a double.
WATER_STEPS_MAX: Final = 80
# A level is found when the stores together give what they shall to this: setpoints are whole watts.
LEVEL_MET_W: Final = 0.1
# A device behind a slow cloud is told less often: what it is told shows a minute later, and budgets of calls are small.
SLOW_DEAD_FRAC: Final = 0.1
# What all dead-bands together may leave out: an eighth of the 2 % within which energy is to be delivered.
KEPT_FRAC: Final = 0.0025
_F8: Final = types.Array(types.float64, 1, "C")


class Stores(NamedTuple):
    """The members that can be levelled, side by side: smooth stores of known charge that are FREE."""

    member: I4
    soc_frac: F4
    capacity_wh: F4
    reach_w: F4


def _stores(n: int) -> Stores:
    return Stores(np.empty(n, np.int32), *(np.empty(n, np.float32) for _ in Stores._fields[1:]))


STORES: Final = type_of(_stores(0))


@part
def _poured_w(level: float, sign: int, j: int, stores: Stores) -> float:
    """Return what a store gives so that it reaches the level in an hour, within its reach."""
    above_frac = sign * (np.float64(stores.soc_frac[j]) - level)
    return float(min(max(above_frac * stores.capacity_wh[j], 0.0), np.float64(stores.reach_w[j])))


@column_kernel(pair_of(types.int64)(types.float64, types.int64, types.int64, STORES))
def _pour(level: float, sign: int, n: int, stores: Stores) -> tuple[np.int64, np.int64]:
    """Return, in steps, what ``n`` stores give at the level, and by how much more for a level lower by 1."""
    given = np.int64(0)
    slope = np.int64(0)
    for j in range(n):
        poured_w = _poured_w(level, sign, j, stores)
        given += steps(poured_w)
        slope += steps(stores.capacity_wh[j]) if 0.0 < poured_w < stores.reach_w[j] else 0
    return given, slope


@part
def _water_level(goal_w: float, sign: int, n: int, stores: Stores) -> float:
    """Return the state of charge at which ``n`` stores together give ``goal_w``; may lie outside 0..1."""
    # At `full` every store gives its whole reach, at `none` nothing does.
    full = math.inf
    none = -math.inf
    for j in range(n):
        soc = sign * np.float64(stores.soc_frac[j])
        none = max(none, soc)
        full = min(full, soc - stores.reach_w[j] / stores.capacity_wh[j])
    if none < full:
        return 0.0
    level = 0.5 * (full + none)
    for _ in range(WATER_STEPS_MAX):
        given, slope = _pour(sign * level, sign, n, stores)
        error_w = float(given) * W_PER_STEP - goal_w
        if abs(error_w) <= LEVEL_MET_W:
            break
        if error_w > 0.0:
            full = level
        else:
            none = level
        level = level + error_w / (float(slope) * W_PER_STEP) if slope > 0 else 0.5 * (full + none)
        if not full < level < none:
            level = 0.5 * (full + none)
    return sign * level


@part
def allowed_share(share_w: float, sign: int, k: int, members: Members) -> float:
    """Return the nearest share that the device can run at: not between 0 W and its least power."""
    least_w = float(members.least_w[k])
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


@column_kernel(types.float64(types.float64, MEMBERS))
def merit_order(need_w: float, members: Members) -> float:
    """Fill the cheapest first; return what is left over (negative: an on-off device kept running gives too much)."""
    left_w = need_w
    members.share_w[:] = 0.0
    for j in range(members.order.size):
        if left_w <= 0.0:
            break
        k = index(members.order[j])
        reach_w = float(members.reach_w[k])
        if members.mode[k] != FREE or reach_w <= 0.0:
            continue
        if members.is_on_off[k] == 1:
            least_w = KEEP_FRAC * reach_w if members.held_w[k] != 0.0 else reach_w
            if left_w >= least_w:
                members.share_w[k] = reach_w
                left_w -= reach_w
        else:
            members.share_w[k] = min(reach_w, left_w)
            left_w -= min(reach_w, left_w)
    return left_w


@column_kernel(pair_of(types.float64)(MEMBERS))
def _reaches_w(members: Members) -> tuple[float, float]:
    """Return what all free members could give together, and the on-off ones among them."""
    reach = np.int64(0)
    switched = np.int64(0)
    for k in range(members.row.size):
        mine = steps(members.reach_w[k] if members.mode[k] == FREE else np.float32(0.0))
        reach += mine
        switched += mine if members.is_on_off[k] == 1 else np.int64(0)
    return float(reach) * W_PER_STEP, float(switched) * W_PER_STEP


@column_kernel(types.float64(types.float64, MEMBERS))
def _share_smooth(common_frac: float, members: Members) -> float:
    """Give every free smooth member this part of its reach; return what they give together."""
    given = np.int64(0)
    for k in range(members.row.size):
        mine_w = np.float32(common_frac * members.reach_w[k]) if members.mode[k] == FREE else np.float32(0.0)
        is_smooth = members.is_on_off[k] == 0
        members.share_w[k] = mine_w if is_smooth else members.share_w[k]
        given += steps(mine_w if is_smooth else np.float32(0.0))
    return float(given) * W_PER_STEP


@column_kernel(types.float64(types.float64, MEMBERS))
def pro_rata(need_w: float, members: Members) -> float:
    """Give everyone the same part of its reach; on-off devices make up their common part in merit order."""
    members.share_w[:] = 0.0
    reach_w, switched_w = _reaches_w(members)
    common = min(1.0, max(0.0, need_w) / reach_w) if reach_w > 0.0 else 0.0
    left_w = switch_in_order(common * switched_w, members)
    smooth_w = reach_w - switched_w
    smooth_need_w = max(0.0, common * smooth_w + left_w)
    smooth_common = min(1.0, smooth_need_w / smooth_w) if smooth_w > 0.0 else 0.0
    return need_w - (common * switched_w - left_w) - _share_smooth(smooth_common, members)


def soc_fair(need_w: float, sign: int, members: Members, nameplate: Nameplate, picture: Picture) -> float:
    """Level the stores: each gives what lies above a common state of charge (down: takes what lies below), in an hour.

    Members without a store give the same part of their reach as all would, on-off ones in merit order; stores give the
    rest, by Newton's method on the water level, guarded by bisection. Returns what is left over.
    """
    return float(_soc_fair(need_w, sign, members, nameplate, picture, _stores(members.row.size + 1)))


@column_kernel(types.int64(MEMBERS, NAMEPLATE, PICTURE, STORES))
def _gather(members: Members, nameplate: Nameplate, picture: Picture, stores: Stores) -> int:
    """Put the stores side by side; return how many there are."""
    n = 0
    for k in range(members.row.size):
        row = index(members.row[k])
        soc_frac, capacity_wh = picture.soc_frac[row], nameplate.energy_capacity_wh[row]
        # Written in any case and kept if it is one: no branch that can't be foreseen.
        stores.member[n] = k
        stores.soc_frac[n] = soc_frac
        stores.capacity_wh[n] = capacity_wh
        stores.reach_w[n] = members.reach_w[k]
        is_smooth = (members.mode[k] == FREE) & (members.is_on_off[k] == 0) & (members.reach_w[k] > 0.0)
        n += is_smooth & (capacity_wh > 0.0) & (soc_frac == soc_frac)  # noqa: PLR0124  # not NaN
    return n


@column_kernel(types.float64(types.float64, types.int64, MEMBERS, NAMEPLATE, PICTURE, STORES))
def _soc_fair(
    need_w: float, sign: int, members: Members, nameplate: Nameplate, picture: Picture, stores: Stores
) -> float:
    reach_w, switched_w = _reaches_w(members)
    n_stores = _gather(members, nameplate, picture, stores)
    common = min(1.0, max(0.0, need_w) / reach_w) if reach_w > 0.0 else 0.0
    members.share_w[:] = 0.0
    others_w = _share_smooth(common, members)
    store_w = 0.0
    for j in range(n_stores):
        others_w -= members.share_w[stores.member[j]]
        store_w += stores.reach_w[j]
    others_w += common * switched_w - switch_in_order(common * switched_w, members)
    left_w = need_w - others_w
    level = _water_level(min(max(left_w, 0.0), store_w), sign, n_stores, stores)
    given_w = 0.0
    for j in range(n_stores):
        share_w = np.float32(_poured_w(level, sign, j, stores))
        members.share_w[stores.member[j]] = share_w
        given_w += float(share_w)
    return left_w - given_w


@column_kernel(types.void(types.int64, MEMBERS))
def snap(sign: int, members: Members) -> None:
    """Move each share that would run a device below its least power: to the least power if that is nearer, else to 0 W.

    The two ends of what it can do are kept: its reference (share 0) and its full reach.
    """
    for j in range(members.with_least.size):
        k = index(members.with_least[j])
        if members.mode[k] == FREE:
            members.share_w[k] = allowed_share(float(members.share_w[k]), sign, k, members)


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
    for k in range(members.row.size):
        row = index(members.row[k])
        is_held = leases.state[row] == 1 and leases.dispatch_no[row] == dispatch_no
        if members.mode[k] in (EXCLUDED, WAITING) or (members.mode[k] == FREE and members.share_w[k] <= 0.0):
            n_let_go += 1 if is_held else 0
            continue
        reference_w = float(members.reference_w[k])
        setpoint_w = float(leases.setpoint_w[row])
        if members.mode[k] == FREE:
            wished_w = np.round(reference_w + sign * float(members.share_w[k]))
            band_w = max(dead_w, dead_frac * float(nameplate.rating_w[row]))
            allowed_w = max(allowed_w, band_w)
            given_w += members.share_w[k]
            if not is_quick(nameplate, row):
                band_w = max(band_w, SLOW_DEAD_FRAC * float(nameplate.rating_w[row]))
            if is_held and members.is_on_off[k] == 0 and abs(wished_w - setpoint_w) <= band_w:
                kept_w += wished_w - setpoint_w
            else:
                setpoint_w = wished_w
        n_called += 0 if is_held else 1
        leases.wanted_w[row] = setpoint_w
        leases.wanted_no[row] = dispatch_no
        leases.wanted_reference_w[row] = reference_w
    allowed_w = max(allowed_w, KEPT_FRAC * given_w)
    for j in range(members.order.size):
        if abs(kept_w) <= allowed_w:
            break
        k = index(members.order[j])
        row = index(members.row[k])
        if not is_quick(nameplate, row) or members.mode[k] != FREE or leases.wanted_no[row] != dispatch_no:
            continue
        wished_w = np.round(members.reference_w[k] + sign * members.share_w[k])
        difference_w = wished_w - leases.wanted_w[row]
        if difference_w * kept_w > 0.0:
            leases.wanted_w[row] = wished_w
            kept_w -= difference_w
    sums[Sum.KEPT_W] = kept_w
    return n_called, n_let_go
