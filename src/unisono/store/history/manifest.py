"""The rows of PostgreSQL that say which files history is made of: a file is there when its row is, and not before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from unisono.store.history.files import WrittenFile
from unisono.store.history.kinds import Kind, date_of, day_of, day_of_date
from unisono.store.tables.records import HISTORY_FILE

_FILE: Final = HISTORY_FILE.c


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file that queries read."""

    file_no: int
    kind: str
    shard: int
    # UTC day, counted from 1970-01-01.
    day: int
    path: str
    n_rows: int
    n_bytes: int
    sha256: str
    # -1: not from one span of a stream.
    seq_first: int
    seq_last: int


_COLUMNS: Final = (
    _FILE.file_no,
    _FILE.kind,
    _FILE.shard,
    _FILE.day,
    _FILE.path,
    _FILE.n_rows,
    _FILE.n_bytes,
    _FILE.sha256,
    func.coalesce(_FILE.stream_seq_first, -1),
    func.coalesce(_FILE.stream_seq_last, -1),
)


def add(connection: Connection, file: WrittenFile, now_ns: int) -> int:
    """Make a written file visible with this transaction; return its number."""
    statement = insert(HISTORY_FILE).values(
        kind=file.kind,
        shard=file.shard,
        day=date_of(file.day),
        path=file.path,
        n_rows=file.n_rows,
        n_bytes=file.n_bytes,
        sha256=file.sha256,
        stream_seq_first=file.seq_first if file.seq_first >= 0 else None,
        stream_seq_last=file.seq_last if file.seq_last >= 0 else None,
        at_first_ns=file.at_first_ns,
        at_last_ns=file.at_last_ns,
        schema_version=file.schema_version,
        created_ns=now_ns,
    )
    return int(connection.execute(statement.returning(_FILE.file_no)).scalar_one())


def retire(connection: Connection, file_nos: Sequence[int], now_ns: int, replaced_by: int | None = None) -> int:
    """Let no query read these files from now on; return how many of them were still read."""
    statement = (
        update(HISTORY_FILE)
        .where(_FILE.file_no.in_(file_nos), _FILE.retired_at_ns.is_(None))
        .values(retired_at_ns=now_ns, replaced_by=replaced_by)
    )
    return connection.execute(statement).rowcount


def live(
    connection: Connection,
    kind: Kind,
    *,
    shard: int | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> list[ManifestFile]:
    """Return the files of a kind whose day touches [start_ns, end_ns), in the order of days and creation."""
    where: list[ColumnElement[bool]] = [_FILE.kind == kind.name, _FILE.retired_at_ns.is_(None)]
    if shard is not None:
        where.append(_FILE.shard == shard)
    if start_ns is not None:
        where += [_FILE.day >= date_of(day_of(start_ns)), _FILE.at_last_ns >= start_ns]
    if end_ns is not None:
        where += [_FILE.day <= date_of(day_of(end_ns - 1)), _FILE.at_first_ns < end_ns]
    rows = connection.execute(select(*_COLUMNS).where(*where).order_by(_FILE.day, _FILE.file_no))
    return [_file(row) for row in rows]


def all_live(connection: Connection) -> list[ManifestFile]:
    """Return every file that queries read, in the order of creation."""
    rows = connection.execute(select(*_COLUMNS).where(_FILE.retired_at_ns.is_(None)).order_by(_FILE.file_no))
    return [_file(row) for row in rows]


def older_than(connection: Connection, kind: Kind, before_day: int) -> list[ManifestFile]:
    """Return a kind's live files of days before ``before_day``."""
    where = (_FILE.kind == kind.name, _FILE.retired_at_ns.is_(None), _FILE.day < date_of(before_day))
    return [_file(row) for row in connection.execute(select(*_COLUMNS).where(*where).order_by(_FILE.file_no))]


def retired_before(connection: Connection, before_ns: int, limit: int) -> list[ManifestFile]:
    """Return files that no query has read since ``before_ns``, the oldest first."""
    statement = select(*_COLUMNS).where(_FILE.retired_at_ns < before_ns).order_by(_FILE.file_no).limit(limit)
    return [_file(row) for row in connection.execute(statement)]


def forget(connection: Connection, file_nos: Sequence[int]) -> None:
    """Drop the rows of retired files whose bytes are gone."""
    connection.execute(update(HISTORY_FILE).where(_FILE.replaced_by.in_(file_nos)).values(replaced_by=None))
    connection.execute(delete(HISTORY_FILE).where(_FILE.file_no.in_(file_nos), _FILE.retired_at_ns.is_not(None)))


def numbers_of(connection: Connection, paths: Sequence[str]) -> list[int]:
    """Return the numbers of the live files at these paths."""
    found = connection.execute(select(_FILE.file_no).where(_FILE.path.in_(paths), _FILE.retired_at_ns.is_(None)))
    return list(found.scalars())


def known_paths(connection: Connection) -> set[str]:
    """Return the path of every row, retired ones included."""
    return set(connection.execute(select(_FILE.path)).scalars())


def through_ns(connection: Connection, kind: Kind) -> int:
    """Return the newest instant that a live file of the kind holds, by its day's column; -1 when there is none."""
    newest = select(func.max(_FILE.at_last_ns)).where(_FILE.kind == kind.name, _FILE.retired_at_ns.is_(None))
    found = connection.execute(newest).scalar_one()
    return -1 if found is None else int(found)


def day_loads(connection: Connection, kind: Kind) -> list[tuple[int, int, int, int]]:
    """Return (shard, day, number of live files, their rows) for each day that has more than one file."""
    statement = (
        select(_FILE.shard, _FILE.day, func.count(), func.sum(_FILE.n_rows))
        .where(_FILE.kind == kind.name, _FILE.retired_at_ns.is_(None))
        .group_by(_FILE.shard, _FILE.day)
        .having(func.count() > 1)
        .order_by(_FILE.day, _FILE.shard)
    )
    return [(row[0], day_of_date(row[1]), int(row[2]), int(row[3])) for row in connection.execute(statement)]


def _file(row: Sequence[Any]) -> ManifestFile:
    file_no, kind, shard, day, *rest = row
    return ManifestFile(file_no, kind, shard, day_of_date(day), *rest)
