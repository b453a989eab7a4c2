"""Cars at home: managed chargers (EVSE) and cars that also give back (EV).

A session has an arrival, a departure and an energy to be charged. J1772 cannot signal less than 6 A (SAE J1772,
IEC 61851-1 annex A): at 240 V that is 1.44 kW, below it charging pauses. Whatever is asked, the car charges at full
power once the time left is only just enough to be ready. Losses are a share of the power that passes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

SOC, POWER, CONNECTED = 0, 1, 2
N_STATES = 3
P_CHARGE, P_DISCHARGE, CAPACITY, ETA, P_STEP_MIN, RESERVE, RAMP, TARGET = 0, 1, 2, 3, 4, 5, 6, 7
N_FIXED = 8
ARRIVES_S, DEPARTS_S, NEED_FRAC = 0, 1, 2
N_SESSION = 3

# The car insists on charging when the time left is less than this many times what it needs.
READY_MARGIN = 1.15


@kernel("b1(f8, f8, f8, f8, f8)")
def must_charge(missing_frac: float, capacity_wh: float, charge_w: float, eta: float, left_s: float) -> bool:
    """Say whether the car has to charge at full power from now on to be ready."""
    needed_s = missing_frac * capacity_wh / (charge_w * eta) * 3600.0
    return needed_s > 0.0 and needed_s * READY_MARGIN >= left_s


@kernel("void(f8[:,:,::1], f8[:,::1], f8[:,::1], f8[::1], f8[::1], f8[::1], f8, f8)")
def advance(
    state: NDArray[np.float64],
    fixed: NDArray[np.float64],
    session: NDArray[np.float64],
    commanded_w: NDArray[np.float64],
    power_w: NDArray[np.float64],
    twin_w: NDArray[np.float64],
    now_s: float,
    step_s: float,
) -> None:
    """Advance all chargers to ``now_s``; ``session[fact, row]`` is the present or next session, in UTC seconds."""
    hours = step_s / 3600.0
    for i in range(commanded_w.size):
        is_here = session[ARRIVES_S, i] <= now_s < session[DEPARTS_S, i]
        capacity, eta, target = fixed[CAPACITY, i], fixed[ETA, i], fixed[TARGET, i]
        for k in range(2):
            soc, before, given = state[SOC, k, i], state[POWER, k, i], 0.0
            if is_here and state[CONNECTED, k, i] == 0.0:
                soc = max(0.05, target - session[NEED_FRAC, i])
                before = 0.0
            state[CONNECTED, k, i] = 1.0 if is_here else 0.0
            if is_here:
                p_charge, p_step_min = fixed[P_CHARGE, i], fixed[P_STEP_MIN, i]
                wanted = -p_charge
                if k == 0 and not math.isnan(commanded_w[i]):
                    wanted = commanded_w[i]
                    if must_charge(target - soc, capacity, p_charge, eta, session[DEPARTS_S, i] - now_s):
                        wanted = -p_charge
                wanted = min(fixed[P_DISCHARGE, i], max(-p_charge, wanted))
                room_w = max(0.0, target - soc) * capacity / hours / eta
                stored_w = max(0.0, soc - fixed[RESERVE, i]) * capacity / hours * eta
                reach = fixed[RAMP, i] * step_s
                given = min(before + reach, max(before - reach, wanted))
                if wanted <= -p_step_min:
                    given = min(given, -p_step_min)
                elif wanted < 0.0:
                    given = 0.0
                given = min(stored_w, max(-room_w, given))
                if -p_step_min < given < 0.0:
                    # The last watt-hours go in at the least current, for part of the step.
                    given = -room_w if room_w < p_step_min else 0.0
                soc -= (given / eta if given > 0.0 else given * eta) * hours / capacity
            state[SOC, k, i] = soc
            state[POWER, k, i] = given
            if k == 0:
                power_w[i] = given
            else:
                twin_w[i] = given
