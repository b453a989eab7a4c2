"""History over a real PostgreSQL: what is committed is seen once, merging changes nothing, damage is found."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.store.history.make import DAY, DAY_NS, readings, rows
from tests.store.history.running import Records, running_records

from unisono.base.clock import MovableClock
from unisono.base.errors import Conflict, DamagedRecord, InvalidInput, TooMany
from unisono.model.batches import COMMANDS_PER_MESSAGE_MAX, AckBatch, CommandFrames, ReadingBatch
from unisono.model.dispatch import Dispatch, DispatchProgress, TargetPoint
from unisono.services.historian import HistorianCounters, HistorianSettings, keep_house
from unisono.store import dispatches, organisations, portfolios
from unisono.store.database import Database
from unisono.store.history import compaction, evidence, intake, manifest, queries, retention, rollup
from unisono.store.history.compaction import CompactionPolicy
from unisono.store.history.files import read_all
from unisono.store.history.kinds import COMMANDS, NS_PER_DAY, READINGS, ROLLUP_15MIN, Kind
from unisono.store.history.objects import ObjectStore, open_store
from unisono.store.history.reader import HistoryReader
from unisono.store.history.writer import Batch, Segment, commit_segment, write_segment
from unisono.store.identity import fresh_id

NOW_NS = DAY_NS + 2 * NS_PER_DAY
SPAN_NS = (DAY_NS, DAY_NS + NS_PER_DAY)


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


def keep(
    database: Database, store: ObjectStore, batches: Sequence[Batch], first: int, last: int, consumer: str = "r"
) -> None:
    segment = Segment(consumer, "mark", first, last, tuple((0, batch) for batch in batches))
    files = write_segment(store, segment)
    with database.begin() as connection:
        commit_segment(connection, segment, files, NOW_NS)


def all_rows(database: Database, store: ObjectStore, kind: Kind) -> pa.Table:
    with database.begin() as connection:
        files = manifest.live(connection, kind)
    return pa.concat_tables([read_all(store, kind, file.path) for file in files])


def merge_all(database: Database, store: ObjectStore, policy: CompactionPolicy, now_ns: int = NOW_NS) -> int:
    for n_steps in itertools.count():
        with database.begin() as connection:
            step = compaction.next_step(connection, now_ns, policy)
        if step is None:
            return n_steps
        written = compaction.merge_files(store, step)
        with database.begin() as connection:
            compaction.commit_merge(connection, step, written, now_ns)
    raise AssertionError


def frames(cycle: int, n_devices: int = 20) -> CommandFrames:
    scalars = {"shard": 0, "epoch": 3, "cycle": cycle, "issued_ns": DAY_NS + cycle * 4_000_000_000}
    columns = {
        "device_no": np.arange(n_devices, 0, -1) - 1,
        "gateway_no": np.ones(n_devices),
        "dispatch_no": np.full(n_devices, 7),
        "seq": cycle * 100 + np.arange(n_devices),
        "kind": np.zeros(n_devices),
        "fallback": np.zeros(n_devices),
        "value": np.where(np.arange(n_devices) % 3, 1000.0 + cycle, np.nan),
    }
    return CommandFrames.of_columns(scalars, columns)


def test_a_day_written_shuffled_in_small_files_and_merged_reads_back_equal(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_RANGE_ROWS", 3000)
    rng = np.random.default_rng(11)
    batches = [readings(rng, 400) for _ in range(50)]
    for at, batch in enumerate(batches):
        keep(database, store, [batch], at + 1, at + 1)
    whole = intake.readings_table(batches)
    assert rows(all_rows(database, store, READINGS)) == rows(whole)
    before = rollup.finish(all_rows(database, store, ROLLUP_15MIN))

    assert merge_all(database, store, CompactionPolicy()) >= 2

    with database.begin() as connection:
        assert len(manifest.live(connection, READINGS)) == len(manifest.live(connection, ROLLUP_15MIN)) == 1
    merged = all_rows(database, store, READINGS)
    assert rows(merged) == rows(whole)
    devices, instants = (merged.column(name).to_numpy() for name in ("device_no", "measured_ns"))
    assert (np.lexsort((instants, devices)) == np.arange(len(devices))).all()
    after = rollup.finish(all_rows(database, store, ROLLUP_15MIN))
    np.testing.assert_allclose(after.column("power_mean_w").to_numpy(), before.column("power_mean_w").to_numpy())
    assert after.drop_columns(["power_mean_w", "energy_wh"]) == before.drop_columns(["power_mean_w", "energy_wh"])


def test_one_device_is_answered_in_order_and_within_limits(database: Database, store: ObjectStore) -> None:
    rng = np.random.default_rng(12)
    batches = [readings(rng, 500, start_ns=DAY_NS + day * NS_PER_DAY) for day in (0, 1)]
    keep(database, store, batches, 1, 2)
    whole = intake.readings_table(batches)
    device_no, measured_ns = (whole.column(name).to_numpy() for name in ("device_no", "measured_ns"))
    span_ns = (DAY_NS + NS_PER_DAY // 2, DAY_NS + NS_PER_DAY + NS_PER_DAY // 2)
    mask = (device_no == 7) & (measured_ns >= span_ns[0]) & (measured_ns < span_ns[1])
    with database.begin() as connection:
        found = queries.device_readings(connection, store, 7, span_ns)
        assert rows(found) == rows(whole.filter(pa.array(mask)))
        expected = sorted(measured_ns[mask])
        assert found.column("measured_ns").to_pylist() == expected
        assert queries.device_readings(connection, store, 7, span_ns, limit=3).num_rows == 3
        newest = queries.device_readings(connection, store, 7, span_ns, limit=2, newest_first=True, columns=["power_w"])
        assert newest.column("measured_ns").to_pylist() == expected[:-3:-1]
        assert newest.schema.names == ["device_no", "measured_ns", "power_w"]
        assert queries.device_readings(connection, store, 999, span_ns).num_rows == 0
        with pytest.raises(InvalidInput, match="end_ns"):
            queries.device_readings(connection, store, 7, (5, 5))
        with pytest.raises(InvalidInput, match="limit"):
            queries.device_readings(connection, store, 7, span_ns, limit=0)


def test_late_readings_amend_the_quarter_hours_of_their_day(database: Database, store: ObjectStore) -> None:
    whole = readings(np.random.default_rng(13), 2000, n_devices=3)
    is_late = np.random.default_rng(14).random(2000) < 0.2
    # Those of one instant stay together: repeats across files count until nobody, on purpose, remembers them.
    is_late = is_late[np.unique(whole.measured_ns, return_inverse=True)[1]]

    def part(mask: np.ndarray, known_ns: int) -> ReadingBatch:
        columns = {name: getattr(whole, name)[mask] for name in ReadingBatch.DTYPES}
        return ReadingBatch.of_columns({"gateway_no": 1, "batch_seq": -1, "known_ns": known_ns}, columns)

    keep(database, store, [part(~is_late, NOW_NS)], 1, 1)
    merge_all(database, store, CompactionPolicy())
    with database.begin() as connection:
        first = queries.device_rollup(connection, store, 2, SPAN_NS)
    keep(database, store, [part(is_late, NOW_NS + 9 * NS_PER_DAY)], 2, 2)
    expected = rollup.finish(rollup.sums_of_readings(intake.readings_table([whole])))
    of_device = expected.filter(pa.array(expected.column("device_no").to_numpy() == 2))
    for _ in ("before merging", "after"):
        with database.begin() as connection:
            amended = queries.device_rollup(connection, store, 2, SPAN_NS)
            together = queries.portfolio_rollup(connection, store, [1, 2, 3, 44], SPAN_NS)
        assert amended.column("n").to_pylist() == of_device.column("n").to_pylist() != first.column("n").to_pylist()
        np.testing.assert_allclose(amended.column("power_mean_w"), of_device.column("power_mean_w"))
        total_w = dict.fromkeys(expected.column("interval_start_ns").to_pylist(), 0.0)
        for row in expected.to_pylist():
            total_w[row["interval_start_ns"]] += row["power_mean_w"]
        assert together.column("interval_start_ns").to_pylist() == sorted(total_w)
        # A block says it in float32.
        by_device = [total_w[at] for at in sorted(total_w)]
        np.testing.assert_allclose(together.column("power_mean_w"), by_device, atol=1e-3)
        assert max(together.column("n_devices").to_pylist()) <= 3
        merge_all(database, store, CompactionPolicy())


def test_a_year_of_quarter_hours_is_the_most(database: Database, store: ObjectStore) -> None:
    with database.begin() as connection, pytest.raises(TooMany):
        queries.portfolio_rollup(connection, store, [1], (DAY_NS, DAY_NS + 400 * NS_PER_DAY))


def test_a_span_that_was_kept_is_not_kept_again(database: Database, store: ObjectStore) -> None:
    batch = readings(np.random.default_rng(15), 100)
    keep(database, store, [batch], 1, 4)
    with pytest.raises(Conflict, match="stream position"):
        keep(database, store, [batch], 4, 6)
    assert all_rows(database, store, READINGS).num_rows == 100


def test_the_command_log_has_answers_and_counts_what_is_in_file_and_tail_once(
    database: Database, store: ObjectStore
) -> None:
    acks = AckBatch.of_columns(
        {"gateway_no": 1, "known_ns": DAY_NS + 5_000_000_000},
        {
            "device_no": [4, 4],
            "epoch": [3, 3],
            "seq": [115, 115],
            "code": [1, 0],
            "answered_ns": [DAY_NS + 4_500_000_000] * 2,
        },
    )
    keep(database, store, [frames(1), frames(2)], 1, 2, consumer="commands")
    keep(database, store, [acks], 1, 1)
    reader = HistoryReader(database, store, lambda: ([frames(2), frames(3)], []))
    log = reader.device_commands(4, *SPAN_NS, limit=10)
    assert [(row["cycle"], row["seq"], row["ack_code"]) for row in log] == [(1, 115, 1), (2, 215, None), (3, 315, None)]
    assert [(row["value"], row["ttl_s"]) for row in log] == [(None, None)] * 3
    assert [row["value"] for row in reader.device_commands(3, *SPAN_NS, limit=10)] == [1001.0, 1002.0, 1003.0]
    assert log[0]["answered_ns"] == DAY_NS + 4_500_000_000
    assert [row["cycle"] for row in reader.device_commands(4, *SPAN_NS, limit=2)] == [2, 3]
    assert reader.through_ns("commands") == DAY_NS + 12_000_000_000
    assert reader.through_ns("readings") == -1


def test_a_cycles_frame_is_put_together_again_byte_for_byte(database: Database, store: ObjectStore) -> None:
    keep(database, store, [frames(1), frames(2)], 1, 2)
    table = all_rows(database, store, COMMANDS)
    cycle = table.filter(pa.array(table.column("cycle").to_numpy() == 2))
    assert intake.frame_of_rows(0, cycle).encode() == frames(2).encode()


def test_the_log_verifies_until_one_byte_of_a_commands_file_is_flipped(
    database: Database, store: ObjectStore, tmp_path: Path
) -> None:
    for at in range(3):
        keep(database, store, [frames(at + 1)], at + 1, at + 1)
    with database.begin() as connection:
        report = evidence.verify_log(connection, store)
    assert (report.is_sound, report.n_files, report.first_damage) == (True, 3, "")
    merge_all(database, store, CompactionPolicy())
    with database.begin() as connection:
        report = evidence.verify_log(connection, store)
        [file] = manifest.live(connection, COMMANDS)
    assert (report.is_sound, report.n_files) == (True, 1)

    path = tmp_path / "history" / file.path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with database.begin() as connection:
        report = evidence.verify_log(connection, store)
    assert not report.is_sound
    assert file.path in report.first_damage
    path.unlink()
    with database.begin() as connection:
        assert "is missing" in evidence.verify_log(connection, store).first_damage


def test_frames_are_held_against_the_digests_of_their_cycles(database: Database, store: ObjectStore) -> None:
    dispatch = some_dispatch(database)
    for at in range(1, 4):
        keep(database, store, [frames(at)], at, at)
    late = frames(10_000)
    keep(database, store, [late], 4, 4)

    def verified(*cycles: tuple[int, str]) -> evidence.LogReport:
        progress = [cycle_of(dispatch, cycle, digest) for cycle, digest in cycles]
        with database.begin() as connection:
            dispatches.record_progress(connection, progress)
            return evidence.verify_log(connection, store)

    digest = hashlib.sha256(frames(2).encode()).hexdigest()
    found = verified((1, ""), (2, digest))
    assert (found.is_sound, found.n_frames) == (True, 1)
    merge_all(database, store, CompactionPolicy())
    found = verified((20_000, "not written yet"))
    assert (found.is_sound, found.n_frames) == (True, 1)
    assert "cycle (0, 3, 4) are in no file" in verified((4, "gone")).first_damage
    assert "cycle (0, 3, 3) has other frames" in verified((3, digest)).first_damage


def test_a_cycle_in_several_messages_is_held_against_the_digest_of_each(database: Database, store: ObjectStore) -> None:
    dispatch = some_dispatch(database)
    n = COMMANDS_PER_MESSAGE_MAX + 2
    scalars = {"shard": 0, "epoch": 3, "cycle": 1, "issued_ns": DAY_NS}
    columns = {"device_no": np.arange(n) % 40, "seq": np.arange(n), "value": np.arange(n) % 7}
    parts = list(CommandFrames.of_columns(scalars, columns).parts())
    # Each in a file of its own.
    for at, part in enumerate(parts, 1):
        keep(database, store, [part], at, at)
    digests = [hashlib.sha256(part.encode()).hexdigest() for part in parts]
    with database.begin() as connection:
        dispatches.record_progress(connection, [cycle_of(dispatch, 1, " ".join(digests))])
        report = evidence.verify_log(connection, store)
    assert (report.is_sound, report.n_frames, report.n_rows) == (True, 2, n)
    merge_all(database, store, CompactionPolicy())
    with database.begin() as connection:
        report = evidence.verify_log(connection, store)
    assert (report.is_sound, report.n_frames, report.n_rows) == (True, 2, n)
    # The second message of another cycle says something else than its record.
    keep(database, store, [dataclasses.replace(part, cycle=2) for part in parts], 3, 4)
    with database.begin() as connection:
        digests[0] = hashlib.sha256(dataclasses.replace(parts[0], cycle=2).encode()).hexdigest()
        dispatches.record_progress(connection, [cycle_of(dispatch, 2, " ".join(digests))])
        assert "cycle (0, 3, 2) has other frames" in evidence.verify_log(connection, store).first_damage


def test_the_historian_lets_outcomes_go_when_their_days_are_over_and_the_frames_still_verify(
    database: Database, store: ObjectStore
) -> None:
    dispatch, counters, clock = some_dispatch(database), HistorianCounters(), MovableClock(NOW_NS)
    keep(database, store, [frames(2)], 2, 2)
    with database.begin() as connection:
        digest = hashlib.sha256(frames(2).encode()).hexdigest()
        dispatches.record_progress(connection, [cycle_of(dispatch, 2, digest)])
    for days, n_gone in ((0, 0), (30, 0), (1, 1)):
        # The dispatch ended a day ago.
        clock.advance(1)
        keep_house(database, store, clock, HistorianSettings(outcomes_days=days), counters)
        assert counters.n_outcomes_expired == n_gone, days
    with database.begin() as connection:
        assert evidence.verify_log(connection, store).is_sound


def some_dispatch(database: Database) -> Dispatch:
    with database.begin() as connection:
        owner = organisations.add(connection, "owner", DAY_NS)
        portfolio = portfolios.create(connection, owner.organisation_id, "all", DAY_NS)
        return dispatches.create(
            connection,
            Dispatch(
                dispatch_id=fresh_id("dispatch", DAY_NS),
                revision=1,
                organisation_id=owner.organisation_id,
                portfolio_id=portfolio.portfolio_id,
                portfolio_no=portfolio.portfolio_no,
                kind="change_w",
                start_ns=DAY_NS,
                end_ns=DAY_NS + NS_PER_DAY,
                targets=(TargetPoint(DAY_NS, 5000.0),),
            ),
        )


def cycle_of(dispatch: Dispatch, cycle: int, digest: str) -> DispatchProgress:
    names = [name for name in DispatchProgress.__struct_fields__ if name.startswith("n_") or name.endswith("_w")]
    return DispatchProgress(
        **dict.fromkeys(names, 0),
        dispatch_id=dispatch.dispatch_id,
        revision=1,
        organisation_id=dispatch.organisation_id,
        portfolio_id=dispatch.portfolio_id,
        shard=0,
        epoch=3,
        cycle=cycle,
        at_ns=DAY_NS + cycle * 4_000_000_000,
        state="active",
        frames_digest=digest,
    )


def test_a_damaged_file_is_never_merged_away(database: Database, store: ObjectStore, tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    for at in (1, 2):
        keep(database, store, [readings(rng, 100)], at, at)
    with database.begin() as connection:
        step = compaction.next_step(connection, NOW_NS, CompactionPolicy())
    assert step is not None
    path = tmp_path / "history" / step.files[1].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedRecord, match="digest"):
        compaction.merge_files(store, step)


def test_two_who_merge_the_same_files_do_not_show_them_twice(database: Database, store: ObjectStore) -> None:
    rng = np.random.default_rng(17)
    for at in (1, 2):
        keep(database, store, [readings(rng, 100)], at, at)
    with database.begin() as connection:
        step = compaction.next_step(connection, NOW_NS, CompactionPolicy())
    assert step is not None
    written = compaction.merge_files(store, step)
    with database.begin() as connection:
        compaction.commit_merge(connection, step, written, NOW_NS)
    other = compaction.Merged(dataclasses.replace(written.file, path="readings/other.parquet"))
    with pytest.raises(Conflict), database.begin() as connection:
        compaction.commit_merge(connection, step, other, NOW_NS)
    assert all_rows(database, store, READINGS).num_rows == 200


def test_a_late_handful_does_not_rewrite_a_large_day(database: Database, store: ObjectStore) -> None:
    rng = np.random.default_rng(18)
    keep(database, store, [readings(rng, 5000)], 1, 1)
    keep(database, store, [readings(rng, 10)], 2, 2)
    with database.begin() as connection:
        files = manifest.live(connection, READINGS)
    assert compaction.choose(files, CompactionPolicy()) == []
    keep(database, store, [readings(rng, 10)], 3, 3)
    with database.begin() as connection:
        files = manifest.live(connection, READINGS)
    assert [file.n_rows for file in compaction.choose(files, CompactionPolicy())] == [10, 10]
    assert compaction.choose(files, CompactionPolicy(rows_max=15)) == []


def test_what_is_too_old_leaves_and_the_disk_follows_later(
    database: Database, store: ObjectStore, tmp_path: Path
) -> None:
    keep(database, store, [readings(np.random.default_rng(19), 50)], 1, 1)
    orphan = tmp_path / "history/readings/left-over.parquet"
    orphan.write_bytes(b"never came into the manifest")
    later_ns = NOW_NS + 500 * NS_PER_DAY
    with database.begin() as connection:
        assert retention.expire(connection, NOW_NS) == 0
        assert retention.expire(connection, later_ns, {"readings": 0}) == 0
        assert retention.expire(connection, later_ns) == 1
        assert retention.sweep(connection, store, later_ns) == 1
        assert orphan.exists() is False
        assert retention.sweep(connection, store, later_ns + NS_PER_DAY) == 1
        assert manifest.live(connection, READINGS) == []
        assert len(manifest.live(connection, ROLLUP_15MIN)) == 1
    assert {path.split("/")[0] for path, _ in store.paths()} == {"rollup_15min"}
    assert DAY == DAY_NS // NS_PER_DAY


def test_of_two_historians_at_once_one_keeps_a_span(database: Database, store: ObjectStore) -> None:
    batch = readings(np.random.default_rng(20), 100)

    def attempt(last: int) -> bool:
        try:
            keep(database, store, [batch], 1, last)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, range(1, 9))) == 1
    assert all_rows(database, store, READINGS).num_rows == 100
