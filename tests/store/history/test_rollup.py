"""Quarter-hour sums against a slow, obvious twin; they merge in any order."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from tests.store.history.make import DAY_NS, readings, rows

from unisono.model.batches import ReadingBatch
from unisono.model.technology import ReadingKind, SourceKind
from unisono.store.history import intake, rollup

QUARTER_NS = rollup.QUARTER_NS


def plain_means(batch: ReadingBatch) -> dict[tuple[int, int], tuple[int, float, float, float, int]]:
    """Return (n, mean, min, max, minutes) by (device, quarter), one reading at a time."""
    seen: dict[tuple[int, int, int], float] = {}
    for device_no, measured_ns, power_w in zip(batch.device_no, batch.measured_ns, batch.power_w, strict=True):
        seen.setdefault((int(device_no), int(measured_ns) // QUARTER_NS, int(measured_ns)), float(power_w))
    powers_w: dict[tuple[int, int], list[float]] = defaultdict(list)
    minutes: dict[tuple[int, int], set[int]] = defaultdict(set)
    for (device_no, quarter, measured_ns), power_w in seen.items():
        if not np.isnan(power_w):
            powers_w[device_no, quarter * QUARTER_NS].append(power_w)
            minutes[device_no, quarter * QUARTER_NS].add(measured_ns // 60_000_000_000)
    return {key: (len(w), float(np.mean(w)), min(w), max(w), len(minutes[key])) for key, w in powers_w.items()}


@given(st.integers(0, 2**32), st.integers(1, 400))
def test_sums_agree_with_the_plain_way(seed: int, n: int) -> None:
    batch = readings(np.random.default_rng(seed), n, n_devices=4, span_s=7200)
    finished = rollup.finish(rollup.sums_of_readings(intake.readings_table([batch]))).to_pylist()
    expected = plain_means(batch)
    assert [(row["device_no"], row["interval_start_ns"]) for row in finished] == sorted(expected)
    for row in finished:
        n_readings, mean_w, min_w, max_w, n_minutes = expected[row["device_no"], row["interval_start_ns"]]
        assert row["n"] == n_readings
        assert row["power_mean_w"] == pytest.approx(mean_w, abs=1e-6)
        assert (row["power_min_w"], row["power_max_w"]) == (min_w, max_w)
        assert row["coverage_frac"] == pytest.approx(n_minutes / 15)
        assert row["energy_wh"] == pytest.approx(mean_w / 4, abs=1e-6)
        assert row["interval_end_ns"] - row["interval_start_ns"] == QUARTER_NS


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_sums_of_parts_merge_to_the_sums_of_the_whole(seed: int, n_parts: int) -> None:
    rng = np.random.default_rng(seed)
    table = intake.readings_table([readings(rng, 300, n_devices=3, span_s=3600)])
    part = rng.integers(0, n_parts, 300)
    # Repeats are found within a part only, so they are kept together here.
    part = part[np.unique(table.column("measured_ns").to_numpy(), return_inverse=True)[1]]
    sums = [rollup.sums_of_readings(table.filter(pa.array(part == at))) for at in range(n_parts)]
    merged, whole = rollup.merge(pa.concat_tables(sums)), rollup.sums_of_readings(table)
    exact = ["device_no", "interval_start_ns", "n", "minutes", "power_min_w", "power_max_w"]
    assert rows(merged.select(exact)) == rows(whole.select(exact))
    first, second = (one.column("power_sum_w").fill_null(0).to_numpy() for one in (merged, whole))
    np.testing.assert_allclose(first, second, atol=1e-6)


def energy(start_s: int, end_s: int, energy_wh: float, source: SourceKind = SourceKind.METER) -> ReadingBatch:
    columns = {
        "device_no": [5],
        "source_kind": [source],
        "reading_kind": [ReadingKind.INTERVAL_ENERGY],
        "measured_ns": [DAY_NS + end_s * 10**9],
        "interval_start_ns": [DAY_NS + start_s * 10**9],
        "energy_wh": [energy_wh],
    }
    return ReadingBatch.of_columns({"gateway_no": 1, "batch_seq": -1, "known_ns": DAY_NS}, columns)


def test_metered_energy_is_shared_out_by_time_and_counts_once_when_told_twice() -> None:
    sums = [rollup.sums_of_readings(intake.readings_table([energy(450, 2250, 800.0)])) for _ in range(2)]
    for told in (sums[:1], sums):
        finished = rollup.finish(pa.concat_tables(told)).to_pylist()
        assert [row["power_mean_w"] for row in finished] == pytest.approx([1600.0] * 3)
        assert finished[1]["energy_is_metered"]
        assert finished[1]["energy_wh"] == pytest.approx(400.0)


def test_a_metered_energy_adds_up_over_the_quarters_that_it_touches() -> None:
    finished = rollup.finish(rollup.sums_of_readings(intake.readings_table([energy(450, 2250, 800.0)]))).to_pylist()
    assert [row["energy_wh"] for row in finished] == pytest.approx([200.0, 400.0, 200.0])
    assert [row["energy_is_metered"] for row in finished] == [False, True, False]


def test_the_source_of_highest_priority_speaks_alone() -> None:
    meter, cloud = energy(0, 900, 100.0), energy(0, 900, 999.0, SourceKind.VENDOR_CLOUD)
    finished = rollup.finish(rollup.sums_of_readings(intake.readings_table([cloud, meter]))).to_pylist()
    assert [(row["source_kind"], row["energy_wh"]) for row in finished] == [(SourceKind.METER, pytest.approx(100.0))]


def test_of_no_readings_there_are_no_sums() -> None:
    empty = intake.readings_table([readings(np.random.default_rng(1), 3)]).slice(0, 0)
    assert rollup.finish(rollup.sums_of_readings(empty)).num_rows == 0
