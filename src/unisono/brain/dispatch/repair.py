"""The sum of shares brought to what is needed, as near as the devices allow, with as few changes as that takes.

Some devices jump: on-off ones from nothing to their full reach, others over the powers below their least one. What runs
smoothly fills what is missing first, within its own side of such a jump. Then, cheapest first, whoever brings the sum
nearer by a jump makes it; that settles a large fleet up to one jump. For the last one, all ways in which a dozen
devices can jump together are tried, counting with what the smooth ones can make up for.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, pair_of, part
from unisono.brain.dispatch.allocate import allowed_share
from unisono.brain.dispatch.exact import W_PER_STEP, steps
from unisono.brain.dispatch.members import FREE, MEMBERS, Members
from unisono.fleet.columns import F8

# Devices whose jumps are tried in all combinations: 4,096 of them take some ten microseconds.
JUMPERS_MAX: Final = 12
# One that runs already is let go for a nearer sum only if that gains a quarter of its jump: a need that moves to and
# fro by less does not switch it each time.
SWITCH_FRAC: Final = 0.25
# Setpoints are whole watts; what is nearer than this is met.
MET_W: Final = 0.5
# Of two ways that come equally near the one with fewer jumps is taken.
JUMP_W: Final = 0.01
# Columns of the room that is handed in: who it is, and where its share may lie as it is and after its jump.
_WHO, _LOW_W, _HIGH_W, _JUMPED_LOW_W, _JUMPED_HIGH_W, _PRICE_W = range(6)
_F8_2: Final = types.Array(types.float64, 2, "C")


def repair(sign: int, need_w: float, members: Members) -> float:
    """Change shares so that they add up to ``need_w`` as nearly as the members allow; return what is still missing."""
    return float(_repair(sign, need_w, members, np.empty((JUMPERS_MAX, 6))))


@part
def _gap_w(sign: int, k: int, members: Members) -> tuple[float, float]:
    """Return the ends of the shares that the device can't have; without such the full reach twice.

    Below its least power a device runs at 0 W or not at all. Of one that comes from the other side of 0 W the two
    jumps there count as one.
    """
    reach_w = float(members.reach_w[k])
    if members.is_on_off[k] == 1:
        return 0.0, reach_w
    least_w = float(members.least_w[k])
    towards_w = sign * float(members.reference_w[k])
    low_w = max(0.0, -least_w - towards_w)
    high_w = (least_w if towards_w >= 0.0 or reach_w > -towards_w else 0.0) - towards_w
    if least_w <= 0.0 or high_w <= 0.0 or low_w >= reach_w:
        return reach_w, reach_w
    return low_w, min(high_w, reach_w)


@part
def _span_w(sign: int, k: int, members: Members) -> tuple[float, float]:
    """Return between which shares the device can go without a jump."""
    share_w = float(members.share_w[k])
    low_w, high_w = _gap_w(sign, k, members)
    # Shares are of single precision.
    near_w = 1e-6 * float(members.reach_w[k])
    if share_w <= low_w + near_w:
        return 0.0, low_w
    if share_w >= high_w - near_w:
        return high_w, float(members.reach_w[k])
    return share_w, share_w


@part
def _is_of_use(k: int, members: Members) -> bool:
    return bool(members.mode[k] == FREE and members.reach_w[k] > 0.0)


@part
def _fill(left_w: float, sign: int, members: Members) -> float:
    """Ask the cheapest for what is missing, take back from the dearest what is too much; nobody jumps."""
    n = members.order.size
    is_short = left_w > 0.0
    for j in range(n):
        if abs(left_w) < MET_W:
            break
        k = members.order[j] if is_short else members.order[n - 1 - j]
        if not _is_of_use(k, members):
            continue
        before_w = float(members.share_w[k])
        low_w, high_w = _span_w(sign, k, members)
        members.share_w[k] = min(max(before_w + left_w, low_w), high_w)
        left_w -= members.share_w[k] - before_w
    return left_w


@part
def _jump_where_nearer(left_w: float, sign: int, members: Members) -> float:
    """Let whoever brings the sum nearer by it jump: dearest first back, cheapest first forth."""
    n = members.order.size
    for j in range(n):
        if abs(left_w) < MET_W:
            break
        k = members.order[j] if left_w > 0.0 else members.order[n - 1 - j]
        if not _is_of_use(k, members) or members.is_on_off[k] == 1:
            continue
        before_w = float(members.share_w[k])
        wished_w = min(max(before_w + left_w, 0.0), float(members.reach_w[k]))
        allowed_w = allowed_share(wished_w, sign, k, members)
        if abs(left_w - (allowed_w - before_w)) < abs(left_w):
            members.share_w[k] = allowed_w
            left_w -= allowed_w - before_w
    for j in range(n):
        if left_w < MET_W:
            break
        k = members.order[j]
        is_idle = _is_of_use(k, members) and members.share_w[k] == 0.0
        if is_idle and members.is_on_off[k] == 1 and left_w > 0.5 * members.reach_w[k]:
            members.share_w[k] = members.reach_w[k]
            left_w -= members.reach_w[k]
    return left_w


@part
def _note_jumper(n: int, k: int, sign: int, members: Members, jumpers: F8) -> int:
    """Append the device to the ``n`` that are tried; return how many they are then."""
    gap_low_w, gap_high_w = _gap_w(sign, k, members)
    low_w, high_w = _span_w(sign, k, members)
    is_above = low_w >= gap_high_w
    jumpers[n, _WHO] = k
    jumpers[n, _LOW_W] = low_w
    jumpers[n, _HIGH_W] = high_w
    jumpers[n, _JUMPED_LOW_W] = 0.0 if is_above else gap_high_w
    jumpers[n, _JUMPED_HIGH_W] = gap_low_w if is_above else float(members.reach_w[k])
    is_let_go = is_above and members.held_w[k] != 0.0
    jumpers[n, _PRICE_W] = JUMP_W + (SWITCH_FRAC * (gap_high_w - gap_low_w) if is_let_go else 0.0)
    return n + 1


@part
def _jumpers(sign: int, members: Members, jumpers: F8) -> int:
    """Note who is tried: of those below their jump the cheapest, of those above it the dearest; return how many."""
    n = 0
    n_members = members.order.size
    for j in range(n_members):
        for is_above in (False, True):
            k = members.order[n_members - 1 - j] if is_above else members.order[j]
            if n == JUMPERS_MAX or not _is_of_use(k, members):
                continue
            gap_low_w, gap_high_w = _gap_w(sign, k, members)
            if gap_high_w > gap_low_w and (_span_w(sign, k, members)[0] >= gap_high_w) == is_above:
                n = _note_jumper(n, k, sign, members, jumpers)
        if n == JUMPERS_MAX:
            break
    return n


@part
def _best_jumps(n: int, low_w: float, high_w: float, jumpers: F8) -> int:
    """Return, as bits, who of ``n`` must jump so that 0 comes nearest to the span of what is left, [low_w, high_w].

    Combinations follow each other in Gray's order, so that each differs from the one before by one device.
    """
    jumped = 0
    price_w = 0.0
    best = 0
    best_w = max(low_w, -high_w, 0.0)
    for count in range(1, 1 << n):
        one = 0
        while not count >> one & 1:
            one += 1
        jumped ^= 1 << one
        way = 1.0 if jumped >> one & 1 else -1.0
        low_w -= way * (jumpers[one, _JUMPED_HIGH_W] - jumpers[one, _HIGH_W])
        high_w -= way * (jumpers[one, _JUMPED_LOW_W] - jumpers[one, _LOW_W])
        price_w += way * jumpers[one, _PRICE_W]
        cost_w = max(low_w, -high_w, 0.0) + price_w
        if cost_w < best_w:
            best_w = cost_w
            best = jumped
    return best


@column_kernel(pair_of(types.float64)(MEMBERS))
def _given_and_reach_w(members: Members) -> tuple[float, float]:
    """Return what all free members give, and what they could."""
    given = np.int64(0)
    reach = np.int64(0)
    for k in range(members.row.size):
        is_free = members.mode[k] == FREE
        given += steps(members.share_w[k] if is_free else np.float32(0.0))
        reach += steps(members.reach_w[k] if is_free else np.float32(0.0))
    return float(given) * W_PER_STEP, float(reach) * W_PER_STEP


@column_kernel(types.float64(types.int64, types.float64, MEMBERS, _F8_2))
def _repair(sign: int, need_w: float, members: Members, jumpers: F8) -> float:
    given_w, reach_w = _given_and_reach_w(members)
    left_w = need_w - given_w
    beyond_w = need_w - reach_w
    if beyond_w >= 0.0:
        # All of it is needed, and everybody can run at the full reach.
        for k in range(members.row.size):
            if members.mode[k] == FREE:
                members.share_w[k] = members.reach_w[k]
        return beyond_w
    left_w = _fill(left_w, sign, members)
    left_w = _jump_where_nearer(left_w, sign, members)
    if abs(left_w) < MET_W:
        return left_w
    n = _jumpers(sign, members, jumpers)
    if n == 0:
        return left_w
    # What is left when all give the least, and the most, that they can without a jump.
    low_w = left_w
    high_w = left_w
    for k in range(members.row.size):
        if _is_of_use(k, members):
            span_w = _span_w(sign, k, members)
            low_w -= span_w[1] - members.share_w[k]
            high_w += members.share_w[k] - span_w[0]
    best = _best_jumps(n, low_w, high_w, jumpers)
    for one in range(n):
        if best >> one & 1:
            k = int(jumpers[one, _WHO])
            before_w = float(members.share_w[k])
            is_above = jumpers[one, _LOW_W] > jumpers[one, _JUMPED_LOW_W]
            members.share_w[k] = jumpers[one, _JUMPED_HIGH_W] if is_above else jumpers[one, _JUMPED_LOW_W]
            left_w -= members.share_w[k] - before_w
    return _fill(left_w, sign, members)
