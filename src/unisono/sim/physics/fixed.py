"""What each technology's kernel needs to know of its devices: the nameplate, and what nobody enrolled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisono.model.technology import Technology
from unisono.sim.physics import battery, block, chp, house, pv, vehicle, water
from unisono.sim.roster import Roster
from unisono.sim.spec import WorldSpec

Floats = NDArray[np.float64]

N_STATES = {
    Technology.PV: pv.N_STATES,
    Technology.BESS: battery.N_STATES,
    Technology.EV: vehicle.N_STATES,
    Technology.EVSE: vehicle.N_STATES,
    Technology.WATER_HEATER: water.N_STATES,
    Technology.THERMOSTAT: house.N_STATES,
    Technology.FLEX_LOAD: block.N_STATES,
    Technology.CHP: chp.N_STATES,
}


def fixed_of_technology(spec: WorldSpec, roster: Roster) -> dict[Technology, Floats]:
    """Return ``fixed[fact, row]`` for each technology."""
    return {t: _fixed(t, spec, roster, rows) for t, rows in roster.rows_of.items()}


def first_state(t: Technology, fixed: Floats, rng: np.random.Generator) -> Floats:
    """Return a plausible state before the spin-up, twin equal to actual."""
    n = fixed.shape[1]
    state = np.zeros((N_STATES[t], 2, n))
    if t == Technology.BESS:
        # Between the reserve and full: owners in programmes keep batteries well charged.
        state[battery.SOC] = fixed[battery.RESERVE] + (1.0 - fixed[battery.RESERVE]) * rng.uniform(0.45, 1.0, n)
    elif t in (Technology.EV, Technology.EVSE):
        state[vehicle.SOC] = fixed[vehicle.TARGET]
    elif t == Technology.WATER_HEATER:
        state[water.UPPER] = fixed[water.SETPOINT]
        state[water.LOWER] = fixed[water.SETPOINT] - fixed[water.BAND] * rng.random(n)
    elif t == Technology.THERMOSTAT:
        state[house.AIR] = fixed[house.HEAT_SET] + rng.uniform(-0.5, 0.5, n) * fixed[house.BAND]
        state[house.MASS] = state[house.AIR]
        state[house.SINCE_S] = 3600.0
        state[house.MODE] = house.HEATS
    elif t == Technology.CHP:
        state[chp.SINCE_S] = 3600.0
    return state


def _fixed(t: Technology, spec: WorldSpec, roster: Roster, rows: slice) -> Floats:
    rng = np.random.default_rng([spec.seed, 3, int(t)])
    if t == Technology.PV:
        return _arrays(roster, rows, rng)
    if t == Technology.BESS:
        return _batteries(roster, rows, rng, spec.self_consumption_frac)
    if t in (Technology.EV, Technology.EVSE):
        return _vehicles(roster, rows, rng)
    if t == Technology.WATER_HEATER:
        return _tanks(roster, rows, rng)
    if t == Technology.THERMOSTAT:
        return _houses(roster, rows, rng)
    if t == Technology.FLEX_LOAD:
        return _blocks(roster, rows, rng)
    return _engines(roster, rows)


def _rows(n_fixed: int, rows: slice) -> Floats:
    return np.zeros((n_fixed, rows.stop - rows.start))


def _arrays(roster: Roster, rows: slice, rng: np.random.Generator) -> Floats:
    fixed = _rows(pv.N_FIXED, rows)
    n = fixed.shape[1]
    fixed[pv.AC_MAX] = roster.nameplate.power_max_w[rows]
    fixed[pv.DC] = fixed[pv.AC_MAX] * rng.uniform(1.1, 1.3, n)
    tilt, azimuth = np.radians(rng.uniform(15.0, 35.0, n)), np.radians(rng.normal(180.0, 45.0, n))
    fixed[pv.NORMAL_EAST] = np.sin(tilt) * np.sin(azimuth)
    fixed[pv.NORMAL_NORTH] = np.sin(tilt) * np.cos(azimuth)
    fixed[pv.NORMAL_UP] = np.cos(tilt)
    fixed[pv.ZONE] = roster.zone_of_row[rows]
    return fixed


def _batteries(roster: Roster, rows: slice, rng: np.random.Generator, follows_frac: float) -> Floats:
    fixed, plate = _rows(battery.N_FIXED, rows), roster.nameplate
    n = fixed.shape[1]
    fixed[battery.P_MAX] = plate.power_max_w[rows]
    # Age: up to 15 % of the enrolled energy is gone.
    fixed[battery.CAPACITY] = plate.energy_capacity_wh[rows] * rng.uniform(0.88, 1.0, n)
    fixed[battery.ETA] = plate.efficiency_frac[rows]
    fixed[battery.RESERVE] = plate.soc_reserve_frac[rows]
    fixed[battery.RAMP] = plate.ramp_w_per_s[rows]
    fixed[battery.FOLLOWS_LOAD] = rng.random(n) < follows_frac
    fixed[battery.ZONE] = roster.zone_of_row[rows]
    return fixed


def _vehicles(roster: Roster, rows: slice, rng: np.random.Generator) -> Floats:
    fixed, plate = _rows(vehicle.N_FIXED, rows), roster.nameplate
    n = fixed.shape[1]
    fixed[vehicle.P_CHARGE] = -plate.power_min_w[rows]
    fixed[vehicle.P_DISCHARGE] = plate.power_max_w[rows]
    enrolled = plate.energy_capacity_wh[rows]
    fixed[vehicle.CAPACITY] = np.where(enrolled > 0.0, enrolled, rng.choice([60.0, 75.0, 82.0], n) * 1000.0)
    fixed[vehicle.ETA] = plate.efficiency_frac[rows]
    fixed[vehicle.P_STEP_MIN] = plate.power_step_min_w[rows]
    fixed[vehicle.RESERVE] = plate.soc_reserve_frac[rows]
    fixed[vehicle.RAMP] = plate.ramp_w_per_s[rows]
    fixed[vehicle.TARGET] = rng.choice([0.8, 0.85, 0.9], n)
    return fixed


def _tanks(roster: Roster, rows: slice, rng: np.random.Generator) -> Floats:
    fixed, plate = _rows(water.N_FIXED, rows), roster.nameplate
    n = fixed.shape[1]
    fixed[water.P_ELEMENT] = -plate.power_min_w[rows]
    fixed[water.VOLUME_L] = plate.energy_capacity_wh[rows] / (1.1611 * 18.0)
    fixed[water.UA] = rng.uniform(1.0, 2.0, n)
    fixed[water.SETPOINT] = rng.choice([49.0, 51.7, 54.4], n)
    fixed[water.BAND] = rng.uniform(4.0, 7.0, n)
    fixed[water.COMFORT_LOW] = plate.comfort_low_degc[rows]
    fixed[water.T_MAX] = plate.comfort_high_degc[rows]
    return fixed


def _houses(roster: Roster, rows: slice, rng: np.random.Generator) -> Floats:
    fixed, plate = _rows(house.N_FIXED, rows), roster.nameplate
    n = fixed.shape[1]
    fixed[house.P_COMPRESSOR] = -plate.power_min_w[rows]
    fixed[house.COP] = rng.uniform(2.6, 3.4, n)
    # Sized so that the heat pump carries 35 K of difference (ACCA Manual S).
    fixed[house.UA] = fixed[house.P_COMPRESSOR] * fixed[house.COP] / rng.uniform(35.0, 45.0, n)
    fixed[house.H_MASS] = fixed[house.UA] * rng.uniform(4.0, 8.0, n)
    fixed[house.C_AIR] = fixed[house.UA] * rng.uniform(9_000.0, 18_000.0, n)
    fixed[house.C_MASS] = fixed[house.UA] * rng.uniform(90_000.0, 180_000.0, n)
    fixed[house.HEAT_SET] = rng.choice([20.0, 20.5, 21.0, 21.5], n)
    fixed[house.COOL_SET] = rng.choice([23.5, 24.0, 24.5], n)
    fixed[house.BAND] = rng.uniform(0.6, 1.2, n)
    fixed[house.LOW] = plate.comfort_low_degc[rows]
    fixed[house.HIGH] = plate.comfort_high_degc[rows]
    fixed[house.MIN_ON_S] = plate.min_on_s[rows]
    fixed[house.MIN_OFF_S] = plate.min_off_s[rows]
    fixed[house.ZONE] = roster.zone_of_row[rows]
    return fixed


def _blocks(roster: Roster, rows: slice, rng: np.random.Generator) -> Floats:
    fixed, plate = _rows(block.N_FIXED, rows), roster.nameplate
    fixed[block.P_MAX] = -plate.power_min_w[rows]
    fixed[block.N_BLOCKS] = rng.choice([8.0, 12.0, 16.0], fixed.shape[1])
    fixed[block.RAMP] = plate.ramp_w_per_s[rows]
    fixed[block.REBOUND_FRAC] = plate.rebound_frac[rows]
    fixed[block.DURATION_MAX_S] = plate.duration_max_s[rows]
    return fixed


def _engines(roster: Roster, rows: slice) -> Floats:
    fixed, plate = _rows(chp.N_FIXED, rows), roster.nameplate
    fixed[chp.P_MAX] = plate.power_max_w[rows]
    fixed[chp.MIN_FRAC] = plate.power_step_min_w[rows] / plate.power_max_w[rows]
    fixed[chp.RAMP] = plate.ramp_w_per_s[rows]
    fixed[chp.MIN_ON_S] = plate.min_on_s[rows]
    fixed[chp.MIN_OFF_S] = plate.min_off_s[rows]
    return fixed
