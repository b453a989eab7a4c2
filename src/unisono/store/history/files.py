"""One Parquet file: written in device order, read back by device, columns matched by name."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unisono.base.errors import DamagedRecord
from unisono.store.history.kinds import Kind, date_of
from unisono.store.history.objects import HashingSink, ObjectStore
from unisono.store.history.order import order_of

# zstd-1: the higher levels gain 2-4 % for three times the work (docs/adr/0003).
_ZSTD_LEVEL: Final = 1


# Sorted numbers; an array where there are many.
DeviceNos = Sequence[int] | NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is durable but not yet visible: its manifest row makes it so."""

    kind: str
    shard: int
    day: int
    path: str
    n_rows: int
    n_bytes: int
    sha256: str
    seq_first: int
    seq_last: int
    at_first_ns: int
    at_last_ns: int
    schema_version: int


@dataclass(frozen=True, slots=True)
class Place:
    """What a file's name says: kind, shard, UTC day, the stream it came from and the sequences it covers."""

    kind: Kind
    shard: int
    day: int
    # -1: merged from several files, not one span of a stream.
    seq_first: int
    seq_last: int
    # What tells files of the same span apart: the stream's own age for appended files, a digest for merged ones.
    mark: str

    @property
    def path(self) -> str:
        """The file's path under the history root; other tools read the folders as a partitioned data set."""
        span = "merged" if self.seq_first < 0 else f"{self.seq_first:012d}-{self.seq_last:012d}"
        return f"{self.kind.name}/shard={self.shard}/day={date_of(self.day)}/{span}-{self.mark}.parquet"


def sorted_table(kind: Kind, table: pa.Table) -> pa.Table:
    """Return the rows in the kind's order; rows equal in it keep their order."""
    order = order_of([table.column(name).to_numpy() for name in kind.order])
    if order is None:
        return table
    return pa.table([_taken(column, order) for column in table.columns], schema=table.schema)


def _taken(column: pa.ChunkedArray, order: NDArray[np.int64]) -> pa.Array | pa.ChunkedArray:
    if column.null_count == len(column):
        return column
    if column.null_count == 0:
        # Half the time that pyarrow takes, measured.
        return pa.array(column.to_numpy()[order], column.type)
    # Rows are taken from one chunk ten times faster than from many.
    return column.combine_chunks().take(pa.array(order))


class FileWriter:
    """Writes one file in pieces that follow one another in the kind's order."""

    def __init__(self, store: ObjectStore, place: Place) -> None:
        self._place = place
        self._context = store.writing(place.path)
        self._n_rows = 0
        self._at_ns: list[int] = []
        self._sink: HashingSink
        self._parquet: pq.ParquetWriter

    def __enter__(self) -> Self:
        kind = self._place.kind
        self._sink = self._context.__enter__()
        facts = {"unisono.kind": kind.name, "unisono.schema_version": str(kind.version)}
        repeating = [name for name in kind.schema.names if name not in (*kind.delta_columns, *kind.block_columns)]
        self._parquet = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            _nullable(kind, kind.schema.names).with_metadata(facts),
            compression=kind.codec,
            compression_level=_ZSTD_LEVEL if kind.codec == "zstd" else None,
            use_dictionary=repeating,
            column_encoding=dict.fromkeys(kind.delta_columns, "DELTA_BINARY_PACKED") or None,
            write_statistics=[name for name in kind.schema.names if name not in kind.block_columns],
            data_page_version="2.0",
        )
        return self

    def add(self, table: pa.Table) -> None:
        """Append rows; they come after all rows added before."""
        if table.num_rows == 0:
            return
        self._parquet.write_table(of_schema(self._place.kind, table), row_group_size=self._place.kind.row_group_rows)
        self._n_rows += table.num_rows
        at_ns = table.column(self._place.kind.day_column).to_numpy()
        self._at_ns += [int(at_ns.min()), int(at_ns.max())]

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        if wrong is None:
            self._parquet.close()
        else:
            # It holds rows of a file that will not be: what it says of that adds nothing to what went wrong.
            with contextlib.suppress(pa.ArrowException, OSError):
                self._parquet.close()
        self._context.__exit__(kind, wrong, trace)

    def written(self) -> WrittenFile:
        """Return what was written; call it after the block."""
        place = self._place
        return WrittenFile(
            place.kind.name,
            place.shard,
            place.day,
            place.path,
            self._n_rows,
            self._sink.n_bytes,
            self._sink.sha256,
            place.seq_first,
            place.seq_last,
            min(self._at_ns, default=0),
            max(self._at_ns, default=0),
            place.kind.version,
        )


def write_file(store: ObjectStore, place: Place, table: pa.Table) -> WrittenFile:
    """Write one table, sorted here, as one file."""
    with FileWriter(store, place) as writer:
        writer.add(sorted_table(place.kind, table))
    return writer.written()


def read_devices(
    store: ObjectStore, kind: Kind, path: str, device_nos: DeviceNos, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return a file's rows of these devices (sorted numbers); only row groups that may hold one are read."""
    with _opened(store, path) as parquet:
        table = _read_groups(parquet, kind, _groups_with(parquet, device_nos), columns)
    return _of_devices(table, device_nos)


def device_groups(store: ObjectStore, kind: Kind, path: str, device_nos: DeviceNos) -> Iterator[pa.Table]:
    """Yield what ``read_devices`` returns row group by row group, so that each is still in the processor's cache."""
    with _opened(store, path) as parquet:
        for group in _groups_with(parquet, device_nos):
            yield _of_devices(_read_groups(parquet, kind, [group], None), device_nos)


class DeviceCursor:
    """Reads a file once from its first device to its last, in pieces; at most one row group is held. A context."""

    def __init__(self, store: ObjectStore, kind: Kind, path: str) -> None:
        self._kind, self._opened = kind, _opened(store, path)
        self._rest: list[pa.Table] = []
        self._next_group = 0

    def __enter__(self) -> Self:
        self._parquet = self._opened.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, wrong, trace)

    def take(self, end: int) -> pa.Table:
        """Return the rows with device_no < end that were not taken yet."""
        parts = [of_schema(self._kind, self._kind.schema.empty_table())]
        while table := self._rest.pop() if self._rest else self._read():
            at = int(np.searchsorted(table.column("device_no").to_numpy(), end))
            parts.append(table.slice(0, at))
            if at < table.num_rows:
                self._rest = [table.slice(at)]
                break
        return pa.concat_tables(parts)

    def _read(self) -> pa.Table | None:
        if self._next_group == self._parquet.num_row_groups:
            return None
        self._next_group += 1
        return _read_groups(self._parquet, self._kind, [self._next_group - 1], None)


def read_all(store: ObjectStore, kind: Kind, path: str) -> pa.Table:
    """Return all rows of a file, in its order."""
    with _opened(store, path) as parquet:
        return _read_groups(parquet, kind, list(range(parquet.num_row_groups)), None)


def device_nos_of(store: ObjectStore, path: str) -> Iterator[np.ndarray[Any, np.dtype[np.int32]]]:
    """Yield the device number of every row, group by group."""
    with _opened(store, path) as parquet:
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group, columns=["device_no"]).column(0).to_numpy()


def of_schema(kind: Kind, table: pa.Table, names: Sequence[str] | None = None) -> pa.Table:
    """Return the kind's columns by name: those that the table does not have are missing, others are left out."""
    schema = _nullable(kind, names or kind.schema.names)
    known = set(table.schema.names)
    columns = [
        table.column(field.name).cast(field.type) if field.name in known else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _nullable(kind: Kind, names: Sequence[str]) -> pa.Schema:
    # A column added later may be declared as never missing; rows from before it have none all the same.
    return pa.schema([kind.schema.field(name).with_nullable(True) for name in names])


class _Opened:
    """A Parquet file being read; what it raises is translated."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        self._store, self._path = store, path

    def __enter__(self) -> pq.ParquetFile:
        self._source = self._store.open(self._path)
        try:
            self._parquet = pq.ParquetFile(self._source)
        except pa.ArrowException as wrong:
            self._source.close()
            raise DamagedRecord(f"history file {self._path}", str(wrong)) from wrong
        return self._parquet

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parquet.close()
        self._source.close()
        if isinstance(wrong, (pa.ArrowException, OSError)):
            raise DamagedRecord(f"history file {self._path}", str(wrong)) from wrong


def _opened(store: ObjectStore, path: str) -> _Opened:
    return _Opened(store, path)


def _groups_with(parquet: pq.ParquetFile, device_nos: DeviceNos) -> list[int]:
    """Return the row groups that may hold one of the devices (sorted numbers)."""
    n_groups, metadata = parquet.num_row_groups, parquet.metadata
    if len(device_nos) == 0:
        return []
    column = parquet.schema_arrow.get_field_index("device_no")

    def bounds(group: int) -> tuple[int, int]:
        statistics = metadata.row_group(group).column(column).statistics
        assert statistics is not None, "every file of ours says which devices a group holds"
        return statistics.min, statistics.max

    # Groups follow one another in device order: the first that may matter is found by halving, a large file has 700.
    group = bisect.bisect_left(range(n_groups), device_nos[0], key=lambda at: bounds(at)[1])
    found = []
    while group < n_groups:
        low, high = bounds(group)
        if low > device_nos[-1]:
            break
        if bisect.bisect_left(device_nos, low) < bisect.bisect_right(device_nos, high):
            found.append(group)
        group += 1
    return found


def _of_devices(table: pa.Table, device_nos: DeviceNos) -> pa.Table:
    present = table.column("device_no").to_numpy()
    if len(device_nos) == 0:
        return table.slice(0, 0)
    if len(device_nos) == 1:
        # The file is in device order: one device is one slice.
        first, end = np.searchsorted(present, [device_nos[0], device_nos[0] + 1])
        return table.slice(int(first), int(end - first))
    wanted = np.asarray(device_nos, np.int32)
    is_member = wanted[np.minimum(np.searchsorted(wanted, present), wanted.size - 1)] == present
    return table if is_member.all() else table.filter(pa.array(is_member))


def _read_groups(parquet: pq.ParquetFile, kind: Kind, groups: list[int], columns: Sequence[str] | None) -> pa.Table:
    names = [name for name in (columns or kind.schema.names) if name in parquet.schema_arrow.names]
    return of_schema(kind, parquet.read_row_groups(groups, columns=names, use_threads=False), columns)
