"""Batches from the streams become tables of history's kinds, cut by UTC day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unisono.model.batches import AckBatch, CommandFrames, ReadingBatch
from unisono.store.history.kinds import ACKS, COMMANDS, NS_PER_DAY, READINGS, Kind

# A reading measured longer than this before, or after, the instant we knew it is kept astray: meters deliver weeks
# later, no clock runs a day ahead.
PAST_DAYS: Final = 40
FUTURE_DAYS: Final = 1

_SENTINEL_COLUMNS: Final = frozenset({"interval_start_ns", "answered_ns"})


def readings_table(batches: Sequence[ReadingBatch]) -> pa.Table:
    """Return the rows of some batches, in their order."""
    columns = _stacked(batches, ReadingBatch.DTYPES)
    columns["known_ns"] = _repeated(batches, "known_ns", np.int64)
    columns["gateway_no"] = np.concatenate([batch.gateway_of_row() for batch in batches])
    return _table(READINGS, columns)


def acks_table(batches: Sequence[AckBatch]) -> pa.Table:
    """Return the rows of some batches, in their order."""
    columns = _stacked(batches, AckBatch.DTYPES)
    columns["known_ns"] = _repeated(batches, "known_ns", np.int64)
    columns["gateway_no"] = np.concatenate([batch.gateway_of_row() for batch in batches])
    return _table(ACKS, columns)


def commands_table(frames: Sequence[CommandFrames]) -> pa.Table:
    """Return the rows of some frames, in their order."""
    columns = _stacked(frames, CommandFrames.DTYPES)
    for name in ("issued_ns", "epoch", "cycle"):
        columns[name] = _repeated(frames, name, np.int64)
    rows = [np.arange(frame.first_row, frame.first_row + len(frame), dtype=np.int32) for frame in frames]
    columns["frame_row"] = np.concatenate(rows)
    return _table(COMMANDS, columns)


def frame_of_rows(shard: int, rows: pa.Table) -> CommandFrames:
    """Return the frame that its rows came from, equal to it in every byte; all rows are of one message of a cycle."""
    ordered = rows.sort_by("frame_row")
    scalars: dict[str, Any] = {"shard": shard, "first_row": ordered.column("frame_row")[0].as_py()}
    for name in ("epoch", "cycle", "issued_ns"):
        scalars[name] = ordered.column(name)[0].as_py()
    columns = {name: ordered.column(name).to_numpy() for name in CommandFrames.DTYPES}
    return CommandFrames.of_columns(scalars, columns)


def split_astray(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return (believable, astray) readings, told apart by how far the measured instant is from the known one."""
    age_ns = table.column("known_ns").to_numpy() - table.column("measured_ns").to_numpy()
    is_near = (age_ns <= PAST_DAYS * NS_PER_DAY) & (age_ns >= -FUTURE_DAYS * NS_PER_DAY)
    if is_near.all():
        return table, table.slice(0, 0)
    mask = pa.array(is_near)
    return table.filter(mask), table.filter(pc.invert(mask))


def by_day(kind: Kind, table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Yield (UTC day, rows of that day), days ascending."""
    days = table.column(kind.day_column).to_numpy() // NS_PER_DAY
    if days[0] == days[-1] and bool((days == days[0]).all()):
        yield int(days[0]), table
        return
    for day in np.unique(days):
        yield int(day), table.filter(pa.array(days == day))


def _stacked(batches: Sequence[Any], dtypes: dict[str, str]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in dtypes}


def _repeated(batches: Sequence[Any], name: str, dtype: type[np.generic]) -> NDArray[Any]:
    values = np.fromiter((getattr(batch, name) for batch in batches), dtype, len(batches))
    return np.repeat(values, [len(batch) for batch in batches])


def _table(kind: Kind, columns: dict[str, NDArray[Any]]) -> pa.Table:
    arrays = []
    for field in kind.schema:
        values = columns[field.name]
        if field.name in _SENTINEL_COLUMNS:
            arrays.append(pa.array(values, field.type, mask=values < 0))
        else:
            # NaN is missing, and missing is null; but a frame's bytes were hashed, NaN and all.
            arrays.append(pa.array(values, field.type, from_pandas=kind is not COMMANDS))
    return pa.table(arrays, schema=kind.schema)
