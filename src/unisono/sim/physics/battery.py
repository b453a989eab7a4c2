"""Home battery: taper, losses, derating by temperature, a reserve, a ramp, and optionally self-consumption.

Charging tapers above 90 % (constant-voltage phase) and output fades over the last 2 % above the reserve. The inverter
loses a share of the power that passes and 0.4 % of its rating while it runs (Sandia inverter model, King et al. 2007:
self-consumption of 0.3-1 % of rating). Power falls by 2.5 %/K above 40 degC of cell surroundings, charging by 4 %/K
below 5 degC, after data sheets of wall batteries.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

SOC, POWER = 0, 1
N_STATES = 2
P_MAX, CAPACITY, ETA, RESERVE, RAMP, FOLLOWS_LOAD, ZONE = 0, 1, 2, 3, 4, 5, 6
N_FIXED = 7

TAPER_FROM_SOC = 0.9
FADE_SOC = 0.02
RUN_LOSS_FRAC = 0.004
# Surroundings of a wall battery: a garage damps the weather.
GARAGE_DEGC, GARAGE_SHARE = 15.0, 0.6


@kernel("f8(f8, f8)")
def derating(ambient_degc: float, direction: float) -> float:
    """Return the share of the rating that is left; ``direction`` is positive for discharge."""
    garage_degc = GARAGE_DEGC + GARAGE_SHARE * (ambient_degc - GARAGE_DEGC)
    share = 1.0 - 0.025 * max(0.0, garage_degc - 40.0)
    if direction < 0.0:
        share -= 0.04 * max(0.0, 5.0 - garage_degc)
    return min(1.0, max(0.1, share))


@kernel("f8(f8, f8, f8, f8)")
def discharge_limit_w(soc_frac: float, power_max_w: float, reserve_frac: float, ambient_degc: float) -> float:
    """Return the most that the battery gives now, before its energy is considered."""
    return power_max_w * derating(ambient_degc, 1.0) * min(1.0, max(0.0, (soc_frac - reserve_frac) / FADE_SOC))


@kernel("void(f8[:,:,::1], f8[:,::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8)")
def advance(
    state: NDArray[np.float64],
    fixed: NDArray[np.float64],
    commanded_w: NDArray[np.float64],
    net_load_w: NDArray[np.float64],
    ambient_degc: NDArray[np.float64],
    power_w: NDArray[np.float64],
    twin_w: NDArray[np.float64],
    step_s: float,
) -> None:
    """Advance all batteries by ``step_s``; ``net_load_w[row]`` is what a self-consuming battery would cover."""
    hours = step_s / 3600.0
    for i in range(commanded_w.size):
        p_max, capacity, eta, reserve = fixed[P_MAX, i], fixed[CAPACITY, i], fixed[ETA, i], fixed[RESERVE, i]
        outside = ambient_degc[int(fixed[ZONE, i])]
        for k in range(2):
            soc, before = state[SOC, k, i], state[POWER, k, i]
            wanted = 0.0
            if k == 0 and not math.isnan(commanded_w[i]):
                wanted = commanded_w[i]
            elif fixed[FOLLOWS_LOAD, i] > 0.0:
                wanted = net_load_w[i]
            reach = fixed[RAMP, i] * step_s
            wanted = min(before + reach, max(before - reach, wanted))
            if wanted > 0.0:
                most = discharge_limit_w(soc, p_max, reserve, outside)
                stored = max(0.0, soc - reserve) * capacity / hours
                # Running losses come out of the store too, so that it never falls below the reserve.
                most = min(most, max(0.0, (stored - RUN_LOSS_FRAC * p_max) * eta))
                given = min(wanted, most)
                drawn = given / eta + RUN_LOSS_FRAC * p_max if given > 0.0 else 0.0
            elif wanted < 0.0:
                most = p_max * derating(outside, -1.0) * min(1.0, max(0.0, (1.0 - soc) / (1.0 - TAPER_FROM_SOC)))
                room = max(0.0, 1.0 - soc) * capacity / hours
                most = min(most, room / eta + RUN_LOSS_FRAC * p_max)
                given = -min(-wanted, most)
                drawn = given * eta + RUN_LOSS_FRAC * p_max if given < 0.0 else 0.0
                drawn = min(drawn, max(0.0, soc) * capacity / hours)
            else:
                given, drawn = 0.0, 0.0
            state[SOC, k, i] = min(1.0, soc - drawn * hours / capacity)
            state[POWER, k, i] = given
            if k == 0:
                power_w[i] = given
            else:
                twin_w[i] = given
