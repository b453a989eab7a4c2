"""A house with a heat pump behind a thermostat: two resistances, two capacities, compressor minimum times.

The air node exchanges heat with outdoors and with the building's mass (2R2C, as in Bacher, Madsen: Identifying suitable
models for the heat dynamics of buildings, 2011). The compressor stays on and off for its minimum times whatever is
asked; outside the owner's comfort band it follows the owner.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

AIR, MASS, IS_ON, SINCE_S, MODE, SAVES_COMFORT = 0, 1, 2, 3, 4, 5
N_STATES = 6
(P_COMPRESSOR, COP, UA, H_MASS, C_AIR, C_MASS, HEAT_SET, COOL_SET, BAND, LOW, HIGH, MIN_ON_S, MIN_OFF_S, ZONE) = range(
    14
)
N_FIXED = 14

HEATS, COOLS = 1.0, -1.0
# A comfort rescue goes this far back into the band before it lets go again.
RESCUE_K = 0.5


@kernel("f8(f8, f8, f8)")
def _wish(air_degc: float, heat_set_degc: float, cool_set_degc: float) -> float:
    """Return how far the air is out of the setpoints: positive asks for heat, negative for cold."""
    if air_degc < heat_set_degc:
        return heat_set_degc - air_degc
    if air_degc > cool_set_degc:
        return cool_set_degc - air_degc
    return 0.0


@kernel("void(f8[:,:,::1], f8[:,::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8)")
def advance(
    state: NDArray[np.float64],
    fixed: NDArray[np.float64],
    commanded_w: NDArray[np.float64],
    gains_w: NDArray[np.float64],
    ambient_degc: NDArray[np.float64],
    power_w: NDArray[np.float64],
    twin_w: NDArray[np.float64],
    step_s: float,
) -> None:
    """Advance all houses by ``step_s``; ``gains_w[row]`` is sun and people inside."""
    for i in range(commanded_w.size):
        outside = ambient_degc[int(fixed[ZONE, i])]
        half = 0.5 * fixed[BAND, i]
        for k in range(2):
            air, mass, mode = state[AIR, k, i], state[MASS, k, i], state[MODE, k, i]
            was_on = state[IS_ON, k, i] > 0.0
            # Own thermostat: on when out of the band, off when half a band beyond the setpoint on the good side.
            wish = _wish(air, fixed[HEAT_SET, i] - half, fixed[COOL_SET, i] + half)
            if wish != 0.0:
                mode = HEATS if wish > 0.0 else COOLS
            past = air > fixed[HEAT_SET, i] + half if mode == HEATS else air < fixed[COOL_SET, i] - half
            is_on = wish != 0.0 or (was_on and not past)
            if k == 0 and not math.isnan(commanded_w[i]):
                margin = RESCUE_K if state[SAVES_COMFORT, k, i] > 0.0 else 0.0
                too_cold, too_hot = air < fixed[LOW, i] + margin, air > fixed[HIGH, i] - margin
                rescues = (too_cold and mode == HEATS) or (too_hot and mode == COOLS)
                forbids = (too_hot and mode == HEATS) or (too_cold and mode == COOLS)
                state[SAVES_COMFORT, k, i] = 1.0 if rescues or forbids else 0.0
                is_on = (rescues or commanded_w[i] < -0.5 * fixed[P_COMPRESSOR, i]) and not forbids
            else:
                state[SAVES_COMFORT, k, i] = 0.0
            since = state[SINCE_S, k, i]
            if is_on != was_on and since < (fixed[MIN_ON_S, i] if was_on else fixed[MIN_OFF_S, i]):
                is_on = was_on
            state[SINCE_S, k, i] = since + step_s if is_on == was_on else step_s
            given = fixed[P_COMPRESSOR, i] if is_on else 0.0
            to_mass_w = fixed[H_MASS, i] * (air - mass)
            heat_w = gains_w[i] + fixed[UA, i] * (outside - air) - to_mass_w + mode * fixed[COP, i] * given
            state[AIR, k, i] = air + heat_w * step_s / fixed[C_AIR, i]
            state[MASS, k, i] = mass + to_mass_w * step_s / fixed[C_MASS, i]
            state[IS_ON, k, i] = 1.0 if is_on else 0.0
            state[MODE, k, i] = mode
            if k == 0:
                power_w[i] = -given
            else:
                twin_w[i] = -given
