"""``--world data``: the same fleet, moved by recordings instead of published shapes and chance.

Sun, home and business loads, hot-water draws and car sessions come from ``recordings``; each device follows one series,
chosen by its key, in its own local time. What was not recorded (gains in houses, heat demand) stays synthetic.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unisono.model.technology import Technology
from unisono.sim.drivers import Outside, SyntheticDrivers
from unisono.sim.physics import pv, vehicle
from unisono.sim.recordings import MINUTES, QUARTERS, SESSION_DAYS, Recordings, Table, read_recordings
from unisono.sim.roster import Floats, Roster
from unisono.sim.weather import Sky
from unisono.sim.world import MakeDrivers

Rows = NDArray[np.int64]

# 1970-01-05 was a Monday; sessions keep their weekday.
FIRST_MONDAY_S = 4 * 86400.0
WEEK_S = 7 * 86400.0


def trace_drivers(folder: Path) -> MakeDrivers:
    """Return what makes the drivers of a world from the recordings in ``folder``; raises Unavailable."""
    recordings = read_recordings(folder)

    def make(roster: Roster, fixed: dict[Technology, Floats]) -> TraceDrivers:
        return TraceDrivers(roster, fixed, recordings)

    return make


class TraceDrivers(SyntheticDrivers):
    """Drivers out of recordings."""

    def __init__(self, roster: Roster, fixed: dict[Technology, Floats], recordings: Recordings) -> None:
        super().__init__(roster, fixed, recordings.year)
        self._recordings = recordings
        self._series_of = {
            Technology.PV: self._choose(Technology.PV, recordings.sun_frac.shape[0]),
            Technology.BESS: self._choose(Technology.BESS, recordings.home_w.shape[0]),
            Technology.FLEX_LOAD: self._choose(Technology.FLEX_LOAD, recordings.business_frac.shape[0]),
            Technology.WATER_HEATER: self._choose(Technology.WATER_HEATER, recordings.draw_l_per_min.shape[0]),
            Technology.EV: self._choose(Technology.EV, len(recordings.stations)),
            Technology.EVSE: self._choose(Technology.EVSE, len(recordings.stations)),
        }
        self._sun_at_s = math.nan

    def _choose(self, t: Technology, n_series: int) -> Rows:
        keys = self._keys.get(t, np.zeros(0, np.uint64))
        return (keys % np.uint64(n_series)).astype(np.int64)

    def _fill_sun(self, at_s: float) -> None:
        """Recorded sun changes by quarter-hours: once a slot is enough."""
        t = Technology.PV
        slot_s = at_s // 20.0
        if t not in self._keys or slot_s == self._sun_at_s:
            return
        self._sun_at_s = slot_s
        share = _look_up(self._recordings.sun_frac, self._series_of[t], self._hour_of_year(t, at_s))
        np.multiply(share, self._fixed[t][pv.DC], out=self._outside.sun_w)

    def _fill_people(self, at_s: float, hour: Floats, sky: Sky, outside: Outside) -> None:
        super()._fill_people(at_s, hour, sky, outside)
        recordings = self._recordings
        t = Technology.BESS
        if t in self._keys:
            load = _look_up(recordings.home_w, self._series_of[t], self._hour_of_year(t, at_s)) * self._size[t]
            has_sun = self._sun_of_battery >= 0
            load[has_sun] -= outside.sun_w[self._sun_of_battery[has_sun]]
            outside.net_load_w[:] = load
        t = Technology.FLEX_LOAD
        if t in self._keys:
            rating_w = -self._roster.nameplate.power_min_w[self._roster.rows_of[t]]
            share = _look_up(recordings.business_frac, self._series_of[t], self._hour_of_year(t, at_s))
            outside.business_w[:] = -share * rating_w
        t = Technology.WATER_HEATER
        if t in self._keys:
            # Weeks apart, so that homes of the same unit don't draw together.
            apart = (self._keys[t] // np.uint64(97) % np.uint64(52)).astype(np.int64) * 7 * 1440
            minute = ((self._hour_of_year(t, at_s) * 60.0).astype(np.int64) + apart) % MINUTES
            outside.draw_l_per_min[:] = recordings.draw_l_per_min[self._series_of[t], minute]

    def _roll_sessions(self, t: Technology, session: Floats, at_s: float) -> None:
        over = np.flatnonzero(at_s >= session[vehicle.DEPARTS_S])
        period_s = SESSION_DAYS * 86400.0
        for i in over.tolist():
            recorded = self._recordings.stations[int(self._series_of[t][i])]
            offset_s = float(self._offset_s[self._zones[t][i]])
            apart_s = float(int(self._keys[t][i]) // 89 % (SESSION_DAYS // 7)) * WEEK_S
            local_s = at_s + offset_s - FIRST_MONDAY_S + apart_s
            base_s = local_s - local_s % period_s
            at = int(np.searchsorted(recorded.departs_s, local_s % period_s, side="right"))
            if at == recorded.departs_s.size:
                at, base_s = 0, base_s + period_s
            to_utc_s = base_s - apart_s + FIRST_MONDAY_S - offset_s
            session[vehicle.ARRIVES_S, i] = recorded.arrives_s[at] + to_utc_s
            session[vehicle.DEPARTS_S, i] = recorded.departs_s[at] + to_utc_s
            session[vehicle.NEED_FRAC, i] = min(0.8, recorded.energy_wh[at] / self._fixed[t][vehicle.CAPACITY, i])

    def _hour_of_year(self, t: Technology, at_s: float) -> Floats:
        """Return each device's local hour of the year."""
        hours = np.empty(self._offset_s.size)
        for zone, offset_s in enumerate(self._offset_s):
            local = datetime.fromtimestamp(at_s + float(offset_s), UTC)
            hours[zone] = (
                (local.timetuple().tm_yday - 1) * 24.0 + local.hour + local.minute / 60.0 + local.second / 3600.0
            )
        of_row: Floats = hours[self._zones[t]] % 8760.0
        return of_row


def _look_up(table: Table, series: Rows, hour_of_year: Floats) -> Floats:
    """Return each row's series at its hour, between quarter-hours in proportion."""
    position = hour_of_year * 4.0
    before = position.astype(np.int64) % QUARTERS
    blend = position - np.floor(position)
    found: Floats = table[series, before] * (1.0 - blend) + table[series, (before + 1) % QUARTERS] * blend
    return found
