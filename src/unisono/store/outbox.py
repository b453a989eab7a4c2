"""The outbox: what is to be published is written in the transaction of the fact itself, and published afterwards.

One relay at a time reads it (two would publish twice, in another order). Receivers drop repetitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from unisono.model.dispatch import Request, encode_request
from unisono.model.registry import DeviceColumns, RegistryBatch, RegistryRecord, encode_registry
from unisono.store import layout
from unisono.store.tables.operations import OUTBOX

# A device's record takes some 1.3 kB; a message of 1.3 MB stays far below the bus's 8 MB.
RECORDS_PER_MESSAGE = 1000
# As columns some 0.3 kB, and 3 kB if all texts of one are as long as they may be: 6 MB at the most.
DEVICES_PER_MESSAGE = 2000


class OutboxRow(msgspec.Struct, frozen=True):
    """One message to publish; ``message_id`` lets the stream itself drop a repetition."""

    outbox_id: int
    subject: str
    payload: bytes
    created_ns: int

    @property
    def message_id(self) -> str:
        """An id that is the same at each attempt."""
        return f"outbox-{self.outbox_id}"


def put(connection: Connection, subject: str, payload: bytes, organisation_id: str, now_ns: int) -> None:
    """Add a message; it is published if and only if the transaction is committed, after all that were there before."""
    row = {"subject": subject, "payload": payload, "organisation_id": organisation_id, "created_ns": now_ns}
    connection.execute(insert(OUTBOX), row)


def put_records(
    connection: Connection, shard: int, records: Sequence[RegistryRecord], organisation_id: str, now_ns: int
) -> None:
    """Add registry records for one shard, in messages of at most RECORDS_PER_MESSAGE."""
    for first in range(0, len(records), RECORDS_PER_MESSAGE):
        batch = RegistryBatch(tuple(records[first : first + RECORDS_PER_MESSAGE]))
        put(connection, f"registry.{shard}", encode_registry(batch), organisation_id, now_ns)


def put_records_for_all(
    connection: Connection, records: Sequence[RegistryRecord], organisation_id: str, now_ns: int
) -> None:
    """Add registry records for every shard: a gateway may speak for devices of several."""
    for shard in range(layout.n_shards(connection)):
        put_records(connection, shard, records, organisation_id, now_ns)


def put_devices(
    connection: Connection,
    shards: Sequence[int],
    facts: Mapping[str, Sequence[Any]],
    organisation_id: str,
    now_ns: int,
) -> None:
    """Add the records of many devices as columns (lists of ``model.registry.FIELDS``), each for its shard."""
    for shard in sorted(set(shards)):
        mine = [at for at, of in enumerate(shards) if of == shard]
        for first in range(0, len(mine), DEVICES_PER_MESSAGE):
            part = mine[first : first + DEVICES_PER_MESSAGE]
            lists = {
                name: values if len(values) == 1 else [values[at] for at in part] for name, values in facts.items()
            }
            batch = RegistryBatch(devices=DeviceColumns.of_facts(len(part), lists))
            put(connection, f"registry.{shard}", encode_registry(batch), organisation_id, now_ns)


def put_request(
    connection: Connection, request: Request, organisation_id: str, now_ns: int, shard: int | None = None
) -> None:
    """Add a request for one shard, or for all of them."""
    payload = encode_request(request)
    for each in range(layout.n_shards(connection)) if shard is None else (shard,):
        put(connection, f"requests.{each}", payload, organisation_id, now_ns)


def waiting(connection: Connection, limit: int = 100) -> list[OutboxRow]:
    """Return up to ``limit`` messages that are not published yet, oldest first."""
    columns = (OUTBOX.c.outbox_id, OUTBOX.c.subject, OUTBOX.c.payload, OUTBOX.c.created_ns)
    unpublished = select(*columns).where(OUTBOX.c.published_at_ns.is_(None)).order_by(OUTBOX.c.outbox_id).limit(limit)
    return [OutboxRow(*row) for row in connection.execute(unpublished)]


def mark_published(connection: Connection, outbox_ids: Sequence[int], now_ns: int) -> None:
    """Note that these are on their stream."""
    done = update(OUTBOX).where(OUTBOX.c.outbox_id.in_(outbox_ids)).values(published_at_ns=now_ns)
    connection.execute(done)


def prune(connection: Connection, before_ns: int) -> int:
    """Delete what was published before that instant and return how many; the streams keep it."""
    return connection.execute(delete(OUTBOX).where(OUTBOX.c.published_at_ns < before_ns)).rowcount
