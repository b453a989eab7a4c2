"""Questions to history: a device's readings and commands, a portfolio's quarter-hours; bounded by range and limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection

from unisono.base.errors import InvalidInput, TooMany
from unisono.model.batches import AckBatch, CommandFrames
from unisono.store.history import intake, manifest, rollup
from unisono.store.history.files import read_devices
from unisono.store.history.kinds import ACKS, COMMANDS, NS_PER_DAY, READINGS, ROLLUP_15MIN, ROLLUP_DAY, Kind
from unisono.store.history.manifest import ManifestFile
from unisono.store.history.objects import ObjectStore
from unisono.store.history.portfolio import PORTFOLIO_COLUMNS, portfolio_day

# Rows a question may ask for at once; the next page starts where this one ended.
LIMIT_MAX: Final = 100_000
# Quarter-hours of a portfolio at once: a year.
_INTERVALS_MAX: Final = 35_136
# A device answers within this time of its command, or its gateway has forgotten it.
_ANSWER_NS: Final = 3_600_000_000_000


def device_readings(
    connection: Connection,
    store: ObjectStore,
    device_no: int,
    span_ns: tuple[int, int],
    *,
    limit: int = 10_000,
    columns: Sequence[str] | None = None,
    newest_first: bool = False,
) -> pa.Table:
    """Return the readings of one device measured in [start, end), by measured instant; at most ``limit`` of them."""
    _check(span_ns, limit)
    names = None if columns is None else list(dict.fromkeys(["device_no", "measured_ns", *columns]))
    parts: list[pa.Table] = []
    n_rows = 0
    for files in _days(manifest.live(connection, READINGS, start_ns=span_ns[0], end_ns=span_ns[1]), newest_first):
        day = pa.concat_tables([read_devices(store, READINGS, file.path, [device_no], names) for file in files])
        day = _within(day, "measured_ns", span_ns)
        parts.append(day.sort_by([("measured_ns", "descending" if newest_first else "ascending")]))
        n_rows += day.num_rows
        if n_rows >= limit:
            break
    return _joined(READINGS, parts, names).slice(0, limit)


def device_rollup(
    connection: Connection, store: ObjectStore, device_no: int, span_ns: tuple[int, int], *, limit: int = 10_000
) -> pa.Table:
    """Return the quarter-hours of one device that begin in [start, end), as ``rollup.finish`` says."""
    _check(span_ns, limit)
    parts = []
    n_rows = 0
    for files in _days(manifest.live(connection, ROLLUP_15MIN, start_ns=span_ns[0], end_ns=span_ns[1])):
        day = _finished_day(store, files, device_no, span_ns)
        parts.append(day)
        n_rows += day.num_rows
        if n_rows >= limit:
            break
    return pa.concat_tables([rollup.FINISHED.empty_table(), *parts]).slice(0, limit)


def portfolio_rollup(
    connection: Connection, store: ObjectStore, device_nos: Sequence[int], span_ns: tuple[int, int]
) -> pa.Table:
    """Return a row for each quarter-hour of [start, end) in which any of the devices has readings.

    ``power_mean_w`` and ``energy_wh`` sum over the ``n_devices`` that have readings; ``coverage_frac`` is their mean
    coverage, a device without readings counting as 0. Raises TooMany for more than a year.
    """
    _check(span_ns, 1)
    if span_ns[1] - span_ns[0] > _INTERVALS_MAX * rollup.QUARTER_NS:
        raise TooMany("quarter-hours of a portfolio at once", _INTERVALS_MAX)
    members = np.unique(np.asarray(device_nos, np.int32))
    if members.size == 0:
        return PORTFOLIO_COLUMNS.empty_table()
    found = manifest.live(connection, ROLLUP_15MIN, start_ns=span_ns[0], end_ns=span_ns[1])
    # A block is of a whole day, and stands at its beginning.
    made = manifest.live(connection, ROLLUP_DAY, start_ns=span_ns[0] - span_ns[0] % NS_PER_DAY, end_ns=span_ns[1])
    block_paths = frozenset(file.path for file in made)
    days = [portfolio_day(store, files, block_paths, members, span_ns) for files in _days(found)]
    return pa.concat_tables([PORTFOLIO_COLUMNS.empty_table(), *days])


def command_log(
    connection: Connection,
    store: ObjectStore,
    device_no: int,
    span_ns: tuple[int, int],
    *,
    limit: int = 1000,
    tail_frames: Sequence[CommandFrames] = (),
    tail_acks: Sequence[AckBatch] = (),
) -> pa.Table:
    """Return the commands issued to one device in [start, end), the newest first, each with its first answer.

    ``ack_code``, ``answered_ns`` and ``ack_known_ns`` are null while there is none. The tails are what the streams hold
    beyond history's position; what is in both counts once.
    """
    _check(span_ns, limit)
    parts = [_device_rows(intake.commands_table(tail_frames), device_no, span_ns, "issued_ns")] if tail_frames else []
    n_rows = parts[0].num_rows if parts else 0
    for files in _days(manifest.live(connection, COMMANDS, start_ns=span_ns[0], end_ns=span_ns[1]), newest_first=True):
        for file in files:
            day = read_devices(store, COMMANDS, file.path, [device_no])
            parts.append(_within(day, "issued_ns", span_ns))
            n_rows += parts[-1].num_rows
        if n_rows >= limit + (parts[0].num_rows if tail_frames else 0):
            break
    commands = _joined(COMMANDS, parts, None).sort_by([("issued_ns", "descending"), ("seq", "descending")])
    commands = _once(commands, ("epoch", "cycle", "frame_row")).slice(0, limit)
    return _with_answers(connection, store, device_no, commands, tail_acks)


def _with_answers(
    connection: Connection, store: ObjectStore, device_no: int, commands: pa.Table, tail_acks: Sequence[AckBatch]
) -> pa.Table:
    codes: list[int | None] = [None] * commands.num_rows
    answered: list[int | None] = [None] * commands.num_rows
    known: list[int | None] = [None] * commands.num_rows
    if commands.num_rows:
        issued = commands.column("issued_ns")
        span_ns = (pc.min(issued).as_py(), pc.max(issued).as_py() + _ANSWER_NS)
        files = manifest.live(connection, ACKS, start_ns=span_ns[0], end_ns=span_ns[1])
        parts = [read_devices(store, ACKS, file.path, [device_no]) for file in files]
        if tail_acks:
            parts.append(_device_rows(intake.acks_table(tail_acks), device_no, span_ns, "known_ns"))
        first: dict[tuple[int, int], tuple[Any, Any, Any]] = {}
        acks = _joined(ACKS, parts, None).sort_by("known_ns")
        columns = [acks.column(name).to_pylist() for name in ("epoch", "seq", "code", "answered_ns", "known_ns")]
        for epoch, seq, code, answered_ns, known_ns in zip(*columns, strict=True):
            first.setdefault((epoch, seq), (code, answered_ns, known_ns))
        keys = zip(commands.column("epoch").to_pylist(), commands.column("seq").to_pylist(), strict=True)
        for row, key in enumerate(keys):
            codes[row], answered[row], known[row] = first.get(key, (None, None, None))
    for name in ("value", "ttl_s"):
        column = commands.column(name)
        or_null = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        commands = commands.set_column(commands.schema.get_field_index(name), name, or_null)
    commands = commands.append_column("ack_code", pa.array(codes, pa.uint8()))
    commands = commands.append_column("answered_ns", pa.array(answered, pa.int64()))
    return commands.append_column("ack_known_ns", pa.array(known, pa.int64()))


def _finished_day(
    store: ObjectStore, files: Sequence[ManifestFile], device_no: int, span_ns: tuple[int, int]
) -> pa.Table:
    sums = pa.concat_tables([read_devices(store, ROLLUP_15MIN, file.path, [device_no]) for file in files])
    return rollup.finish(_within(sums, "interval_start_ns", span_ns)).sort_by("interval_start_ns")


def _days(files: Sequence[ManifestFile], newest_first: bool = False) -> Iterator[list[ManifestFile]]:
    ordered = sorted(files, key=lambda file: file.day, reverse=newest_first)
    for _, of_day in groupby(ordered, key=lambda file: file.day):
        yield list(of_day)


def _device_rows(table: pa.Table, device_no: int, span_ns: tuple[int, int], column: str) -> pa.Table:
    return _within(table.filter(pc.equal(table.column("device_no"), device_no)), column, span_ns)


def _within(table: pa.Table, column: str, span_ns: tuple[int, int]) -> pa.Table:
    at_ns = table.column(column)
    return table.filter(pc.and_(pc.greater_equal(at_ns, span_ns[0]), pc.less(at_ns, span_ns[1])))


def _once(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for row, key in enumerate(zip(*(table.column(name).to_pylist() for name in names), strict=True)):
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return table.take(pa.array(kept, pa.int64()))


def _joined(kind: Kind, parts: Sequence[pa.Table], names: Sequence[str] | None) -> pa.Table:
    fields = [kind.schema.field(name).with_nullable(True) for name in names or kind.schema.names]
    schema = pa.schema(fields)
    return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])


def _check(span_ns: tuple[int, int], limit: int) -> None:
    if span_ns[0] >= span_ns[1]:
        raise InvalidInput("end_ns", span_ns[1], f"must come after start_ns = {span_ns[0]}")
    if span_ns[1] - span_ns[0] > 100 * 366 * NS_PER_DAY:
        raise InvalidInput("end_ns", span_ns[1], "must lie within a hundred years of start_ns")
    if not 0 < limit <= LIMIT_MAX:
        raise InvalidInput("limit", limit, f"must lie between 1 and {LIMIT_MAX}")
