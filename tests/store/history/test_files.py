"""One Parquet file: what goes in comes out, by device, and columns are matched by name."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs
from tests.store.history.make import DAY, DAY_NS, readings, rows

from unisono.base.errors import DamagedRecord, InvalidInput
from unisono.store.history import files, intake
from unisono.store.history.kinds import NS_PER_DAY, READINGS
from unisono.store.history.objects import ObjectStore, open_store


def place(mark: str = "m") -> files.Place:
    return files.Place(READINGS, 0, DAY, 1, 9, mark)


def test_a_file_gives_back_what_was_written_and_its_digest_is_of_its_bytes(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    table = intake.readings_table([readings(np.random.default_rng(1), 3000)])
    written = files.write_file(store, place(), table)
    assert rows(files.read_all(store, READINGS, written.path)) == rows(table)
    content = (tmp_path / written.path).read_bytes()
    assert (written.sha256, written.n_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert store.digest(written.path) == (written.sha256, written.n_bytes)
    assert (written.n_rows, written.day) == (3000, DAY)


def test_missing_values_are_null_never_nan_or_minus_one(tmp_path: Path) -> None:
    batch = readings(np.random.default_rng(2), 500)
    table = intake.readings_table([batch])
    assert table.column("power_w").null_count == int(np.isnan(batch.power_w).sum()) > 0
    assert table.column("interval_start_ns").null_count == table.column("voltage_v").null_count == 500


def test_the_same_rows_make_the_same_file_in_whatever_order_they_came(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    table = intake.readings_table([readings(np.random.default_rng(3), 1000, n_devices=1000)])
    shuffled = table.take(pa.array(np.random.default_rng(4).permutation(1000)))
    assert files.write_file(store, place("a"), table).sha256 == files.write_file(store, place("b"), shuffled).sha256


def test_devices_and_ranges_of_devices_are_found_over_many_row_groups(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    small = dataclasses.replace(READINGS, row_group_rows=100)
    table = intake.readings_table([readings(np.random.default_rng(5), 3000)])
    path = files.write_file(store, dataclasses.replace(place(), kind=small), table).path
    device_no = table.column("device_no").to_numpy()
    assert rows(files.read_devices(store, READINGS, path, [7, 31])) == rows(
        table.filter(pa.array(np.isin(device_no, [7, 31])))
    )
    assert files.read_devices(store, READINGS, path, [99]).num_rows == 0
    some = np.array([0, 3, 39, 77], np.int32)
    pieces = list(files.device_groups(store, READINGS, path, some))
    assert len(pieces) < 10
    assert rows(pa.concat_tables(pieces)) == rows(table.filter(pa.array(np.isin(device_no, some))))
    with files.DeviceCursor(store, READINGS, path) as cursor:
        for first, end in ((0, 10), (10, 13), (13, 13), (13, 60), (60, 70)):
            inside = pa.array((device_no >= first) & (device_no < end))
            assert rows(cursor.take(end)) == rows(table.filter(inside))


def test_a_column_added_later_is_missing_in_old_files_and_needs_no_rewrite(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    table = intake.readings_table([readings(np.random.default_rng(6), 200)])
    old = files.write_file(store, place(), table)
    wider = dataclasses.replace(
        READINGS, version=2, schema=READINGS.schema.append(pa.field("frequency_hz", pa.float32(), nullable=False))
    )
    seen = files.read_all(store, wider, old.path)
    assert seen.column("frequency_hz").null_count == 200
    assert rows(seen.drop_columns("frequency_hz")) == rows(table)
    # What a newer version wrote is read by an older one too: it leaves out what it does not know.
    newer = table.append_column("frequency_hz", pa.array(np.full(200, 50.0, np.float32)))
    path = files.write_file(store, dataclasses.replace(place("n"), kind=wider), newer.cast(wider.schema)).path
    assert rows(files.read_all(store, READINGS, path)) == rows(table)


def test_nothing_is_seen_of_a_file_whose_writing_failed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))

    def fail() -> None:
        with store.writing("readings/x.parquet") as sink:
            sink.write(b"some")
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        fail()
    assert store.paths() == []


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(DamagedRecord, match=r"readings/none\.parquet.*is missing"):
        files.read_all(store, READINGS, "readings/none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedRecord, match=r"broken\.parquet"):
        files.read_all(store, READINGS, "broken.parquet")


def test_another_file_system_than_the_local_one_works_the_same(tmp_path: Path) -> None:
    store = ObjectStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket/prefix")
    (tmp_path / "bucket/prefix/readings/shard=0/day=2026-11-20").mkdir(parents=True)
    table = intake.readings_table([readings(np.random.default_rng(7), 100)])
    written = files.write_file(store, place(), table)
    assert rows(files.read_all(store, READINGS, written.path)) == rows(table)
    assert [path for path, _ in store.paths()] == [written.path]
    store.delete(written.path)
    store.delete(written.path)
    assert store.paths() == []


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(InvalidInput, match="history_url"):
        open_store("gopher://somewhere/else")


def test_readings_from_a_broken_clock_go_astray_and_open_no_folders() -> None:
    batch = readings(np.random.default_rng(8), 300)
    measured_ns = batch.measured_ns.copy()
    measured_ns[:3] = (-1, DAY_NS - 41 * NS_PER_DAY, DAY_NS + 3 * NS_PER_DAY)
    near, astray = intake.split_astray(intake.readings_table([dataclasses.replace(batch, measured_ns=measured_ns)]))
    assert (near.num_rows, astray.num_rows) == (297, 3)
    assert [day for day, _ in intake.by_day(READINGS, near)] == [DAY]
