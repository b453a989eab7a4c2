"""One Parquet file: written in device order, read back by device, columns matched by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unisono.base.errors import DamagedRecord
from unisono.store.history.kinds import Kind, date_of
from unisono.store.history.objects import HashingSink, ObjectStore
from unisono.store.history.order import order_of

# One device's day lies in one or two row groups of this size, and a group still compresses well
# (10 k rows a group cost 12.6 instead of 7.9 B a row).
ROW_GROUP_ROWS: Final = 144_000
# zstd-1: the higher levels gain 2-4 % for three times the work (docs/adr/0003).
_ZSTD_LEVEL: Final = 1


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
    # Rows are taken from one chunk ten times faster than from many.
    return table if order is None else table.combine_chunks().take(pa.array(order))


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
        plain = [name for name in kind.schema.names if name not in kind.delta_columns]
        self._parquet = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            _nullable(kind, kind.schema.names).with_metadata(facts),
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=plain,
            column_encoding=dict.fromkeys(kind.delta_columns, "DELTA_BINARY_PACKED") or None,
            write_statistics=True,
            data_page_version="2.0",
        )
        return self

    def add(self, table: pa.Table) -> None:
        """Append rows; they come after all rows added before."""
        self._parquet.write_table(of_schema(self._place.kind, table), row_group_size=ROW_GROUP_ROWS)
        self._n_rows += table.num_rows
        if table.num_rows:
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
    store: ObjectStore, kind: Kind, path: str, device_nos: Sequence[int], columns: Sequence[str] | None = None
) -> pa.Table:
    """Return a file's rows of these devices (sorted numbers); only row groups that may hold one are read."""
    with _opened(store, path) as parquet:
        groups = _groups_between(parquet, device_nos[0], device_nos[-1]) if device_nos else []
        table = _read_groups(parquet, kind, groups, columns)
    wanted = pa.array(device_nos, pa.int32())
    return table.filter(pc.is_in(table.column("device_no"), wanted))


def read_device_range(store: ObjectStore, kind: Kind, path: str, first: int, end: int) -> pa.Table:
    """Return a file's rows with first <= device_no < end."""
    with _opened(store, path) as parquet:
        table = _read_groups(parquet, kind, _groups_between(parquet, first, end - 1), None)
    # The file is in device order: the range is one slice.
    at = np.searchsorted(table.column("device_no").to_numpy(), [first, end])
    return table.slice(int(at[0]), int(at[1] - at[0]))


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


def _groups_between(parquet: pq.ParquetFile, first: int, last: int) -> list[int]:
    column = parquet.schema_arrow.get_field_index("device_no")
    found = []
    for group in range(parquet.num_row_groups):
        statistics = parquet.metadata.row_group(group).column(column).statistics
        known = statistics is not None and statistics.has_min_max
        if not known or (statistics.min <= last and statistics.max >= first):
            found.append(group)
    return found


def _read_groups(parquet: pq.ParquetFile, kind: Kind, groups: list[int], columns: Sequence[str] | None) -> pa.Table:
    names = [name for name in (columns or kind.schema.names) if name in parquet.schema_arrow.names]
    return of_schema(kind, parquet.read_row_groups(groups, columns=names, use_threads=False), columns)
