"""Commercial and industrial flexible load: sheds in blocks, for a longest time, and takes part of the energy back."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

POWER, OWED_WH, SHED_S = 0, 1, 2
N_STATES = 3
P_MAX, N_BLOCKS, RAMP, REBOUND_FRAC, DURATION_MAX_S = 0, 1, 2, 3, 4
N_FIXED = 5

# What is owed comes back over about an hour, at no more than 15 % of the rating (rebound of cold stores and chillers).
REBOUND_H = 1.0
REBOUND_MAX_FRAC = 0.15


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
    """Advance all loads by ``step_s``; ``base_w[row]`` <= 0 is what the process would take."""
    hours = step_s / 3600.0
    for i in range(commanded_w.size):
        p_max = fixed[P_MAX, i]
        base = min(p_max, max(0.0, -base_w[i]))
        for k in range(2):
            taken, owed, shed_s = base, state[OWED_WH, k, i], state[SHED_S, k, i]
            is_called = k == 0 and not math.isnan(commanded_w[i])
            if is_called and shed_s < fixed[DURATION_MAX_S, i]:
                wanted = min(base, max(0.0, -commanded_w[i]))
                block = p_max / fixed[N_BLOCKS, i]
                taken = max(0.0, base - block * math.floor((base - wanted) / block + 0.5))
                shed_s += step_s if taken < base else 0.0
            elif is_called:
                # Shed for as long as the process allows: it goes on, until the caller lets go.
                taken = base
            else:
                shed_s = 0.0
                extra = min(owed / REBOUND_H, REBOUND_MAX_FRAC * p_max, p_max - base)
                taken = base + extra
            reach = fixed[RAMP, i] * step_s
            if k == 0 and state[POWER, 0, i] != state[POWER, 1, i]:
                before = -state[POWER, k, i]
                taken = min(before + reach, max(before - reach, taken))
            owed += ((base - taken) * fixed[REBOUND_FRAC, i] if taken < base else base - taken) * hours
            state[POWER, k, i], state[OWED_WH, k, i], state[SHED_S, k, i] = -taken, max(0.0, owed), shed_s
            if k == 0:
                power_w[i] = -taken
            else:
                twin_w[i] = -taken
