"""The physical region: every device and its undispatched twin, moved together through the same outside.

Write ``commanded_w`` (NaN: left to itself), call ``advance``, read ``power_w`` and ``twin_w``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.model.technology import Technology
from unisono.sim.build import build_roster
from unisono.sim.drivers import Drivers, Outside, SyntheticDrivers
from unisono.sim.physics import battery, block, chp, house, pv, vehicle, water
from unisono.sim.physics.fixed import first_state, fixed_of_technology
from unisono.sim.roster import Floats, Roster
from unisono.sim.spec import WorldSpec

# Steps of the kernels' explicit Euler scheme; the fastest part (air in a house) has a time constant of over 20 min.
STEP_MAX_S: Final = 10.0
SPIN_UP_STEP_S: Final = 60.0


# Makes what moves devices from outside, for a roster and its devices' fixed facts.
MakeDrivers = Callable[[Roster, dict[Technology, Floats]], Drivers]


class World:
    """All devices and their twins. One entry a row of the roster; power is positive into the grid."""

    def __init__(self, spec: WorldSpec, start_ns: int, make_drivers: MakeDrivers = SyntheticDrivers) -> None:
        """Build the devices and let them run by themselves for ``spec.spin_up_h`` up to ``start_ns``."""
        self.spec = spec
        self.start_ns = start_ns
        self.roster = roster = build_roster(spec)
        self.fixed = fixed_of_technology(spec, roster)
        rng = np.random.default_rng([spec.seed, 4])
        self.state: dict[Technology, Floats] = {t: first_state(t, self.fixed[t], rng) for t in roster.rows_of}
        n = roster.n_devices
        self.commanded_w: Floats = np.full(n, np.nan)
        self.power_w: Floats = np.zeros(n)
        self.twin_w: Floats = np.zeros(n)
        self.soc_frac: Floats = np.full(n, np.nan)
        self.temperature_degc: Floats = np.full(n, np.nan)
        self.is_connected: NDArray[np.bool_] = np.ones(n, bool)
        self._drivers: Drivers = make_drivers(roster, self.fixed)
        self._outside: Outside = self._drivers.at(start_ns)
        self.now_ns = start_ns - round(spec.spin_up_h * 3600.0) * NS_PER_S
        while self.now_ns < start_ns:
            self._step(min(start_ns, self.now_ns + round(SPIN_UP_STEP_S) * NS_PER_S))
        self._measure()

    def advance(self, now_ns: int) -> None:
        """Move everything to ``now_ns``, in steps of at most 10 s."""
        assert now_ns >= self.now_ns, "time does not go back"
        while self.now_ns < now_ns:
            self._step(min(now_ns, self.now_ns + round(STEP_MAX_S) * NS_PER_S))
        self._measure()

    def deliverable_up_w(self, hold_s: float) -> Floats:
        """Return by how much each device, from now on, can stay above its twin for ``hold_s``; nothing asked before.

        Loads: what their twin takes now (over many devices that is also what their twins take on average).
        """
        up = np.maximum(0.0, -self.twin_w)
        hours = hold_s / 3600.0
        rows_of = self.roster.rows_of
        if Technology.PV in rows_of:
            up[rows_of[Technology.PV]] = 0.0
        if Technology.BESS in rows_of:
            rows, fixed, state = rows_of[Technology.BESS], self.fixed[Technology.BESS], self.state[Technology.BESS]
            soc = state[battery.SOC, 0]
            stored = np.maximum(0.0, soc - fixed[battery.RESERVE] - battery.FADE_SOC) * fixed[battery.CAPACITY]
            by_energy = stored * fixed[battery.ETA] / hours - battery.RUN_LOSS_FRAC * fixed[battery.P_MAX]
            ambient = self._outside.ambient_degc[fixed[battery.ZONE].astype(np.intp)]
            rating = fixed[battery.P_MAX] * np.array([battery.derating(float(a), 1.0) for a in ambient])
            up[rows] = np.maximum(0.0, np.minimum(rating, by_energy) - self.twin_w[rows])
        for t in (Technology.EV, Technology.EVSE):
            if t in rows_of:
                up[rows_of[t]] = self._vehicles_up_w(t, hold_s)
        if Technology.CHP in rows_of:
            rows = rows_of[Technology.CHP]
            up[rows] = np.maximum(0.0, self.fixed[Technology.CHP][chp.P_MAX] - self.twin_w[rows])
        return up

    def energy_wh(self, technology: Technology) -> Floats:
        """Return the energy stored in each (twin, row) of batteries and cars."""
        assert technology in (Technology.BESS, Technology.EV, Technology.EVSE), "other technologies store heat"
        at_soc, at_capacity = (
            (battery.SOC, battery.CAPACITY) if technology == Technology.BESS else (vehicle.SOC, vehicle.CAPACITY)
        )
        stored: Floats = self.state[technology][at_soc] * self.fixed[technology][at_capacity]
        return stored

    def _vehicles_up_w(self, t: Technology, hold_s: float) -> Floats:
        fixed, state = self.fixed[t], self.state[t]
        session = self._outside.ev_session if t == Technology.EV else self._outside.evse_session
        soc, twin = state[vehicle.SOC, 0], state[vehicle.POWER, 1]
        left_s = session[vehicle.DEPARTS_S] - self.now_ns / NS_PER_S - hold_s
        spare_h = left_s / 3600.0 / vehicle.READY_MARGIN
        needed_h = (
            (fixed[vehicle.TARGET] - soc) * fixed[vehicle.CAPACITY] / (fixed[vehicle.P_CHARGE] * fixed[vehicle.ETA])
        )
        stored = np.maximum(0.0, soc - fixed[vehicle.RESERVE]) * fixed[vehicle.CAPACITY] * fixed[vehicle.ETA]
        out = np.minimum(fixed[vehicle.P_DISCHARGE], stored / (hold_s / 3600.0))
        may_wait = (state[vehicle.CONNECTED, 0] > 0.0) & (
            spare_h - out * hold_s / 3600.0 / fixed[vehicle.P_CHARGE] > needed_h
        )
        up: Floats = np.where(may_wait, np.maximum(0.0, out - twin), 0.0)
        return up

    def _step(self, to_ns: int) -> None:
        step_s = (to_ns - self.now_ns) / NS_PER_S
        self.now_ns = to_ns
        self._outside = outside = self._drivers.at(to_ns)
        ambient = outside.ambient_degc
        for t, rows in self.roster.rows_of.items():
            state, fixed, commanded = self.state[t], self.fixed[t], self.commanded_w[rows]
            power, twin = self.power_w[rows], self.twin_w[rows]
            if t == Technology.BESS:
                battery.advance(state, fixed, commanded, outside.net_load_w, ambient, power, twin, step_s)
            elif t == Technology.PV:
                pv.advance(state, fixed, commanded, outside.sun_w, power, twin, step_s)
            elif t == Technology.EV:
                vehicle.advance(state, fixed, outside.ev_session, commanded, power, twin, to_ns / NS_PER_S, step_s)
            elif t == Technology.EVSE:
                vehicle.advance(state, fixed, outside.evse_session, commanded, power, twin, to_ns / NS_PER_S, step_s)
            elif t == Technology.WATER_HEATER:
                water.advance(state, fixed, commanded, outside.draw_l_per_min, outside.mains_degc, power, twin, step_s)
            elif t == Technology.THERMOSTAT:
                house.advance(state, fixed, commanded, outside.gains_w, ambient, power, twin, step_s)
            elif t == Technology.FLEX_LOAD:
                block.advance(state, fixed, commanded, outside.business_w, power, twin, step_s)
            else:
                chp.advance(state, fixed, commanded, outside.heat_led_w, power, twin, step_s)

    def _measure(self) -> None:
        """Refresh what devices can tell beside their power."""
        rows_of = self.roster.rows_of
        if Technology.BESS in rows_of:
            self.soc_frac[rows_of[Technology.BESS]] = self.state[Technology.BESS][battery.SOC, 0]
        for t in (Technology.EV, Technology.EVSE):
            if t in rows_of:
                here = self.state[t][vehicle.CONNECTED, 0] > 0.0
                self.is_connected[rows_of[t]] = here
                if t == Technology.EV:
                    # A managed charger does not know its car's state of charge.
                    self.soc_frac[rows_of[t]] = np.where(here, self.state[t][vehicle.SOC, 0], np.nan)
        if Technology.WATER_HEATER in rows_of:
            self.temperature_degc[rows_of[Technology.WATER_HEATER]] = self.state[Technology.WATER_HEATER][
                water.UPPER, 0
            ]
        if Technology.THERMOSTAT in rows_of:
            self.temperature_degc[rows_of[Technology.THERMOSTAT]] = self.state[Technology.THERMOSTAT][house.AIR, 0]
