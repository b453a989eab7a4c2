"""What moves devices from outside: sun, homes' loads, hot-water draws, car sessions, business hours.

``Drivers`` is the contract; ``SyntheticDrivers`` follows published shapes and chance,
``traces.TraceDrivers`` recordings.
Everything depends on the instant and the device's key only, never on the length of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unisono.base.calendar import zone as zone_of_name
from unisono.base.instants import NS_PER_S
from unisono.base.kernel import kernel
from unisono.model.technology import Technology
from unisono.sim.chance import drifting, normal, unit
from unisono.sim.physics import chp, pv, vehicle
from unisono.sim.roster import Roster
from unisono.sim.weather import Sky, TypicalYear, shipped_year, sky_at

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]


def _by_hour(text: str) -> Floats:
    return np.array([float(value) for value in text.split()])


# Hot water by hour of day, as a share of the day (shape of ASHRAE HVAC Applications, family draw profile).
DRAW_SHAPE = _by_hour("""
    0.9 0.6 0.5 0.5 0.8 2.0 5.5 8.0 7.5 6.2 5.2 4.6
    4.2 3.8 3.3 3.3 3.8 5.2 7.2 7.4 6.4 5.5 4.2 2.4
""")
# A home's own load by hour of day against its mean (EIA, residential hourly shape, autumn).
HOME_SHAPE = _by_hour("""
    0.7 0.62 0.58 0.57 0.6 0.7 0.9 1.05 0.98 0.92 0.9 0.92
    0.94 0.94 0.95 1.0 1.15 1.4 1.6 1.6 1.5 1.3 1.05 0.85
""")
# A business process by hour of day against its rating (DOE commercial reference buildings, office and warehouse).
BUSINESS_SHAPE = _by_hour("""
    0.35 0.33 0.32 0.32 0.35 0.42 0.52 0.62 0.7 0.74 0.76 0.77
    0.76 0.76 0.76 0.74 0.7 0.65 0.58 0.52 0.47 0.43 0.4 0.37
""")
# How often all but the sun is looked up; people and temperatures change slower than that.
SLOT_S = 20
DRAW_L_PER_DAY = 190.0
HOME_MEAN_W = 1200.0


@dataclass(slots=True)
class Outside:
    """Everything from outside at one instant; one entry a row of its slice, a zone for ``ambient_degc``."""

    ambient_degc: Floats
    mains_degc: float
    sun_w: Floats
    net_load_w: Floats
    draw_l_per_min: Floats
    gains_w: Floats
    business_w: Floats
    heat_led_w: Floats
    ev_session: Floats
    evse_session: Floats


class Drivers(Protocol):
    """Fills ``Outside`` for an instant."""

    def at(self, now_ns: int) -> Outside:
        """Return what the world outside is like; the arrays may be reused by the next call."""
        ...


@kernel("void(u8[::1], f8[:,::1], f8[:,::1], f8, f8[::1])")
def fill_sun(keys: Keys, fixed: Floats, sky: Floats, at_s: float, sun_w: Floats) -> None:
    """AC power by array before its inverter's limit; ``sky`` rows as in ``weather.Sky``.

    Plane-of-array irradiance with isotropic diffuse, 14 % system losses (PVWatts 5 default), -0.37 %/K.
    Clouds pass in minutes: they are wildest under a half-covered sky.
    """
    for i in range(keys.size):
        z = int(fixed[pv.ZONE, i])
        if sky[2, z] <= 0.0:
            sun_w[i] = 0.0
            continue
        cos_angle = (
            fixed[pv.NORMAL_EAST, i] * sky[0, z]
            + fixed[pv.NORMAL_NORTH, i] * sky[1, z]
            + fixed[pv.NORMAL_UP, i] * sky[2, z]
        )
        clear = sky[5, z]
        wild = 2.4 * max(0.0, clear) * max(0.0, 1.0 - clear)
        passing = 0.6 * drifting(keys[i], at_s / 180.0) + 0.4 * drifting(keys[i] ^ np.uint64(977), at_s / 47.0)
        local = max(0.03, min(1.1, clear + wild * (passing - 0.5) * 2.0))
        # The clearer, the more of the light comes straight (clearness 0.3 and less: all diffuse).
        straight = min(1.0, max(0.0, (local - 0.3) / 0.6))
        plane = local * straight * sky[3, z] * max(0.0, cos_angle)
        plane += (
            local * (sky[4, z] + (1.0 - straight) * 0.88 * sky[3, z] * sky[2, z]) * 0.5 * (1.0 + fixed[pv.NORMAL_UP, i])
        )
        cell_degc = sky[6, z] + 0.03 * plane
        sun_w[i] = fixed[pv.DC, i] * plane / 1000.0 * 0.86 * (1.0 - 0.0037 * (cell_degc - 25.0))


@kernel("void(u8[::1], i4[::1], f8[::1], f8[::1], f8, f8[::1])")
def fill_draws(keys: Keys, zones: NDArray[np.int32], hour: Floats, size: Floats, at_s: float, draw: Floats) -> None:
    """Draws of three minutes at 3-9 l/min, as often as the hour's share of 190 l a day asks."""
    slot = math.floor(at_s / 180.0)
    for i in range(keys.size):
        share = DRAW_SHAPE[int(hour[zones[i]]) % 24] / 100.0
        # Litres wanted in this slot over litres of a mean draw (3 min at 6 l/min).
        chance = share * DRAW_L_PER_DAY * size[i] / 20.0 / 18.0
        drawn = unit(keys[i], slot) < chance
        draw[i] = 3.0 + 6.0 * unit(keys[i], slot + 7_000_000_000) if drawn else 0.0


@kernel("void(u8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8, f8, f8[::1])")
def fill_loads(
    keys: Keys,
    zones: NDArray[np.int32],
    hour: Floats,
    scale_w: Floats,
    shape: Floats,
    wander_frac: float,
    at_s: float,
    load_w: Floats,
) -> None:
    """Loads that follow a day's shape and wander_frac about it over some ten minutes; positive numbers."""
    for i in range(keys.size):
        h = hour[zones[i]]
        before, blend = int(h) % 24, h - math.floor(h)
        level = shape[before] + (shape[(before + 1) % 24] - shape[before]) * blend
        load_w[i] = scale_w[i] * level * (1.0 + wander_frac * (2.0 * drifting(keys[i], at_s / 600.0) - 1.0))


@kernel("void(u8[::1], i4[::1], f8[::1], f8[:,::1], f8[::1], f8)")
def roll_sessions(
    keys: Keys, zones: NDArray[np.int32], offset_s: Floats, session: Floats, capacity_wh: Floats, now_s: float
) -> None:
    """Where a session is over, put the next one: home about 17:45, away about 7:30, some 9 kWh, three days in four.

    Times and energies after the US National Household Travel Survey 2017 (last trip home, miles a day).
    """
    for i in range(keys.size):
        while now_s >= session[vehicle.DEPARTS_S, i]:
            offset = offset_s[zones[i]]
            if math.isinf(session[vehicle.DEPARTS_S, i]):
                day = math.floor((now_s + offset) / 86400.0) - 2
            else:
                day = math.floor((session[vehicle.ARRIVES_S, i] + offset) / 86400.0)
            for later in range(1, 9):
                day_key = 16 * (day + later)
                if later == 8 or unit(keys[i], day_key) < 0.75:
                    arrives_h = min(23.5, max(11.0, 17.75 + 2.0 * normal(keys[i], day_key + 1)))
                    departs_h = min(10.9, max(4.5, 7.5 + 1.2 * normal(keys[i], day_key + 2)))
                    need_wh = 9000.0 * math.exp(0.6 * normal(keys[i], day_key + 3))
                    midnight = (day + later) * 86400.0 - offset
                    session[vehicle.ARRIVES_S, i] = midnight + arrives_h * 3600.0
                    session[vehicle.DEPARTS_S, i] = midnight + (24.0 + departs_h) * 3600.0
                    session[vehicle.NEED_FRAC, i] = min(0.8, need_wh / capacity_wh[i])
                    break


class SyntheticDrivers:
    """The default outside: a typical year's weather, and people by published shapes and chance."""

    def __init__(self, roster: Roster, fixed: dict[Technology, Floats], year: TypicalYear | None = None) -> None:
        self._roster = roster
        self._fixed = fixed
        self._year = year or shipped_year()
        self._zone_names = tuple(z.time_zone for z in roster.places.zones)
        self._offset_hour = -1
        self._offset_s = np.zeros(len(self._zone_names))
        self._keys = {t: roster.key[rows] for t, rows in roster.rows_of.items()}
        self._zones = {t: np.ascontiguousarray(roster.zone_of_row[rows]) for t, rows in roster.rows_of.items()}
        self._size = {t: roster.size_of_site[roster.site_of_row[rows]] for t, rows in roster.rows_of.items()}
        count = {t: self._keys[t].size for t in roster.rows_of}
        new = {t: np.zeros(n) for t, n in count.items()}
        none = np.zeros(0)
        self._outside = Outside(
            ambient_degc=np.zeros(len(self._zone_names)),
            mains_degc=14.4,
            sun_w=new.get(Technology.PV, none),
            net_load_w=new.get(Technology.BESS, none),
            draw_l_per_min=new.get(Technology.WATER_HEATER, none),
            gains_w=new.get(Technology.THERMOSTAT, none),
            business_w=new.get(Technology.FLEX_LOAD, none),
            heat_led_w=new.get(Technology.CHP, none),
            ev_session=_no_sessions(count.get(Technology.EV, 0)),
            evse_session=_no_sessions(count.get(Technology.EVSE, 0)),
        )
        self._slot = -1
        self._sun_of_battery = _sun_of_battery(roster)

    def at(self, now_ns: int) -> Outside:
        """Return the outside at ``now_ns``; slow things are refreshed every 20 s of simulated time."""
        at_s = now_ns / NS_PER_S
        outside = self._outside
        slot = now_ns // (SLOT_S * NS_PER_S)
        if slot != self._slot:
            # As of the slot's start, so that the length of steps changes nothing.
            self._slot = slot
            self._refresh_slowly(slot * SLOT_S * NS_PER_S, float(slot * SLOT_S), outside)
        self._fill_sun(at_s)
        return outside

    def _fill_sun(self, at_s: float) -> None:
        if Technology.PV in self._keys:
            fill_sun(self._keys[Technology.PV], self._fixed[Technology.PV], self._sky, at_s, self._outside.sun_w)

    def _refresh_slowly(self, now_ns: int, at_s: float, outside: Outside) -> None:
        self._refresh_offsets(at_s)
        sky = sky_at(now_ns, self._roster.places.zones, self._year)
        self._sky = _sky_rows(sky)
        outside.ambient_degc = sky.ambient_degc
        hour = ((at_s + self._offset_s) % 86400.0) / 3600.0
        outside.mains_degc = self.mains_degc(at_s)
        self._fill_sun(at_s)
        self._fill_people(at_s, hour, sky, outside)

    def _fill_people(self, at_s: float, hour: Floats, sky: Sky, outside: Outside) -> None:
        """Fill loads, draws, gains and sessions."""
        keys, zones, size = self._keys, self._zones, self._size
        if Technology.WATER_HEATER in keys:
            t = Technology.WATER_HEATER
            fill_draws(keys[t], zones[t], hour, size[t], at_s, outside.draw_l_per_min)
        if Technology.BESS in keys:
            t = Technology.BESS
            fill_loads(keys[t], zones[t], hour, HOME_MEAN_W * size[t], HOME_SHAPE, 0.6, at_s, outside.net_load_w)
            has_sun = self._sun_of_battery >= 0
            outside.net_load_w[has_sun] -= outside.sun_w[self._sun_of_battery[has_sun]]
        if Technology.FLEX_LOAD in keys:
            t = Technology.FLEX_LOAD
            rating_w = -self._roster.nameplate.power_min_w[self._roster.rows_of[t]]
            fill_loads(keys[t], zones[t], hour, rating_w, BUSINESS_SHAPE, 0.12, at_s, outside.business_w)
            np.negative(outside.business_w, out=outside.business_w)
        if Technology.THERMOSTAT in keys:
            t = Technology.THERMOSTAT
            fill_loads(keys[t], zones[t], hour, 350.0 * size[t], HOME_SHAPE, 0.4, at_s, outside.gains_w)
            # Sun through some 8 m2 of window, a quarter of it facing the sun at a time.
            light = (sky.beam_w_m2 * np.maximum(sky.sun_up, 0.0) + sky.diffuse_w_m2) * sky.clearness_frac
            outside.gains_w += 2.0 * light[zones[t]] * 0.6
        if Technology.CHP in keys:
            t = Technology.CHP
            fixed = self._fixed[t]
            fill_loads(keys[t], zones[t], hour, fixed[chp.P_MAX], HOME_SHAPE, 0.2, at_s, outside.heat_led_w)
            cold = np.clip((18.0 - sky.ambient_degc[zones[t]]) / 20.0, 0.0, 0.75)
            wanted = outside.heat_led_w * cold
            outside.heat_led_w[:] = np.where(wanted >= fixed[chp.MIN_FRAC] * fixed[chp.P_MAX], wanted, 0.0)
        for t, session in ((Technology.EV, outside.ev_session), (Technology.EVSE, outside.evse_session)):
            if t in keys:
                self._roll_sessions(t, session, at_s)

    def _roll_sessions(self, t: Technology, session: Floats, at_s: float) -> None:
        capacity = self._fixed[t][vehicle.CAPACITY]
        roll_sessions(self._keys[t], self._zones[t], self._offset_s, session, capacity, at_s)

    def _refresh_offsets(self, at_s: float) -> None:
        hour = int(at_s // 3600.0)
        if hour == self._offset_hour:
            return
        self._offset_hour = hour
        at = datetime.fromtimestamp(at_s, UTC)
        for index, name in enumerate(self._zone_names):
            offset = at.astimezone(zone_of_name(name)).utcoffset()
            assert offset is not None, "a zoned instant has an offset"
            self._offset_s[index] = offset.total_seconds()

    @staticmethod
    def mains_degc(at_s: float) -> float:
        """Return the mains' temperature: 14.4 degC on average, warmest in September (Burch, Christensen 2007)."""
        day = datetime.fromtimestamp(at_s, UTC).timetuple().tm_yday
        return 14.4 + 5.0 * math.cos(2.0 * math.pi * (day - 245) / 365.0)


def _no_sessions(n: int) -> Floats:
    """Return sessions that ended long ago, so that the first look-up finds the next ones."""
    session = np.full((vehicle.N_SESSION, n), -math.inf)
    session[vehicle.NEED_FRAC] = 0.0
    return session


def _sun_of_battery(roster: Roster) -> NDArray[np.int64]:
    """Return the position in the PV slice of the array at each battery's site; -1: none."""
    if not {Technology.BESS, Technology.PV} <= roster.rows_of.keys():
        rows = roster.rows_of.get(Technology.BESS, slice(0, 0))
        return np.full(rows.stop - rows.start, -1)
    array_of_site = np.full(roster.size_of_site.size, -1)
    sites = roster.site_of_row[roster.rows_of[Technology.PV]]
    array_of_site[sites] = np.arange(sites.size)
    found: NDArray[np.int64] = array_of_site[roster.site_of_row[roster.rows_of[Technology.BESS]]]
    return found


def _sky_rows(sky: Sky) -> Floats:
    return np.ascontiguousarray(
        np.vstack(
            [
                sky.sun_east,
                sky.sun_north,
                sky.sun_up,
                sky.beam_w_m2,
                sky.diffuse_w_m2,
                sky.clearness_frac,
                sky.ambient_degc,
            ]
        )
    )
