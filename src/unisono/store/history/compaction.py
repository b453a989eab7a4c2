"""Many small files of a day become few large ones, in bounded memory, a row being rewritten only a few times.

Every file is in device order, so merging goes range of devices by range of devices. Files are taken smallest first and
a file much larger than all others together is left alone: a late reading does not cause a day to be written again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Connection

from unisono.base.errors import Conflict, DamagedRecord
from unisono.base.instants import NS_PER_S
from unisono.store.history import blocks, evidence, manifest, rollup
from unisono.store.history.files import DeviceCursor, FileWriter, Place, WrittenFile, device_nos_of, sorted_table
from unisono.store.history.kinds import KINDS, NS_PER_DAY, ROLLUP_15MIN, Kind, date_of
from unisono.store.history.manifest import ManifestFile
from unisono.store.history.objects import ObjectStore

# Rows sorted in memory at once: 120 MB of readings.
_RANGE_ROWS: Final = 2_000_000
# A file this many times larger than all the others of its day together is not written again for their sake: once the
# day is over, and while more files come. So a row is written some three times, however many a day has.
_MUCH_LARGER: Final = 8
_LARGER: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionPolicy:
    """When files are merged."""

    # A day that still grows may have so many files: a device's query opens each of them (some 2 ms a file).
    open_files_max: int = 16
    # A day is taken as complete this long after its end.
    grace_s: float = 3600.0
    # Bounds one step: some 40 s of work on one core.
    rows_max: int = 128_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """Files of one kind, shard and day that are to become one."""

    kind: Kind
    shard: int
    day: int
    files: tuple[ManifestFile, ...]


def next_step(
    connection: Connection, now_ns: int, policy: CompactionPolicy, skip: frozenset[tuple[str, int, int]] = frozenset()
) -> Step | None:
    """Return what to merge next, the oldest day first, or None; ``skip`` names (kind, shard, day) to leave alone."""
    for kind in (kind for kind in KINDS.values() if not kind.derived_from):
        for shard, day, n_files, _ in manifest.day_loads(connection, kind):
            if (kind.name, shard, day) in skip:
                continue
            day_end_ns = (day + 1) * NS_PER_DAY
            is_complete = now_ns >= day_end_ns + round(policy.grace_s * NS_PER_S)
            if not is_complete and n_files <= policy.open_files_max:
                continue
            files = [file for file in manifest.live(connection, kind, shard=shard) if file.day == day]
            chosen = choose(files, policy, is_complete=is_complete)
            if chosen:
                return Step(kind, shard, day, tuple(chosen))
    return None


def choose(files: Sequence[ManifestFile], policy: CompactionPolicy, *, is_complete: bool = True) -> list[ManifestFile]:
    """Return which files of a day to merge: the smaller ones, within the bound; [] when merging would gain nothing."""
    larger = _MUCH_LARGER if is_complete else _LARGER
    by_size = sorted(files, key=lambda file: (file.n_rows, file.file_no))
    total = sum(file.n_rows for file in by_size)
    while by_size and (total > policy.rows_max or by_size[-1].n_rows > larger * (total - by_size[-1].n_rows)):
        total -= by_size.pop().n_rows
    return by_size if len(by_size) > 1 else []


@dataclass(frozen=True, slots=True)
class Merged:
    """What a step made: the file that stands for its sources, and beside merged sums their block."""

    file: WrittenFile
    block: WrittenFile | None = None


def merge_files(store: ObjectStore, step: Step) -> Merged:
    """Write the step's files as one, durable but not yet visible. Raises DamagedRecord when one of them was changed."""
    for file in step.files:
        if store.digest(file.path) != (file.sha256, file.n_bytes):
            raise DamagedRecord(f"history file {file.path}", "its digest is not the manifest's")
    mark = hashlib.sha256("".join(file.sha256 for file in step.files).encode()).hexdigest()[:16]
    place = Place(step.kind, step.shard, step.day, -1, -1, mark)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(FileWriter(store, place))
        of_block = None
        if step.kind is ROLLUP_15MIN:
            of_block = stack.enter_context(FileWriter(store, blocks.place_beside(place)))
        cursors = [stack.enter_context(DeviceCursor(store, step.kind, file.path)) for file in step.files]
        for end in _range_ends(store, step.files):
            rows = _in_one(step.kind, [cursor.take(end) for cursor in cursors])
            writer.add(rows)
            if of_block is not None:
                of_block.add(blocks.of_sums(rows, step.day))
    return Merged(writer.written(), None if of_block is None else of_block.written())


def commit_merge(connection: Connection, step: Step, merged: Merged, now_ns: int) -> None:
    """Show the merged file instead of its sources. Raises Conflict when one of them was retired meanwhile."""
    file_no = manifest.add(connection, merged.file, now_ns)
    n_retired = manifest.retire(connection, [file.file_no for file in step.files], now_ns, replaced_by=file_no)
    if n_retired != len(step.files):
        raise Conflict("history files", date_of(step.day), "were merged or retired by someone else meanwhile")
    if merged.block is not None:
        block_no = manifest.add(connection, merged.block, now_ns)
        sources = manifest.numbers_of(connection, [blocks.path_beside(file.path) for file in step.files])
        manifest.retire(connection, sources, now_ns, replaced_by=block_no)
    evidence.log_merge(connection, step.files, merged.file, now_ns)


def _in_one(kind: Kind, parts: Sequence[pa.Table]) -> pa.Table:
    # The earlier file first: what is in the order of time by device needs no more than one sort.
    parts = sorted(
        (part for part in parts if part.num_rows), key=lambda part: int(part.column(kind.order[1])[0].as_py())
    )
    table = pa.concat_tables(parts)
    return rollup.merge(table) if kind is ROLLUP_15MIN else sorted_table(kind, table)


def _range_ends(store: ObjectStore, files: Sequence[ManifestFile]) -> Iterator[int]:
    """Yield ends of ranges of device numbers so that each range has about _RANGE_ROWS rows or one device."""
    # Numbers start at -1 (rows that speak of a gateway's leases), so counts are shifted by one.
    n_of_device: NDArray[np.int64] = np.zeros(0, np.int64)
    for file in files:
        for numbers in device_nos_of(store, file.path):
            n_of_device = _added(n_of_device, np.bincount(numbers + 1))
    through = np.cumsum(n_of_device)
    first = 0
    while first < n_of_device.size:
        done = int(through[first - 1]) if first else 0
        end = max(int(np.searchsorted(through, done + _RANGE_ROWS, side="right")), first + 1)
        yield end - 1
        first = end


def _added(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    long, short = (one, other) if one.size >= other.size else (other, one)
    total = long.copy()
    total[: short.size] += short
    return total
