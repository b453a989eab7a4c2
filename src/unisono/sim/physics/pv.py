"""Rooftop PV: follows what the sun gives, up to its inverter's limit, and can be held below it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

POWER = 0
N_STATES = 1
DC, AC_MAX, NORMAL_EAST, NORMAL_NORTH, NORMAL_UP, ZONE = 0, 1, 2, 3, 4, 5
N_FIXED = 6

# Curtailing moves at a tenth of the rating a second (IEEE 1547-2018, 6.5.2: ramps of seconds are allowed).
RAMP_FRAC_PER_S = 0.1


@kernel("void(f8[:,:,::1], f8[:,::1], f8[::1], f8[::1], f8[::1], f8[::1], f8)")
def advance(
    state: NDArray[np.float64],
    fixed: NDArray[np.float64],
    commanded_w: NDArray[np.float64],
    available_w: NDArray[np.float64],
    power_w: NDArray[np.float64],
    twin_w: NDArray[np.float64],
    step_s: float,
) -> None:
    """Advance all arrays by ``step_s``; ``available_w[row]`` is the AC power before the inverter's limit."""
    for i in range(commanded_w.size):
        sun = min(fixed[AC_MAX, i], max(0.0, available_w[i]))
        given = sun
        if not math.isnan(commanded_w[i]):
            held = max(0.0, commanded_w[i])
            reach = RAMP_FRAC_PER_S * fixed[AC_MAX, i] * step_s
            given = min(sun, max(held, state[POWER, 0, i] - reach))
        state[POWER, 0, i] = given
        state[POWER, 1, i] = sun
        power_w[i] = given
        twin_w[i] = sun
