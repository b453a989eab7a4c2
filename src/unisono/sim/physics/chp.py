"""Combined heat and power: heat-led by itself; runs between half and full power, with minimum times and a ramp."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

POWER, IS_ON, SINCE_S = 0, 1, 2
N_STATES = 3
P_MAX, MIN_FRAC, RAMP, MIN_ON_S, MIN_OFF_S = 0, 1, 2, 3, 4
N_FIXED = 5


@kernel("void(f8[:,:,::1], f8[:,::1], f8[::1], f8[::1], f8[::1], f8[::1], f8)")
def advance(
    state: NDArray[np.float64],
    fixed: NDArray[np.float64],
    commanded_w: NDArray[np.float64],
    base_w: NDArray[np.float64],
    power_w: NDArray[np.float64],
    twin_w: NDArray[np.float64],
    step_s: float,
) -> None:
    """Advance all engines by ``step_s``; ``base_w[row]`` is what the heat demand asks for (0: off)."""
    for i in range(commanded_w.size):
        p_max = fixed[P_MAX, i]
        p_least = fixed[MIN_FRAC, i] * p_max
        for k in range(2):
            wanted = base_w[i]
            if k == 0 and not math.isnan(commanded_w[i]):
                wanted = commanded_w[i]
            wanted = min(p_max, max(0.0, wanted))
            was_on, since = state[IS_ON, k, i] > 0.0, state[SINCE_S, k, i]
            is_on = wanted >= 0.5 * p_least
            if is_on != was_on and since < (fixed[MIN_ON_S, i] if was_on else fixed[MIN_OFF_S, i]):
                is_on = was_on
            aim = max(p_least, wanted) if is_on else 0.0
            before, reach = state[POWER, k, i], fixed[RAMP, i] * step_s
            given = min(before + reach, max(before - reach, aim))
            state[POWER, k, i] = given
            state[IS_ON, k, i] = 1.0 if is_on else 0.0
            state[SINCE_S, k, i] = since + step_s if is_on == was_on else step_s
            if k == 0:
                power_w[i] = given
            else:
                twin_w[i] = given
