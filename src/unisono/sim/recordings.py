"""Readers of the recorded traces (``--world data``): each folder's file, turned into tables over a local year.

A folder's own SOURCE.md says where its file comes from and what its columns mean. Years of the southern hemisphere
are turned by half a year, so that summer is summer.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Final, TextIO

import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import DamagedRecord, Unavailable
from unisono.sim.weather import TypicalYear, read_tmy3

Floats = NDArray[np.float64]
Table = NDArray[np.float32]

QUARTERS: Final = 35_040  # quarter-hours of a year of 365 days
# 182 whole days: half a year that keeps the time of day.
HALF_YEAR_H: Final = 4368.0
LITRES_PER_GALLON: Final = 3.785
QUARTERS_PER_DAY: Final = 96
# Two hours at the very same value above zero: no roof does that (a building's coarse meter may).
STUCK_QUARTERS: Final = 8
MINUTES: Final = 525_600
# Sixteen whole weeks of the first recorded period, Monday to Monday.
SESSIONS_FROM, SESSION_DAYS = datetime(2019, 5, 6, tzinfo=UTC), 112
SESSIONS_PER_STATION_MIN: Final = 20


@dataclass(frozen=True, slots=True)
class Sessions:
    """One station's sessions in seconds since a Monday's local midnight, one after the other, and their energy."""

    arrives_s: Floats
    departs_s: Floats
    energy_wh: Floats


@dataclass(frozen=True, slots=True)
class Recordings:
    """Everything that was read: (series, quarter-hour of the local year), draws (unit, minute of the year)."""

    year: TypicalYear
    sun_frac: Table
    home_w: Table
    business_frac: Table
    draw_l_per_min: Table
    stations: tuple[Sessions, ...]


def read_recordings(folder: Path) -> Recordings:
    """Return all traces below ``folder``; raises Unavailable that names what is missing, or DamagedRecord."""
    if not folder.is_dir():
        raise Unavailable("recorded traces", f"there is no folder {folder}; set UNISONO_DATA to where they are")
    citylearn_home, citylearn_sun = read_citylearn(folder)
    ausgrid_home, ausgrid_sun = read_ausgrid(folder)
    monash_business, monash_sun = read_monash(folder)
    with _open(folder, "weather_pvlib", "greensboro_tmy3_723170TYA.csv.gz") as lines:
        year = read_tmy3(lines, "greensboro_tmy3")
    return Recordings(
        year=year,
        sun_frac=np.vstack([citylearn_sun, ausgrid_sun, monash_sun]),
        home_w=np.vstack([citylearn_home, ausgrid_home]),
        business_frac=monash_business,
        draw_l_per_min=read_draws(folder),
        stations=read_sessions(folder),
    )


def read_citylearn(folder: Path) -> tuple[Table, Table]:
    """Return (load in W, sun as a share of the rating) of 17 homes, hourly from 1 August, Pacific time."""
    load: dict[int, list[float]] = {}
    sun: dict[int, list[float]] = {}
    columns = ("building", "non_shiftable_load", "solar_generation")
    for building, load_kwh, sun_w_per_kw in _rows(folder, "citylearn_2022", "buildings_17_hourly.csv.gz", columns):
        load.setdefault(int(building), []).append(float(load_kwh) * 1000.0)
        sun.setdefault(int(building), []).append(float(sun_w_per_kw) / 1000.0)
    august_h = 212 * 24.0
    homes = [_on_year(np.array(values), 1.0, august_h) for _, values in sorted(load.items())]
    roofs = [_on_year(np.array(values), 1.0, august_h) for _, values in sorted(sun.items())]
    return np.vstack(homes), np.clip(np.vstack(roofs), 0.0, 1.0)


def read_ausgrid(folder: Path) -> tuple[Table, Table]:
    """Return (load in W, sun as a share of the greatest) of one Sydney home, half-hourly from 1 July."""
    rows = _rows(folder, "ausgrid_customer12", "cust12_2011_2012_30min.csv.gz", ("GC", "GG"))
    load_kw, sun = np.array([[float(load), float(sun)] for load, sun in rows]).T
    load = load_kw * 1000.0
    july_h = 181 * 24.0
    turned_h = (july_h + HALF_YEAR_H) % 8760.0
    roof = _on_year(sun / max(float(sun.max()), 1e-9), 0.5, turned_h)
    return _on_year(load, 0.5, turned_h)[np.newaxis, :], roof[np.newaxis, :]


def read_monash(folder: Path) -> tuple[Table, Table]:
    """Return (load, sun) as shares of the greatest of Monash buildings and roofs, 15 min, UTC."""
    start = datetime(2019, 12, 1, tzinfo=UTC)
    series: dict[str, Floats] = {}
    rows = _rows(folder, "predict_optimize_monash", "building_solar_15min.csv.gz", ("series", "ts", "kw"))
    for name, text, power_kw in rows:
        if text < "2019-12-01" or not power_kw:
            continue
        at = datetime.fromisoformat(text).replace(tzinfo=UTC)
        quarter = int((at - start) / timedelta(minutes=15))
        if quarter < QUARTERS:
            if name not in series:
                series[name] = np.full(QUARTERS, np.nan)
            series[name][quarter] = float(power_kw)
    # Solar noon in Clayton is 02:20 UTC: local standard time is ten hours ahead.
    turned_h = (334 * 24.0 + 10.0 + HALF_YEAR_H) % 8760.0
    tables: dict[str, list[Table]] = {"Building": [], "Solar": []}
    for name, values in sorted(series.items()):
        filled = _mended(values, can_stick=name.startswith("Solar"))
        top = max(float(np.quantile(filled, 0.999)), 1e-9)
        tables["Solar" if name.startswith("Solar") else "Building"].append(
            _on_year(np.clip(filled / top, 0, 1), 0.25, turned_h)
        )
    if not tables["Building"] or not tables["Solar"]:
        raise DamagedRecord("building_solar_15min.csv.gz", "holds no building or no roof after 2019-12-01")
    return np.vstack(tables["Building"]), np.vstack(tables["Solar"])


def read_draws(folder: Path) -> Table:
    """Return hot-water draws of 20 homes by minute of the year, in litres a minute."""
    sparse: dict[str, list[tuple[int, float]]] = {}
    for name, minute, flow in _rows(
        folder, "water_draws", "draws_1min_sparse_20units.csv.gz", ("unit", "minute", "gpm")
    ):
        sparse.setdefault(name, []).append((int(minute), float(flow)))
    table = np.zeros((len(sparse), MINUTES), np.float32)
    for unit, (_, draws) in enumerate(sorted(sparse.items())):
        minutes, flows = zip(*draws, strict=True)
        table[unit, np.array(minutes) % MINUTES] = np.array(flows) * LITRES_PER_GALLON
    return table


def read_sessions(folder: Path) -> tuple[Sessions, ...]:
    """Return charging sessions by station over sixteen weeks; overlapping ones are left out."""
    by_station: dict[str, list[tuple[float, float, float]]] = {}
    columns = ("station_id", "arrival", "departure", "delivered_energy (kWh)")
    for station, arrival, departure, energy_kwh in _rows(folder, "ev_acn_sessions", "sessions.csv.gz", columns):
        arrives, departs = _local(arrival), _local(departure)
        arrives_s = (arrives - SESSIONS_FROM).total_seconds()
        length_s = (departs - arrives).total_seconds()
        energy_wh = float(energy_kwh) * 1000.0
        if 0.0 <= arrives_s < SESSION_DAYS * 86400.0 and 600.0 < length_s < 86400.0 and energy_wh > 0.0:
            by_station.setdefault(station, []).append((arrives_s, arrives_s + length_s, energy_wh))
    stations = []
    for _, sessions in sorted(by_station.items()):
        kept: list[tuple[float, float, float]] = []
        for session in sorted(sessions):
            if not kept or session[0] >= kept[-1][1]:
                kept.append(session)
        if len(kept) >= SESSIONS_PER_STATION_MIN:
            stations.append(Sessions(*(np.array(column) for column in zip(*kept, strict=True))))
    if not stations:
        raise DamagedRecord("sessions.csv.gz", "holds no station with enough sessions")
    return tuple(stations)


def _on_year(values: Floats, step_h: float, first_h: float) -> Table:
    """Return values that begin at ``first_h`` of the year as a table row of quarter-hours from 1 January."""
    hours = (np.arange(QUARTERS) * 0.25 - first_h) % 8760.0
    # Values stand for intervals: their middle is half a step on.
    position = (hours / step_h - 0.5) % values.size
    before = position.astype(np.intp)
    blend = position - before
    after = (before + 1) % values.size
    return ((1.0 - blend) * values[before % values.size] + blend * values[after]).astype(np.float32)


def _mended(values: Floats, *, can_stick: bool) -> Floats:
    """Return quarter-hours without gaps: a logger that stuck for hours is a gap too; the usual at that time fills it.

    Roofs of the Monash set stand still at one value for nights on end, where their loggers were away.
    """
    changes = np.flatnonzero(np.diff(values) != 0.0) + 1
    bounds = np.concatenate([[0], changes, [values.size]])
    lengths = np.repeat(np.diff(bounds), np.diff(bounds))
    is_stuck = can_stick & (lengths >= STUCK_QUARTERS) & (values > 0.0)
    days = np.where(is_stuck, np.nan, values).reshape(-1, QUARTERS_PER_DAY)
    known = ~np.isnan(days)
    usual = np.where(known, days, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, days, usual).reshape(-1)


def _local(text: str) -> datetime:
    """Return the wall time of "2019-05-01 01:18:45-07:00", as if it were UTC: only the time of day matters."""
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)


def _open(folder: Path, name: str, file: str) -> TextIO:
    path = folder / name / file
    try:
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    except OSError as gone:
        raise Unavailable("recorded traces", f"{path} can't be read: {gone.strerror}") from gone


def _rows(folder: Path, name: str, file: str, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the named columns of a gzipped CSV file; raises DamagedRecord where it isn't one."""
    with _open(folder, name, file) as lines:
        try:
            rows = csv.reader(lines)
            header = next(rows)
            take = itemgetter(*(header.index(column) for column in columns))
            for row in rows:
                yield take(row)
        except (ValueError, IndexError, csv.Error, EOFError, gzip.BadGzipFile, StopIteration) as wrong:
            raise DamagedRecord(file, f"{type(wrong).__name__}: {wrong}") from wrong
