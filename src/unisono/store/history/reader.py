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
        self._database, self._store, self._tail = database, store, tail

    def device_commands(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
        """Return the newest ``limit`` commands issued to a device in [start, end), oldest first, with their answers.

        Keys: at_ns, epoch, cycle, seq, kind, value, start_ns, expires_ns, ttl_s, fallback, dispatch_no, dispatch_id,
        and ack_code, answered_ns, ack_known_ns (None while there is no answer).
        """
        # The tail is taken first: what moves into files meanwhile is then in both, and counts once.
        frames, acks = self._tail() if self._tail else ((), ())
        with self._database.begin() as connection:
            table = queries.command_log(
                connection,
                self._store,
                device_no,
                (start_ns, end_ns),
                limit=limit,
                tail_frames=frames,
                tail_acks=acks,
            )
            numbers = pc.unique(table.column("dispatch_no")).to_pylist()
            named = select(DISPATCH.c.dispatch_no, DISPATCH.c.dispatch_id).where(DISPATCH.c.dispatch_no.in_(numbers))
            id_of_no = {row.dispatch_no: row.dispatch_id for row in connection.execute(named)}
        rows = _rows(table.drop_columns(["device_no", "frame_row", "gateway_no"]))
        return [{**row, "dispatch_id": id_of_no.get(row["dispatch_no"])} for row in reversed(rows)]

    def device_readings(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
        """Return up to ``limit`` readings of a device measured in [start, end), oldest first."""
        with self._database.begin() as connection:
            return _rows(queries.device_readings(connection, self._store, device_no, (start_ns, end_ns), limit=limit))

    def device_readings_count(self, device_no: int, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Return how many readings were kept of those measured in [start, end), and the newest instant (-1: none).

        At most ``queries.LIMIT_MAX`` are counted: the newest.
        """
        span_ns = (start_ns, end_ns)
        with self._database.begin() as connection:
            table = queries.device_readings(
                connection, self._store, device_no, span_ns, limit=queries.LIMIT_MAX, columns=(), newest_first=True
            )
        return table.num_rows, table.column("measured_ns")[0].as_py() if table.num_rows else -1

    def device_rollup(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
        """Return the quarter-hours of a device that begin in [start, end), oldest first."""
        with self._database.begin() as connection:
            return _rows(queries.device_rollup(connection, self._store, device_no, (start_ns, end_ns), limit=limit))

    def portfolio_rollup(self, device_nos: Sequence[int], start_ns: int, end_ns: int) -> list[dict[str, Any]]:
        """Return the quarter-hours of these devices together that begin in [start, end), oldest first."""
        with self._database.begin() as connection:
            return _rows(queries.portfolio_rollup(connection, self._store, device_nos, (start_ns, end_ns)))

    def through_ns(self, kind: str) -> int:
        """Return the newest instant that files of a kind ("readings", "commands", ...) hold; -1: nothing yet."""
        with self._database.begin() as connection:
            newest_ns = manifest.through_ns(connection, KINDS[kind])
        if kind == "commands" and self._tail is not None:
            newest_ns = max([newest_ns, *(frame.issued_ns for frame in self._tail()[0])])
        return newest_ns


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    named = table.rename_columns([_RENAMED.get(name, name) for name in table.schema.names])
    rows: list[dict[str, Any]] = named.to_pylist()
    return rows
