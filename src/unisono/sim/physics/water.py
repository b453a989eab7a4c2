"""Electric water heater: a tank of two nodes, one element, hysteresis, and draws.

Draws leave the upper node, mains water enters the lower one; when the lower node gets warmer than the upper they mix
(two-node tank of Kondoh, Lu, Hammerstrom: An evaluation of the water heater load potential, IEEE Trans. Power Syst.
2011). Standing losses about 1.5 W/K. The owner's least temperature holds whatever is asked.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

UPPER, LOWER, IS_ON, SAVES_COMFORT = 0, 1, 2, 3
N_STATES = 4
P_ELEMENT, VOLUME_L, UA, SETPOINT, BAND, COMFORT_LOW, T_MAX = 0, 1, 2, 3, 4, 5, 6
N_FIXED = 7

WH_PER_L_K = 1.1611  # 4.18 kJ/(kg K) at 1 kg/l
ROOM_DEGC = 19.7  # 67.5 F, the ambient of NREL's water-heater fleet data
UPPER_SHARE = 0.4
# A comfort rescue heats this far above the least temperature before it lets go again.
RESCUE_K = 3.0


@kernel("void(f8[:,:,::1], f8[:,::1], f8[::1], f8[::1], f8, f8[::1], f8[::1], f8)")
def advance(
    state: NDArray[np.float64],
    fixed: NDArray[np.float64],
    commanded_w: NDArray[np.float64],
    draw_l_per_min: NDArray[np.float64],
    mains_degc: float,
    power_w: NDArray[np.float64],
    twin_w: NDArray[np.float64],
    step_s: float,
) -> None:
    """Advance all tanks by ``step_s``."""
    hours = step_s / 3600.0
    for i in range(commanded_w.size):
        p_element, volume = fixed[P_ELEMENT, i], fixed[VOLUME_L, i]
        heat_upper = UPPER_SHARE * volume * WH_PER_L_K
        heat_lower = (1.0 - UPPER_SHARE) * volume * WH_PER_L_K
        drawn_wh_k = min(draw_l_per_min[i] * step_s / 60.0 * WH_PER_L_K, 0.5 * heat_upper)
        for k in range(2):
            upper, lower = state[UPPER, k, i], state[LOWER, k, i]
            is_on = state[IS_ON, k, i] > 0.0
            if k == 0 and not math.isnan(commanded_w[i]):
                saves = upper < fixed[COMFORT_LOW, i] + (RESCUE_K if state[SAVES_COMFORT, k, i] > 0.0 else 0.0)
                state[SAVES_COMFORT, k, i] = 1.0 if saves else 0.0
                is_on = (saves or commanded_w[i] < -0.5 * p_element) and lower < fixed[T_MAX, i]
            else:
                state[SAVES_COMFORT, k, i] = 0.0
                if lower >= fixed[SETPOINT, i]:
                    is_on = False
                elif lower < fixed[SETPOINT, i] - fixed[BAND, i] or upper < fixed[SETPOINT, i] - 2.0 * fixed[BAND, i]:
                    is_on = True
            given = p_element if is_on else 0.0
            loss = fixed[UA, i]
            # Draw: what leaves above is replaced from below, and below from the mains.
            upper += drawn_wh_k * (lower - upper) / heat_upper
            lower += drawn_wh_k * (mains_degc - lower) / heat_lower
            upper -= loss * UPPER_SHARE * (upper - ROOM_DEGC) * hours / heat_upper
            lower += (given - loss * (1.0 - UPPER_SHARE) * (lower - ROOM_DEGC)) * hours / heat_lower
            if lower > upper:
                mixed = (upper * heat_upper + lower * heat_lower) / (heat_upper + heat_lower)
                upper, lower = mixed, mixed
            state[UPPER, k, i], state[LOWER, k, i] = upper, lower
            state[IS_ON, k, i] = 1.0 if is_on else 0.0
            if k == 0:
                power_w[i] = -given
            else:
                twin_w[i] = -given
