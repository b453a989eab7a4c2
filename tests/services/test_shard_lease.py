"""The right to command a shard, against the real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from unisono.base.clock import MovableClock
from unisono.engines.postgres import PostgresEngine
from unisono.services.shard_lease import LostLease, ShardLease
from unisono.store.database import Database, open_database
from unisono.store.migrate import migrate


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    engine = PostgresEngine(tmp_path_factory.mktemp("lease"))
    url = engine.start()
    migrate(url)
    database = open_database(url)
    yield database
    database.close()
    engine.stop()


def lease_of(database: Database, owner: str, shard: int, duration_s: float = 30.0) -> tuple[ShardLease, MovableClock]:
    clock = MovableClock(0)
    return ShardLease(database, clock, shard=shard, owner=owner, duration_s=duration_s), clock


def test_epochs_grow_with_every_owner(database: Database) -> None:
    async def scenario() -> list[int]:
        epochs = []
        for owner in ("first", "second", "second"):
            lease, _ = lease_of(database, owner, 0)
            epochs.append(await lease.acquire())
            await lease.release()
        return epochs

    assert asyncio.run(scenario()) == [1, 2, 3]


def test_the_same_place_started_again_need_not_wait(database: Database) -> None:
    async def scenario() -> tuple[int, int]:
        dead, _ = lease_of(database, "here", 1)
        again, _ = lease_of(database, "here", 1)
        return await dead.acquire(), await again.acquire()

    first, second = asyncio.run(scenario())
    assert second == first + 1


def test_an_owner_whose_epoch_is_over_is_told_at_its_next_renewal(database: Database) -> None:
    async def scenario() -> None:
        old, _ = lease_of(database, "here", 2, duration_s=0.6)
        await old.acquire()
        new, _ = lease_of(database, "here", 2)
        await new.acquire()
        with pytest.raises(LostLease):
            await old.keep()

    asyncio.run(scenario())


def test_commanding_ends_at_the_bound_by_the_monotonic_clock_alone(database: Database) -> None:
    async def scenario() -> None:
        lease, clock = lease_of(database, "here", 3)
        await lease.acquire()
        clock.step_wall(3600)
        assert lease.is_held()
        clock.advance(29.9)
        assert lease.is_held()
        clock.advance(0.2)
        assert not lease.is_held()

    asyncio.run(scenario())
