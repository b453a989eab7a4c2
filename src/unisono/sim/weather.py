"""Sun and weather by zone, from the typical year (TMY3) of Greensboro, NC, that the pvlib package ships.

Each zone sees that year at its own solar time and latitude: temperature is shifted by 0.7 K a degree of latitude (the
lapse of yearly means over the contiguous US), clearness and cloud cover are taken as they are.
"""

from __future__ import annotations

import csv
import importlib.util
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import DamagedRecord, Unavailable
from unisono.base.instants import NS_PER_S
from unisono.sim.places import Zone

Floats = NDArray[np.float64]

HOURS = 8760
LAPSE_K_PER_DEG = 0.7
TMY_LATITUDE_DEG = 36.1


@dataclass(frozen=True, slots=True)
class TypicalYear:
    """Hourly values by hour of the standard-time year (8760): clearness of the sky against a clear one, and degC."""

    clearness_frac: Floats
    ambient_degc: Floats


@dataclass(frozen=True, slots=True)
class Sky:
    """Sun and weather of each zone at one instant; the sun's direction is a unit vector, ``up`` <= 0 is night."""

    sun_east: Floats
    sun_north: Floats
    sun_up: Floats
    beam_w_m2: Floats
    diffuse_w_m2: Floats
    clearness_frac: Floats
    ambient_degc: Floats


def sun_vector(at_s: float, latitude_deg: float, longitude_deg: float) -> tuple[float, float, float]:
    """Return the sun's direction (east, north, up); Spencer's Fourier series of 1971, good to about 0.3 degrees.

    >>> noon = datetime(2026, 6, 21, 19, 0, tzinfo=UTC).timestamp()
    >>> [round(x, 2) for x in sun_vector(noon, 40.0, -105.0)]
    [0.01, -0.28, 0.96]
    """
    day = datetime.fromtimestamp(at_s, UTC).timetuple().tm_yday
    g = 2.0 * math.pi * (day - 1 + (at_s % 86400.0) / 86400.0 - 0.5) / 365.0
    declination = (
        0.006918
        - 0.399912 * math.cos(g)
        + 0.070257 * math.sin(g)
        - 0.006758 * math.cos(2 * g)
        + 0.000907 * math.sin(2 * g)
        - 0.002697 * math.cos(3 * g)
        + 0.00148 * math.sin(3 * g)
    )
    equation_min = 229.18 * (
        0.000075
        + 0.001868 * math.cos(g)
        - 0.032077 * math.sin(g)
        - 0.014615 * math.cos(2 * g)
        - 0.040849 * math.sin(2 * g)
    )
    solar_h = (at_s % 86400.0) / 3600.0 + longitude_deg / 15.0 + equation_min / 60.0
    angle, latitude = math.radians(15.0 * (solar_h - 12.0)), math.radians(latitude_deg)
    up = math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * math.cos(angle)
    east = -math.cos(declination) * math.sin(angle)
    north = math.cos(latitude) * math.sin(declination) - math.sin(latitude) * math.cos(declination) * math.cos(angle)
    return east, north, up


def clear_global_w_m2(sun_up_frac: float) -> float:
    """Return clear-sky global horizontal irradiance (Haurwitz 1945)."""
    return 1098.0 * sun_up_frac * math.exp(-0.057 / sun_up_frac) if sun_up_frac > 0.01 else 0.0


def read_tmy3(lines: TextIO, name: str) -> TypicalYear:
    """Return the year in a TMY3 file (Wilcox and Marion, NREL/TP-581-43156); hours are hour-ending, standard time."""
    rows = csv.reader(lines)
    try:
        place, header = next(rows), next(rows)
        offset_h, latitude, longitude = float(place[3]), float(place[4]), float(place[5])
        at_global, at_ambient = header.index("GHI (W/m^2)"), header.index("Dry-bulb (C)")
        records = [(row[0], float(row[at_global]), float(row[at_ambient])) for row in rows if row]
    except (ValueError, IndexError, StopIteration) as wrong:
        raise DamagedRecord(name, f"is no TMY3 file: {wrong}") from wrong
    if len(records) != HOURS:
        raise DamagedRecord(name, f"has {len(records)} hours, not {HOURS}")
    clearness = np.full(HOURS, np.nan)
    start = datetime(2019, 1, 1, tzinfo=UTC).timestamp() - offset_h * 3600.0
    for hour, (_, measured, _) in enumerate(records):
        up = sun_vector(start + (hour + 0.5) * 3600.0, latitude, longitude)[2]
        if up > 0.15:
            clearness[hour] = min(1.1, measured / clear_global_w_m2(up))
    known = np.flatnonzero(~np.isnan(clearness))
    clearness = np.interp(np.arange(HOURS), known, clearness[known])
    return TypicalYear(clearness, np.array([record[2] for record in records]))


@cache
def shipped_year() -> TypicalYear:
    """Return the typical year from pvlib's own folder (pvlib itself, and pandas, are not imported)."""
    spec = importlib.util.find_spec("pvlib")
    if spec is None or spec.origin is None:
        raise Unavailable("the typical year", "the package pvlib is not installed")
    path = Path(spec.origin).parent / "data" / "723170TYA.CSV"
    try:
        with path.open(encoding="ascii", newline="") as lines:
            return read_tmy3(lines, path.name)
    except OSError as gone:
        raise Unavailable("the typical year", f"pvlib ships no {path.name}: {gone.strerror}") from gone


def sky_at(now_ns: int, zones: tuple[Zone, ...], year: TypicalYear) -> Sky:
    """Return sun and weather over each zone."""
    at_s = now_ns / NS_PER_S
    sky = Sky(*(np.zeros(len(zones)) for _ in range(7)))
    for index, zone in enumerate(zones):
        east, north, up = sun_vector(at_s, zone.latitude_deg, zone.longitude_deg)
        clear = clear_global_w_m2(up)
        # Diffuse share of a clear sky about 12 %; the rest comes straight.
        sky.sun_east[index], sky.sun_north[index], sky.sun_up[index] = east, north, up
        sky.beam_w_m2[index] = 0.88 * clear / max(up, 0.05)
        sky.diffuse_w_m2[index] = 0.12 * clear
        hour = _hour_of_year(at_s + zone.longitude_deg / 15.0 * 3600.0)
        before, blend = int(hour) % HOURS, hour - int(hour)
        after = (before + 1) % HOURS
        sky.clearness_frac[index] = (1 - blend) * year.clearness_frac[before] + blend * year.clearness_frac[after]
        warm = (1 - blend) * year.ambient_degc[before] + blend * year.ambient_degc[after]
        sky.ambient_degc[index] = warm - LAPSE_K_PER_DEG * (zone.latitude_deg - TMY_LATITUDE_DEG)
    return sky


def _hour_of_year(local_s: float) -> float:
    """Return the hour of the year of local solar time (values stand at the hour's middle; 29 February is the 28th)."""
    local = datetime.fromtimestamp(local_s, UTC)
    day = local.timetuple().tm_yday - 1
    if local.year % 4 == 0 and day >= 59:
        day -= 1
    return (day * 24.0 + local.hour + local.minute / 60.0 + local.second / 3600.0 - 0.5) % HOURS
