"""The way in: a span of a stream becomes files; one transaction makes them, their position and their proof count.

    files = write_segment(store, segment)      # durable, not yet visible
    commit_segment(connection, segment, files) # visible, or nothing of it
    ... only then acknowledge the stream

Whatever dies in between, the span is read again from the position and written again; what was left over is swept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from sqlalchemy import Connection, func, select

from unisono.base.errors import Conflict
from unisono.model.batches import AckBatch, CommandFrames, ReadingBatch
from unisono.store import positions
from unisono.store.history import evidence, intake, manifest, rollup
from unisono.store.history.files import Place, WrittenFile, sorted_table, write_file
from unisono.store.history.kinds import ACKS, COMMANDS, READINGS, READINGS_ASTRAY, ROLLUP_15MIN, Kind
from unisono.store.history.objects import ObjectStore

Batch = ReadingBatch | AckBatch | CommandFrames


@dataclass(frozen=True, slots=True)
class Segment:
    """A whole span of one stream: everything from ``seq_first`` to ``seq_last``, in order, with its shards."""

    consumer: str
    # Tells files of this stream from those of an earlier one of the same name whose sequences began at 1 too.
    stream_mark: str
    seq_first: int
    seq_last: int
    batches: tuple[tuple[int, Batch], ...]


def write_segment(store: ObjectStore, segment: Segment) -> list[WrittenFile]:
    """Write the segment's rows to files by kind, shard and day. The same segment makes the same files again."""
    written = []
    for shard in sorted({shard for shard, _ in segment.batches}):
        batches = [batch for of, batch in segment.batches if of == shard and len(batch)]
        for kind, table in _tables(batches):
            for day, rows in intake.by_day(kind, table):
                place = Place(kind, shard, day, segment.seq_first, segment.seq_last, segment.stream_mark)
                written.append(write_file(store, place, rows))
    return written


def commit_segment(connection: Connection, segment: Segment, files: Sequence[WrittenFile], now_ns: int) -> None:
    """Make the files visible and move the stream's position, in the caller's transaction.

    Raises Conflict when the position is not where the segment begins: somebody else wrote this span.
    """
    # Two historians at once: the second waits here until the first has moved the position.
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(segment.consumer, 0))))
    before = positions.get(connection, segment.consumer)
    if before >= segment.seq_first:
        raise Conflict(
            "stream position", segment.consumer, f"is at {before}, the segment begins at {segment.seq_first}"
        )
    positions.advance(connection, segment.consumer, segment.seq_last)
    for file in files:
        manifest.add(connection, file, now_ns)
    evidence.log_files(connection, files, now_ns)


def _tables(batches: Sequence[Batch]) -> Iterator[tuple[Kind, pa.Table]]:
    readings = [batch for batch in batches if isinstance(batch, ReadingBatch)]
    if readings:
        near, astray = intake.split_astray(intake.readings_table(readings))
        if near.num_rows:
            # Sorted once, for the file and for its sums.
            near = sorted_table(READINGS, near)
            yield READINGS, near
            sums = rollup.sums_of_readings(near)
            if sums.num_rows:
                yield ROLLUP_15MIN, sums
        if astray.num_rows:
            yield READINGS_ASTRAY, astray
    acks = [batch for batch in batches if isinstance(batch, AckBatch)]
    if acks:
        yield ACKS, intake.acks_table(acks)
    frames = [batch for batch in batches if isinstance(batch, CommandFrames)]
    if frames:
        yield COMMANDS, intake.commands_table(frames)
