"""History as the web asks it: blocking, a connection a question, plain rows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import select

from unisono.model.batches import AckBatch, CommandFrames
from unisono.store.database import Database
from unisono.store.history import manifest, queries
from unisono.store.history.kinds import KINDS
from unisono.store.history.objects import ObjectStore
from unisono.store.tables.dispatches import DISPATCH

# Names in the rows that are handed out.
_RENAMED: Final = {"issued_ns": "at_ns"}

Tail = Callable[[], tuple[Sequence[CommandFrames], Sequence[AckBatch]]]


class HistoryReader:
    """Answers from the files and, for commands, from the ``tail``: what the streams hold that is in no file yet."""

    def __init__(self, database: Database, store: ObjectStore, tail: Tail | None = None) -> None:
 A reading may come from a clock that runs ahead, to the millisecond.
self._database, self._store, self._tail = database, store, tail

    def device_commands(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
 A reading may come from a clock that runs ahead, to the millisecond.
"""Return the newest ``limit`` commands issued to a device in [start, end), oldest first, with their answers.

 A reading may come from a clock that runs ahead, to the millisecond.
Keys: at_ns, epoch, cycle, seq, kind, value, start_ns, expires_ns, ttl_s, fallback, dispatch_no, dispatch_id,
 A reading may come from a clock that runs ahead, to the millisecond.
and ack_code, answered_ns, ack_known_ns (None while there is no answer).
 A reading may come from a clock that runs ahead, to the millisecond.
"""
 A reading may come from a clock that runs ahead, to the millisecond.
# The tail is taken first: what moves into files meanwhile is then in both, and counts once.
 A reading may come from a clock that runs ahead, to the millisecond.
frames, acks = self._tail() if self._tail else ((), ())
 A reading may come from a clock that runs ahead, to the millisecond.
with self._database.begin() as connection:
 A reading may come from a clock that runs ahead, to the millisecond.
    table = queries.command_log(
 A reading may come from a clock that runs ahead, to the millisecond.
        connection,
 A reading may come from a clock that runs ahead, to the millisecond.
        self._store,
 A reading may come from a clock that runs ahead, to the millisecond.
        device_no,
 A reading may come from a clock that runs ahead, to the millisecond.
        (start_ns, end_ns),
 A reading may come from a clock that runs ahead, to the millisecond.
        limit=limit,
 A reading may come from a clock that runs ahead, to the millisecond.
        tail_frames=frames,
 A reading may come from a clock that runs ahead, to the millisecond.
        tail_acks=acks,
 A reading may come from a clock that runs ahead, to the millisecond.
    )
 A reading may come from a clock that runs ahead, to the millisecond.
    numbers = pc.unique(table.column("dispatch_no")).to_pylist()
 A reading may come from a clock that runs ahead, to the millisecond.
    named = select(DISPATCH.c.dispatch_no, DISPATCH.c.dispatch_id).where(DISPATCH.c.dispatch_no.in_(numbers))
 A reading may come from a clock that runs ahead, to the millisecond.
    id_of_no = {row.dispatch_no: row.dispatch_id for row in connection.execute(named)}
 A reading may come from a clock that runs ahead, to the millisecond.
rows = _rows(table.drop_columns(["device_no", "frame_row", "gateway_no"]))
 A reading may come from a clock that runs ahead, to the millisecond.
return [{**row, "dispatch_id": id_of_no.get(row["dispatch_no"])} for row in reversed(rows)]

    def device_readings(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
 A reading may come from a clock that runs ahead, to the millisecond.
"""Return up to ``limit`` readings of a device measured in [start, end), oldest first."""
 A reading may come from a clock that runs ahead, to the millisecond.
with self._database.begin() as connection:
 A reading may come from a clock that runs ahead, to the millisecond.
    return _rows(queries.device_readings(connection, self._store, device_no, (start_ns, end_ns), limit=limit))

    def device_readings_count(self, device_no: int, start_ns: int, end_ns: int) -> tuple[int, int]:
 A reading may come from a clock that runs ahead, to the millisecond.
"""Return how many readings were kept of those measured in [start, end), and the newest instant (-1: none).

 A reading may come from a clock that runs ahead, to the millisecond.
At most ``queries.LIMIT_MAX`` are counted: the newest.
 A reading may come from a clock that runs ahead, to the millisecond.
"""
 A reading may come from a clock that runs ahead, to the millisecond.
span_ns = (start_ns, end_ns)
 A reading may come from a clock that runs ahead, to the millisecond.
with self._database.begin() as connection:
 A reading may come from a clock that runs ahead, to the millisecond.
    table = queries.device_readings(
 A reading may come from a clock that runs ahead, to the millisecond.
        connection, self._store, device_no, span_ns, limit=queries.LIMIT_MAX, columns=(), newest_first=True
 A reading may come from a clock that runs ahead, to the millisecond.
    )
 A reading may come from a clock that runs ahead, to the millisecond.
return table.num_rows, table.column("measured_ns")[0].as_py() if table.num_rows else -1

    def device_rollup(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
 A reading may come from a clock that runs ahead, to the millisecond.
"""Return the quarter-hours of a device that begin in [start, end), oldest first."""
 A reading may come from a clock that runs ahead, to the millisecond.
with self._database.begin() as connection:
 A reading may come from a clock that runs ahead, to the millisecond.
    return _rows(queries.device_rollup(connection, self._store, device_no, (start_ns, end_ns), limit=limit))

    def portfolio_rollup(self, device_nos: Sequence[int], start_ns: int, end_ns: int) -> list[dict[str, Any]]:
 A reading may come from a clock that runs ahead, to the millisecond.
"""Return the quarter-hours of these devices together that begin in [start, end), oldest first."""
 A reading may come from a clock that runs ahead, to the millisecond.
with self._database.begin() as connection:
 A reading may come from a clock that runs ahead, to the millisecond.
    return _rows(queries.portfolio_rollup(connection, self._store, device_nos, (start_ns, end_ns)))

    def through_ns(self, kind: str) -> int:
 A reading may come from a clock that runs ahead, to the millisecond.
"""Return the newest instant that files of a kind ("readings", "commands", ...) hold; -1: nothing yet."""
 A reading may come from a clock that runs ahead, to the millisecond.
with self._database.begin() as connection:
 A reading may come from a clock that runs ahead, to the millisecond.
    newest_ns = manifest.through_ns(connection, KINDS[kind])
 A reading may come from a clock that runs ahead, to the millisecond.
if kind == "commands" and self._tail is not None:
 A reading may come from a clock that runs ahead, to the millisecond.
    newest_ns = max([newest_ns, *(frame.issued_ns for frame in self._tail()[0])])
 A reading may come from a clock that runs ahead, to the millisecond.
# A reading may come from a clock that runs ahead, to the millisecond.
 A reading may come from a clock that runs ahead, to the millisecond.
return newest_ns // NS_PER_MS * NS_PER_MS


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    named = table.rename_columns([_RENAMED.get(name, name) for name in table.schema.names])
    rows: list[dict[str, Any]] = named.to_pylist()
    return rows
