"""Firm flexibility: a lower bound of what a portfolio can be relied on for, beyond its reference, over a hold.

Fresh devices count with a derate by technology times their own record; stale ones by half of that; silent, suspect,
unknown, refusing and opted-out ones with nothing, nor those that no further dispatch may call on in this season. A
device that can't hold counts with its energy spread over the hold.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, part
from unisono.fleet.columns import F4, F8, LEASES, NAMEPLATE, PICTURE, Leases, Nameplate, Picture
from unisono.fleet.evidence import is_used_up

# What a technology can be relied on for, index Technology. Until a fleet's own record is there these are priors: a
# battery does what it is told but for its taper; a car is unplugged, a tank is off, an owner turns the thermostat back.
DERATE: Final = np.array([0.5, 0.90, 0.93, 0.80, 0.80, 0.80, 0.75, 0.85, 0.90], np.float64)
STALE_WEIGHT: Final = 0.5
_FRESH, _STALE = 1, 2
_PV: Final = 1

_F4 = types.Array(types.float32, 1, "C")
_F8 = types.Array(types.float64, 1, "C")


@part
def _share_of_hold(holds_s: float, hold_s: float) -> float:
    """Return how much of the hold the device lasts, as a share of its power: it can give less, but longer."""
    return 1.0 if holds_s >= hold_s else max(0.0, holds_s / hold_s) if math.isfinite(holds_s) else 1.0


@column_kernel(types.void(types.int64, types.int64, types.float64, _F8, NAMEPLATE, PICTURE, LEASES, _F4, _F4))
def firm_w(
    n: int,
    mono_ns: int,
    hold_s: float,
    derate: F8,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    up_w: F4,
    down_w: F4,
) -> None:
    """Write each row's firm power up and down (both >= 0) over ``hold_s``."""
    for row in range(n):
        up_w[row] = 0.0
        down_w[row] = 0.0
        trust = picture.trust[row]
        if trust not in (_FRESH, _STALE):
            continue
        if picture.is_opted_out[row] == 1 or nameplate.lifecycle[row] != 2 or is_used_up(nameplate, leases, row):
            continue
        if mono_ns < leases.refused_until_mono_ns[row] or picture.high_w[row] - picture.low_w[row] < 1.0:
            continue
        weight = derate[min(nameplate.technology[row], derate.size - 1)] * min(1.0, picture.record_frac[row])
        if trust == _STALE:
            weight *= STALE_WEIGHT
        reference_w = picture.reference_w[row]
        could_w = max(0.0, float(picture.high_w[row] - reference_w))
        if nameplate.technology[row] != _PV:
            up_w[row] = weight * could_w * _share_of_hold(float(picture.hold_up_s[row]), hold_s)
        could_w = max(0.0, float(reference_w - picture.low_w[row]))
        down_w[row] = weight * could_w * _share_of_hold(float(picture.hold_down_s[row]), hold_s)
