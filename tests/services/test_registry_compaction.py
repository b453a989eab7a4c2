"""The registry's stream is shortened to the present, against the real server, and nobody misses anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.links.edge import bus_of, nats_engine
from tests.store.fleets import NOW_NS, batteries

from unisono.base.clock import MovableClock
from unisono.bus.connection import Bus
from unisono.engines.postgres import PostgresEngine
from unisono.fleet.table import FleetTable
from unisono.links.identity import Identity
from unisono.model.registry import DeviceRecord, RegistryBatch, decode_registry
from unisono.model.technology import Lifecycle
from unisono.services.outbox_relay import Relay
from unisono.services.registry_compaction import STREAM, Compaction
from unisono.store import devices, organisations, portfolios
from unisono.store.database import Database, open_database
from unisono.store.enrolment import enrol
from unisono.store.migrate import migrate

N_DEVICES = 5_000
CLOCK = MovableClock(NOW_NS)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with a fleet in it, some of which has changed since it was enrolled."""
    engine = PostgresEngine(tmp_path_factory.mktemp("compaction"))
    url = engine.start()
    try:
        migrate(url)
        with open_database(url) as opened:
            with opened.begin() as connection:
                owner = organisations.add(connection, "Test", NOW_NS).organisation_id
                made = enrol(connection, owner, batteries(N_DEVICES), NOW_NS)
                portfolios.create(connection, owner, "some", NOW_NS, device_nos=[one.device_no for one in made[:7]])
                devices.set_lifecycle(connection, owner, [made[3].device_id], Lifecycle.SUSPENDED, NOW_NS + 1)
            yield opened
    finally:
        engine.stop()


async def told(bus: Bus) -> list[RegistryBatch]:
    """Return what who starts now reads."""
    reader = bus.reader(STREAM, "registry.*", 1)
    last, batches, seq = await bus.last_seq(STREAM), list[RegistryBatch](), 0
    while seq < last:
        for message in await reader.take(100, 1.0):
            batches.append(decode_registry(message.payload))
            seq = message.seq
    await reader.close()
    return batches


def state_of(batches: list[RegistryBatch]) -> tuple[list[int], list[int], list[int]]:
    table, identity = FleetTable(), Identity()
    for batch in batches:
        for columns in batch.all_devices():
            table.upsert_devices(columns)
        identity.fold(batch)
    at = table.row_of_device[1 : N_DEVICES + 1]
    return (
        table.nameplate.lifecycle[at].tolist(),
        identity.gateway_of_device[1 : N_DEVICES + 1].tolist(),
        table.nameplate.revision[at].tolist(),
    )


def test_who_starts_reads_the_present_once_and_knows_the_same(tmp_path: Path, database: Database) -> None:
    async def scenario() -> None:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                relay = Relay(database, bus, CLOCK)
                while await relay.round():
                    pass
                before = await told(bus)
                bytes_before = await bus.size_bytes(STREAM)
                compaction = Compaction(database, bus, CLOCK, above_bytes=bytes_before - 1)
                first = await bus.last_seq(STREAM)
                assert await compaction.look()
                assert (await bus.seq_bounds(STREAM))[0] == first + 1, "what was there before is let go"
                after = await told(bus)
                assert state_of(after) == state_of(before)
                n_told = sum(isinstance(one, DeviceRecord) for batch in after for one in batch.everything())
                assert n_told == N_DEVICES, "each is told of once"
                assert not await compaction.look(), "not again before it has doubled"
                relay.release()

    asyncio.run(scenario())


class BrokenStream:
    """A bus that loses the server in the midst of it."""

    def __init__(self) -> None:
        self.n_trimmed = 0

    async def publish_kept(self, subject: str, payload: bytes, message_id: str | None = None) -> int:
        raise ConnectionError(subject)

    async def last_seq(self, stream: str) -> int:
        return 10

    async def size_bytes(self, stream: str) -> int:
        return 10

    async def trim(self, stream: str, below_seq: int) -> None:
        self.n_trimmed += 1


def test_nothing_is_let_go_before_all_is_told_again(database: Database) -> None:
    bus = BrokenStream()
    with pytest.raises(ConnectionError):
        asyncio.run(Compaction(database, bus, CLOCK, above_bytes=1).look())
    assert bus.n_trimmed == 0
