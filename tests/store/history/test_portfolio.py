"""Quarter-hours of many devices: whether blocks or rows answer, they say the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.store.history.make import DAY_NS, readings
from tests.store.history.running import Records, running_records
from tests.store.history.test_history import NOW_NS, SPAN_NS, keep, merge_all

from unisono.model.batches import ReadingBatch
from unisono.model.technology import ReadingKind, SourceKind
from unisono.store.database import Database
from unisono.store.history import manifest, queries, rollup
from unisono.store.history.compaction import CompactionPolicy
from unisono.store.history.intake import readings_table
from unisono.store.history.kinds import ROLLUP_15MIN, ROLLUP_DAY
from unisono.store.history.objects import ObjectStore, open_store
from unisono.store.history.retention import expire

QUARTER_S = 900


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    with running_records(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def database(records: Records) -> Iterator[Database]:
    with records.database() as database:
        yield database


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store((tmp_path / "history").as_uri())


def metered(rng: np.random.Generator, n: int) -> ReadingBatch:
    """Return energies of meters 30 to 34, over intervals of 10 minutes that no quarter is cut by."""
    start_ns = DAY_NS + rng.integers(0, 96, n) * QUARTER_S * 10**9
    columns = {
        "device_no": rng.integers(30, 35, n),
        "source_kind": np.full(n, SourceKind.METER),
        "reading_kind": np.full(n, ReadingKind.INTERVAL_ENERGY),
        "interval_start_ns": start_ns,
        "measured_ns": start_ns + 600 * 10**9,
        "energy_wh": np.round(rng.normal(0, 500, n)),
    }
    return ReadingBatch.of_columns({"gateway_no": 2, "batch_seq": -1, "known_ns": int(start_ns[0])}, columns)


def plain(batches: list[ReadingBatch], members: list[int]) -> dict[int, list[float]]:
    """Return start -> [power, energy, devices, coverage] by a loop over the quarter-hours of each device."""
    finished = rollup.finish(
        rollup.merge(pa.concat_tables([rollup.sums_of_readings(readings_table([b])) for b in batches]))
    )
    found: dict[int, list[float]] = {}
    for row in finished.to_pylist():
        if row["device_no"] in members:
            sums = found.setdefault(row["interval_start_ns"], [0.0, 0.0, 0, 0.0])
            sums[0] += row["power_mean_w"] or 0.0
            sums[1] += row["energy_wh"] or 0.0
            sums[2] += 1
            sums[3] += row["coverage_frac"] / len(members)
    return found


def holds(
    database: Database, store: ObjectStore, batches: list[ReadingBatch], members: list[int], span_ns: tuple[int, int]
) -> None:
    expected = {at: sums for at, sums in plain(batches, members).items() if span_ns[0] <= at < span_ns[1]}
    with database.begin() as connection:
        found = queries.portfolio_rollup(connection, store, members, span_ns)
    assert found.column("interval_start_ns").to_pylist() == sorted(expected)
    columns = [found.column(name).to_numpy() for name in ("power_mean_w", "energy_wh", "n_devices", "coverage_frac")]
    np.testing.assert_allclose(np.array(columns).T, [expected[at] for at in sorted(expected)], atol=2e-3)


def n_blocks(database: Database) -> int:
    with database.begin() as connection:
        return len(manifest.live(connection, ROLLUP_DAY))


def test_a_portfolios_day_is_the_same_before_and_after_its_sums_are_merged_and_with_what_came_later(
    database: Database, store: ObjectStore
) -> None:
    rng = np.random.default_rng(31)
    later_ns = DAY_NS + 10 * 3600 * 10**9
    batches = [readings(rng, 900), metered(rng, 60), readings(rng, 300, n_devices=35)]
    members = [*range(2, 36), 77]
    for at, batch in enumerate(batches):
        keep(database, store, [batch], at + 1, at + 1)
    spans = (SPAN_NS, (later_ns, later_ns + 3 * QUARTER_S * 10**9))
    for expected_blocks in (0, 1):
        assert n_blocks(database) == expected_blocks
        for span_ns in spans:
            holds(database, store, batches, members, span_ns)
            holds(database, store, batches, [7], span_ns)
        merge_all(database, store, CompactionPolicy())
    # A few devices are told of later: for them rows speak, for all others the block still does.
    batches.append(readings(np.random.default_rng(32), 40, n_devices=4))
    keep(database, store, batches[-1:], 4, 4)
    for span_ns in spans:
        holds(database, store, batches, members, span_ns)


def test_devices_that_two_blocks_speak_of_are_counted_once(database: Database, store: ObjectStore) -> None:
    rng = np.random.default_rng(33)
    batches = [readings(rng, 800) for _ in range(4)]
    members = list(range(1, 41))
    for at, batch in enumerate(batches):
        keep(database, store, [batch], at + 1, at + 1)
        if at % 2:
            # Two files of more rows than a third step may take together: both stay, each with its block.
            merge_all(database, store, CompactionPolicy(rows_max=2200))
    assert n_blocks(database) == 2
    holds(database, store, batches, members, SPAN_NS)


def test_a_block_goes_with_the_file_that_it_was_made_from(database: Database, store: ObjectStore) -> None:
    rng = np.random.default_rng(34)
    for at in range(1, 5):
        keep(database, store, [readings(rng, 200)], at, at)
        merge_all(database, store, CompactionPolicy())
    assert n_blocks(database) == 1
    with database.begin() as connection:
        sums = manifest.live(connection, ROLLUP_15MIN)
        blocks = manifest.live(connection, ROLLUP_DAY)
        assert [file.path.split("/", 1)[1] for file in sums] == [file.path.split("/", 1)[1] for file in blocks]
        expire(connection, NOW_NS, {"rollup_15min": 1})
    assert n_blocks(database) == 0
