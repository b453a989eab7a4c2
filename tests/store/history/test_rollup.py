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
from unisono.store.history.files import of_schema
from unisono.store.history.kinds import ROLLUP_15MIN
from unisono.wire.energies import INTERVAL_S_MAX

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


def energy(
    start_s: int, end_s: int, energy_wh: float, source: SourceKind = SourceKind.METER, *, known_s: int = 0
) -> ReadingBatch:
    columns = {
        "device_no": [5],
        "source_kind": [source],
        "reading_kind": [ReadingKind.INTERVAL_ENERGY],
        "measured_ns": [DAY_NS + end_s * 10**9],
        "interval_start_ns": [DAY_NS + start_s * 10**9],
        "energy_wh": [energy_wh],
    }
    return ReadingBatch.of_columns({"gateway_no": 1, "batch_seq": -1, "known_ns": DAY_NS + known_s * 10**9}, columns)


def sums_of(*batches: ReadingBatch) -> pa.Table:
    return rollup.sums_of_readings(intake.readings_table(batches))


def test_metered_energy_is_shared_out_by_time_and_counts_once_when_told_twice() -> None:
    sums = [sums_of(energy(450, 2250, 800.0, known_s=known_s)) for known_s in (0, 7)]
    for told in (sums[:1], sums, sums[::-1]):
        finished = rollup.finish(pa.concat_tables(told)).to_pylist()
        assert [row["power_mean_w"] for row in finished] == pytest.approx([1600.0] * 3)
        assert [row["energy_is_metered"] for row in finished] == [False, True, False]
        assert [row["energy_wh"] for row in finished] == pytest.approx([200.0, 400.0, 200.0])


def test_ten_minutes_told_in_two_files_are_ten_minutes() -> None:
    told = pa.concat_tables([sums_of(energy(0, 600, 100.0, known_s=known_s)) for known_s in (600, 700)])
    for sums in (told, rollup.merge(told)):
        (row,) = rollup.finish(sums).to_pylist()
        assert not row["energy_is_metered"]
        assert (row["coverage_frac"], row["energy_wh"]) == pytest.approx((600 / 900, 100.0))


def test_what_was_told_last_of_a_time_speaks_for_it() -> None:
    first, last = energy(0, 900, 900.0, known_s=900), energy(300, 600, 0.0, known_s=1000)
    for told in ((first, last), (last, first)):
        files = pa.concat_tables([sums_of(batch) for batch in told])
        for sums in (sums_of(*told), files, rollup.merge(files)):
            (row,) = rollup.finish(sums).to_pylist()
            assert row["energy_is_metered"]
            assert row["energy_wh"] == pytest.approx(600.0)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 3))
def test_overlapping_intervals_agree_with_a_second_by_second_twin(seed: int, n: int, n_files: int) -> None:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 3000, n)
    told = [
        (int(start), int(start + length), float(wh), known_s)
        for start, length, wh, known_s in zip(
            starts, rng.integers(1, 2000, n), rng.integers(-500, 500, n), rng.permutation(n), strict=True
        )
    ]
    power_w = np.full(5400, np.nan)
    for start, end, wh, _ in sorted(told, key=lambda one: one[3]):
        power_w[start:end] = wh * 3600 / (end - start)
    file_of = rng.integers(0, n_files, n)
    parts = [
        sums_of(*(energy(*one[:3], known_s=one[3]) for one, of in zip(told, file_of, strict=True) if of == at))
        for at in set(file_of.tolist())
    ]
    finished = rollup.finish(pa.concat_tables(parts)).to_pylist()
    quarters = power_w.reshape(-1, 900)
    n_covered = (~np.isnan(quarters)).sum(axis=1)
    assert [row["interval_start_ns"] for row in finished] == [
        DAY_NS + at * QUARTER_NS for at in np.flatnonzero(n_covered)
    ]
    for row, covered, watts in zip(finished, n_covered[n_covered > 0], quarters[n_covered > 0], strict=True):
        assert row["coverage_frac"] == pytest.approx(covered / 900)
        if not row["energy_is_metered"]:
            assert row["energy_wh"] == pytest.approx(np.nansum(watts) / 3600, abs=1e-6)
        assert row["power_mean_w"] == pytest.approx(np.nanmean(watts), abs=1e-6)


def test_a_meters_minutes_take_one_row_a_quarter_once_they_are_merged() -> None:
    minutes = [energy(60 * at, 60 * at + 60, float(at), known_s=60 * at + 61) for at in range(30)]
    merged = rollup.merge(pa.concat_tables([sums_of(*minutes[:20]), sums_of(*minutes[20:])]))
    assert merged.num_rows == 2
    assert [row["energy_wh"] for row in rollup.finish(merged).to_pylist()] == pytest.approx([105.0, 330.0])


def test_the_longest_interval_that_the_wire_takes_is_spread_over_its_quarters() -> None:
    rows = rollup.finish(sums_of(energy(450, 450 + INTERVAL_S_MAX, 100.0))).to_pylist()
    assert len(rows) == 101
    assert sum(row["energy_wh"] for row in rows) == pytest.approx(100.0)
    assert rollup.finish(sums_of(energy(0, INTERVAL_S_MAX + 1, 100.0))).num_rows == 0


def test_sums_of_a_file_of_version_1_are_read_as_they_were() -> None:
    old = sums_of(energy(0, 600, 100.0)).drop_columns(["metered_from_ns", "metered_known_ns"])
    table = of_schema(ROLLUP_15MIN, old)
    (row,) = rollup.finish(rollup.merge(table)).to_pylist()
    assert (row["coverage_frac"], row["energy_wh"]) == pytest.approx((600 / 900, 100.0))


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
