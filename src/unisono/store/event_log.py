"""The event log: one hash chain over everything decided and noticed, written by one writer at a time, never changed.

``hash = sha256(prev + canon)``; ``canon`` is JSON with sorted keys of all that an entry says, its number included. So
an entry that is changed, taken out or put in between breaks the chain at its place. What was cut off at the end can't
be seen from the rest: print the head (reports do) and hand it to ``verify``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Text, select, text

from unisono.base.errors import DamagedRecord
from unisono.model.totals import LogEntry
from unisono.store.bulk import copy_values
from unisono.store.tables.records import EVENT_LOG

# Any number, the same for all writers of one database.
_WRITER_LOCK: Final = 7_233_003
_GENESIS: Final = bytes(32)
_ENTRIES_PER_READ: Final = 5000
_SAID: Final = ("seq", *LogEntry.__struct_fields__)
_COLUMNS: Final = tuple(column.name for column in EVENT_LOG.c)
_C = EVENT_LOG.c


class Head(msgspec.Struct, frozen=True):
    """The newest entry: its number and its hash (hex). An empty log is at 0, with 64 zeros."""

    seq: int
    hash: str


def append(connection: Connection, entries: Sequence[LogEntry]) -> Head:
    """Add ``entries`` in their order and return the new head.

    Other writers wait until the transaction ends, so do it last and end it soon. Values that JSON does not have (NaN,
    infinities) become null.
    """
    if not entries:
        return head(connection)
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})
    before = head(connection)
    rows = list(_chained(entries, before))
    copy_values(connection, EVENT_LOG, _COLUMNS, rows)
    return Head(rows[-1][0], rows[-1][-1].hex())


def head(connection: Connection) -> Head:
    """Return the newest entry's number and hash."""
    row = connection.execute(select(_C.seq, _C.hash).order_by(_C.seq.desc()).limit(1)).first()
    return Head(row.seq, bytes(row.hash).hex()) if row else Head(0, _GENESIS.hex())


def verify(connection: Connection, expected: Head | None = None) -> Head:
    """Hash the whole chain again and return its head; about 40,000 entries a second.

    Raises DamagedRecord naming the first entry that does not fit, or, with ``expected`` (a head known from elsewhere),
    if that entry is not there any more or has another hash.
    """
    seq, prev = 0, _GENESIS
    expected_hash = _GENESIS.hex() if expected is not None and expected.seq == 0 else None
    # The body as its text: what a driver makes of it holds numbers to the nearest float only.
    shown = [_C.body.cast(Text).label("body") if column is _C.body else column for column in _C]
    in_order = select(*shown).order_by(_C.seq).limit(_ENTRIES_PER_READ)
    # From the very first row, whatever its number: an entry whose number became negative is no missing end.
    page = in_order
    while rows := connection.execute(page).all():
        page = in_order.where(_C.seq > rows[-1].seq)
        for row in rows:
            _check(row, seq + 1, prev)
            seq, prev = row.seq, bytes(row.hash)
            if expected is not None and seq == expected.seq:
                expected_hash = prev.hex()
    if expected is not None and expected_hash != expected.hash:
        why = "is not there any more" if expected_hash is None else "has another hash than the one known"
        raise DamagedRecord("event log", f"entry {expected.seq} {why}")
    return Head(seq, prev.hex())


def _chained(entries: Sequence[LogEntry], before: Head) -> Iterator[tuple[Any, ...]]:
    prev = bytes.fromhex(before.hash)
    for seq, entry in enumerate(entries, before.seq + 1):
        canon = _canon(seq, entry)
        digest = hashlib.sha256(prev + canon).digest()
        body = msgspec.json.encode(entry.body).decode()
        yield (
            seq,
            entry.at_ns,
            entry.kind,
            entry.organisation_id,
            entry.portfolio_id,
            entry.subject_id,
            body,
            canon,
            prev,
            digest,
        )
        prev = digest


def _canon(seq: int, entry: LogEntry) -> bytes:
    return msgspec.json.encode({"seq": seq, **msgspec.structs.asdict(entry)}, order="sorted")


def _check(row: Any, seq: int, prev: bytes) -> None:
    """Raise DamagedRecord unless the row is number ``seq``, follows ``prev``, and says what was hashed."""
    if row.seq != seq:
        raise DamagedRecord("event log", f"entry {seq} is missing: number {row.seq} stands in its place")
    canon = bytes(row.canon)
    if bytes(row.prev) != prev or bytes(row.hash) != hashlib.sha256(prev + canon).digest():
        raise DamagedRecord("event log", f"entry {seq} does not match its hash")
    try:
        said = json.loads(canon, parse_float=Decimal)
        shown = row._asdict() | {"body": json.loads(row.body, parse_float=Decimal)}
    except ValueError as wrong:
        raise DamagedRecord("event log", f"entry {seq} can't be read: {wrong}") from wrong
    for name in _SAID:
        if name not in said or not _is_same(shown[name], said[name]):
            raise DamagedRecord("event log", f"entry {seq}: {name} is not what was hashed")


def _is_same(shown: Any, said: Any) -> bool:
    """Return whether two values of JSON are equal: numbers to their last digit, and none of them true or false."""
    if isinstance(said, dict) and isinstance(shown, dict):
        return shown.keys() == said.keys() and all(_is_same(shown[key], said[key]) for key in said)
    if isinstance(said, list) and isinstance(shown, list):
        return len(shown) == len(said) and all(map(_is_same, shown, said))
    return isinstance(shown, bool) == isinstance(said, bool) and bool(shown == said)
