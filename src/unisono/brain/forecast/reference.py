"""``reference_w``: what a device would do without an event, with its method named. It steers; it settles nothing.

Storage: its plan, or 0; a battery that has worked for its household lately is taken to go on with the mean of that.
PV: its last value times the clear-sky ratio. Loads: the mean of about the last quarter of an hour of undispatched
running, by exponential forgetting, with the seen share of the window as its weight; a device that was seen for less
than a minute is taken at its last value.

Loads that switch (water heaters, thermostats) are called on by their mean and not because they are on just now: those
that are off are held off as well, so that the sum over many is the sum of their means. What bias remains: a
device is called first when its recent mean is high, and that is likelier near the end of its run than at its
start. So the recent mean is drawn half-way to the three-hour mean, once an hour of that has been seen; the half is a
choice, not a fit: thermal cycles last about an hour, so a quarter-hour's mean keeps about half of its deviation.
The dispatch lets what is left of a run fade (see `brain.dispatch.weigh`).
EVs and chargers run for hours once they run: for them it is the smaller of mean and last value, so that a car which has
left or is full is credited with nothing.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, part
from unisono.fleet.columns import LEASES, NAMEPLATE, PICTURE, Leases, Nameplate, Picture

_PV, _BESS, _EV, _EVSE, _WATER_HEATER, _THERMOSTAT = 1, 2, 3, 4, 5, 6
# ReferenceMethod codes.
_NONE, _RECENT_MEAN, _PLAN_OR_ZERO, _CLEAR_SKY_RATIO, _LAST_VALUE = range(5)
# Weight of one minute in a 15-min window: 1 - exp(-1/15).
WEIGHT_OF_A_MINUTE: Final = 0.0645
# Weight of one hour in a 3 h window: 1 - exp(-1/3).
WEIGHT_OF_AN_HOUR: Final = 0.283
SHRINK_FRAC: Final = 0.5
# A battery whose mean power is above this share of its rating follows its household or its own plan; below is noise.
OWN_WORK_FRAC: Final = 0.03


@part
def _mean_w(nameplate: Nameplate, picture: Picture, row: int) -> float:
    """Return the mean that stands for the device's near future."""
    mean_w = float(picture.mean_w[row])
    technology = nameplate.technology[row]
    if technology in (_EV, _EVSE):
        power_w = float(picture.power_w[row])
        return mean_w if abs(mean_w) < abs(power_w) else power_w
    if nameplate.is_on_off[row] == 1 and picture.long_mean_weight[row] >= WEIGHT_OF_AN_HOUR:
        return mean_w + SHRINK_FRAC * (float(picture.long_mean_w[row]) - mean_w)
    return mean_w


@part
def _works_for_its_home(nameplate: Nameplate, picture: Picture, row: int) -> bool:
    """Return whether a battery that nobody dispatches has lately given or taken on the whole."""
    own_w = abs(float(picture.mean_w[row]))
    return bool(picture.mean_weight[row] >= WEIGHT_OF_A_MINUTE and own_w >= OWN_WORK_FRAC * nameplate.rating_w[row])


@column_kernel(types.void(types.int64, NAMEPLATE, PICTURE, LEASES))
def refer(n: int, nameplate: Nameplate, picture: Picture, leases: Leases) -> None:
    """Set reference_w and its method for every row that holds no lease; a held one keeps its own."""
    for row in range(n):
        power_w = picture.power_w[row]
        technology = nameplate.technology[row]
        if leases.state[row] != 0:
            continue
        if math.isnan(power_w):
            picture.reference_w[row] = 0.0
            picture.reference_method[row] = _NONE
        elif technology == _BESS and not _works_for_its_home(nameplate, picture, row):
            picture.reference_w[row] = 0.0
            picture.reference_method[row] = _PLAN_OR_ZERO
        elif technology == _PV:
            picture.reference_w[row] = max(power_w, np.float32(0.0))
            picture.reference_method[row] = _CLEAR_SKY_RATIO
        elif picture.mean_weight[row] < WEIGHT_OF_A_MINUTE or math.isnan(picture.mean_w[row]):
            picture.reference_w[row] = power_w
            picture.reference_method[row] = _LAST_VALUE
        else:
            picture.reference_w[row] = _mean_w(nameplate, picture, row)
            picture.reference_method[row] = _RECENT_MEAN
