"""On-off members called in merit order: whole bundles of neighbours first, one by one only where the sum ends.

To follow the order of merit is to jump through memory. Members are gone through in the order of their rows instead,
once to add up each bundle and once to call those in full bundles.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, index
from unisono.brain.dispatch.members import BUNDLE, FREE, MEMBERS, Members

# A running on-off device is kept until less than half of it is needed; one that stands is called when all of it is.
KEEP_FRAC: Final = 0.5
# Marks a bundle that is called as a whole.
_CALLED: Final = -1.0


@column_kernel(types.float64(types.float64, MEMBERS))
def switch_in_order(goal_w: float, members: Members) -> float:
    """Call on-off devices in merit order up to ``goal_w``; return what is left of it. The shares of others stay."""
    members.bundle_w[:] = 0.0
    members.bundle_least_w[:] = np.inf
    for j in range(members.switches.size):
        k = index(members.switches[j])
        bundle = index(members.bundle[j])
        mine_w, held_w = members.reach_w[k], members.held_w[k]
        reach_w = np.float64(mine_w if members.mode[k] == FREE else np.float32(0.0))
        least_w = reach_w * (KEEP_FRAC if held_w != 0.0 else 1.0)
        members.share_w[k] = 0.0
        members.bundle_w[bundle] += reach_w
        members.bundle_least_w[bundle] = min(members.bundle_least_w[bundle], least_w if least_w > 0.0 else np.inf)
    left_w = goal_w
    for bundle in range(members.bundle_w.size):
        if members.bundle_w[bundle] <= left_w:
            left_w -= members.bundle_w[bundle]
            members.bundle_w[bundle] = _CALLED
            continue
        if left_w < members.bundle_least_w[bundle]:
            continue
        for j in range(bundle * BUNDLE, min((bundle + 1) * BUNDLE, members.switch_order.size)):
            k = index(members.switch_order[j])
            if members.mode[k] != FREE or members.reach_w[k] <= 0.0:
                continue
            if left_w >= (KEEP_FRAC if members.held_w[k] != 0.0 else 1.0) * members.reach_w[k]:
                members.share_w[k] = members.reach_w[k]
                left_w -= members.reach_w[k]
    for j in range(members.switches.size):
        k = index(members.switches[j])
        # Chosen, not branched to: which bundle is called can't be foreseen.
        share_w, reach_w = members.share_w[k], members.reach_w[k]
        is_called = (members.bundle_w[index(members.bundle[j])] == _CALLED) & (members.mode[k] == FREE)
        members.share_w[k] = reach_w if is_called else share_w
    return left_w
