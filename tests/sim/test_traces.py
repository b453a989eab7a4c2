from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from unisono.base.errors import DamagedRecord, Unavailable
from unisono.base.instants import NS_PER_S
from unisono.model.technology import Technology
from unisono.sim import recordings
from unisono.sim.spec import WorldSpec
from unisono.sim.traces import trace_drivers
from unisono.sim.world import World

FOLDER = Path(os.environ.get("UNISONO_DATA", "../shared/data"))
START_NS = 1_795_201_200 * NS_PER_S  # 2026-11-20T19:00Z, noon in the middle of the states

needs_traces = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no recorded traces in {FOLDER} (UNISONO_DATA)")


def test_a_missing_folder_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="UNISONO_DATA"):
        trace_drivers(tmp_path / "nowhere")
    with pytest.raises(Unavailable, match=r"buildings_17_hourly.csv.gz can't be read"):
        trace_drivers(tmp_path)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "water_draws").mkdir()
    (tmp_path / "water_draws" / "draws_1min_sparse_20units.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DamagedRecord, match="draws_1min"):
        recordings.read_draws(tmp_path)


@needs_traces
def test_each_recording_is_read_in_its_unit_and_its_local_time() -> None:
    homes_w, roofs = recordings.read_citylearn(FOLDER)
    assert homes_w.shape == roofs.shape == (17, recordings.QUARTERS)
    assert 300 < homes_w.mean() < 3000
    home_w, roof = recordings.read_ausgrid(FOLDER)
    assert 100 < home_w.mean() < 3000
    draws = recordings.read_draws(FOLDER)
    litres_a_day = draws.sum(axis=1) / 365.0
    assert draws.shape == (20, recordings.MINUTES)
    assert 50 < litres_a_day.min() < litres_a_day.max() < 600
    business, monash = recordings.read_monash(FOLDER)
    assert business.shape == (6, recordings.QUARTERS)
    for table in (roofs, roof, monash):
        by_hour = table.reshape(table.shape[0], 365, 96).mean(axis=(0, 1))
        noon_h = float((by_hour * np.arange(96)).sum() / by_hour.sum() / 4.0)
        assert 11.0 < noon_h < 13.5, "the sun stands highest about noon"
        assert by_hour[:16].max() < 0.02, "and does not shine at night"
        by_month = table.mean(axis=0).reshape(73, 480).mean(axis=1)
        assert by_month[30:45].mean() > 1.2 * by_month[np.r_[:5, 68:73]].mean(), "and more in (northern) summer"


@needs_traces
def test_sessions_of_a_station_follow_one_another() -> None:
    stations = recordings.read_sessions(FOLDER)
    assert len(stations) > 50
    for station in stations:
        assert (station.departs_s > station.arrives_s).all()
        assert (station.arrives_s[1:] >= station.departs_s[:-1]).all()


@needs_traces
def test_the_same_fleet_lives_on_recordings() -> None:
    spec = WorldSpec(seed=3, n_devices=500, spin_up_h=1.0)
    make = trace_drivers(FOLDER)
    one, same = World(spec, START_NS, make), World(spec, START_NS, make)
    for _ in range(30):
        one.advance(one.now_ns + 4 * NS_PER_S)
        same.advance(same.now_ns + 4 * NS_PER_S)
    np.testing.assert_array_equal(one.power_w, same.power_w)
    np.testing.assert_array_equal(one.power_w, one.twin_w)
    total_w = {t: one.power_w[rows].sum() for t, rows in one.roster.rows_of.items()}
    assert total_w[Technology.PV] > 10_000
    assert total_w[Technology.FLEX_LOAD] < -50_000
    assert total_w[Technology.WATER_HEATER] < 0
