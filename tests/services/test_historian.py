"""The historian between a real nats-server and a real PostgreSQL, with both of them going away."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.links.edge import until
from tests.store.history.make import DAY_NS, readings, rows
from tests.store.history.running import Records, running_nats, running_records

from unisono.base.clock import MovableClock
from unisono.base.errors import Conflict, Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus, connect
from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.model.batches import AckBatch, CommandFrames, ReadingBatch
from unisono.services import historian
from unisono.services.historian import HistorianCounters, HistorianSettings, StreamKeeper
from unisono.services.history_tail import HistoryTail
from unisono.store.database import Database
from unisono.store.history import evidence, intake, manifest
from unisono.store.history.files import read_all
from unisono.store.history.kinds import ACKS, COMMANDS, NS_PER_DAY, READINGS, Kind
from unisono.store.history.objects import ObjectStore, open_store
from unisono.store.history.reader import HistoryReader

NOW_NS = DAY_NS + NS_PER_DAY


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    with running_records(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[tuple[NatsEngine, NatsEndpoints]]:
    with running_nats(tmp_path / "nats") as running:
        yield running


class House:
    """Everything that a historian needs, and a clock that the test moves."""

    def __init__(self, bus: Bus, database: Database, store: ObjectStore) -> None:
        self.bus, self.database, self.store = bus, database, store
        self.clock = MovableClock(NOW_NS)

    def keeper(self, intake_: historian.Intake = historian.READINGS, age_s: float = 0.0) -> StreamKeeper:
        return StreamKeeper(self.bus, self.database, self.store, self.clock, intake_, rows_max=10**6, age_s=age_s)

    def kept(self, kind: Kind) -> pa.Table:
        with self.database.begin() as connection:
            files = manifest.live(connection, kind)
        return pa.concat_tables(
            [kind.schema.empty_table()] + [read_all(self.store, kind, file.path).cast(kind.schema) for file in files]
        )

    async def publish(self, *batches: ReadingBatch | AckBatch) -> None:
        for batch in batches:
            await self.bus.publish_kept(subjects.readings(0), batch.encode())


def play(records: Records, endpoints: NatsEndpoints, folder: Path, scene: Callable[[House], Awaitable[None]]) -> None:
    async def run() -> None:
        bus = await connect(endpoints.nats_url, endpoints.core_user, endpoints.core_password)
        try:
            await bus.ensure_streams()
            with records.database() as database:
                await asyncio.wait_for(scene(House(bus, database, open_store(str(folder / "history")))), 60)
        finally:
            await bus.close()

    asyncio.run(run())


async def step_until(keeper: StreamKeeper, is_done: Callable[[], bool]) -> None:
    while not is_done():
        with contextlib.suppress(Unavailable, Conflict, historian.Gap):
            await keeper.step(wait_s=0.2)


async def step_for_ever(keeper: StreamKeeper) -> None:
    while True:
        await keeper.step(wait_s=0.2)


def some(seed: int, n: int = 100) -> ReadingBatch:
    return readings(np.random.default_rng(seed), n)


def test_what_flows_past_is_kept_once_and_killing_between_commit_and_ack_repeats_nothing(
    records: Records, nats: tuple[NatsEngine, NatsEndpoints], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(house: House) -> None:
        await house.publish(some(1), some(2))
        first = house.keeper()

        async def killed(self: object, messages: object) -> None:
            raise Unavailable("NATS", "killed before the acknowledgement")

        with monkeypatch.context() as patch:
            patch.setattr("unisono.bus.consumers.Durable.ack", killed)
            with pytest.raises(Unavailable):
                await step_for_ever(first)
        assert house.kept(READINGS).num_rows == 200
        # The process is gone without a word; its successor goes on behind the commit.
        second = house.keeper()
        await house.publish(some(3))
        await step_until(second, lambda: second.counters.n_messages >= 1)
        assert second.counters.n_messages == 1
        assert rows(house.kept(READINGS)) == rows(intake.readings_table([some(1), some(2), some(3)]))
        await second.close()

    play(records, nats[1], tmp_path, scene)


def test_killing_between_the_file_and_the_commit_repeats_and_loses_nothing(
    records: Records, nats: tuple[NatsEngine, NatsEndpoints], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(house: House) -> None:
        await house.publish(some(1))
        first = house.keeper()

        def killed(*args: object) -> None:
            raise Unavailable("PostgreSQL", "killed before the commit")

        with monkeypatch.context() as patch:
            patch.setattr(historian, "commit_segment", killed)
            with pytest.raises(Unavailable):
                await step_for_ever(first)
        assert len(house.store.paths()) == 2
        assert house.kept(READINGS).num_rows == 0
        second = house.keeper()
        await step_until(second, lambda: second.counters.n_messages >= 1)
        assert rows(house.kept(READINGS)) == rows(intake.readings_table([some(1)]))
        # The same span was written to the same names: nothing is left over.
        assert len(house.store.paths()) == 2

    play(records, nats[1], tmp_path, scene)


def test_nothing_is_lost_while_postgres_and_then_nats_are_away(
    records: Records, nats: tuple[NatsEngine, NatsEndpoints], tmp_path: Path
) -> None:
    async def scene(house: House) -> None:
        counters = HistorianCounters()
        settings = HistorianSettings(readings_age_s=0.1, commands_age_s=0.1)
        house.clock = Ticking(NOW_NS)  # type: ignore[assignment]
        running = asyncio.create_task(
            historian.run(house.bus, house.database, house.store, house.clock, settings=settings, counters=counters)
        )
        await house.publish(some(1))
        await until(lambda: counters.n_rows >= 100)
        await asyncio.to_thread(records.engine.stop)
        await house.publish(some(2), some(3))
        await until(lambda: counters.n_messages >= 3)
        await asyncio.to_thread(nats[0].stop)
        await asyncio.to_thread(records.engine.start)
        await asyncio.to_thread(nats[0].start)
        await publish_stubbornly(house, some(4))
        expected = rows(intake.readings_table([some(seed) for seed in (1, 2, 3, 4)]))
        await until(lambda: counters.seq_of_stream.get("READINGS", 0) >= 4)
        assert rows(house.kept(READINGS)) == expected
        assert counters.n_lost == 0
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    play(records, nats[1], tmp_path, scene)


def test_acks_damage_and_expired_messages_are_told_apart(
    records: Records, nats: tuple[NatsEngine, NatsEndpoints], tmp_path: Path
) -> None:
    async def scene(house: House) -> None:
        ack = AckBatch.of_columns(
            {"gateway_no": 1, "known_ns": DAY_NS + 1},
            {"device_no": [4], "epoch": [1], "seq": [9], "code": [0], "answered_ns": [DAY_NS]},
        )
        await house.publish(some(1), some(2))
        await house.bus.trim("READINGS", 2)
        await house.publish(ack)
        await house.bus.publish_kept(subjects.readings(0), b"URB1 and then nonsense")
        keeper = house.keeper()
        await step_until(keeper, lambda: keeper.counters.n_messages >= 3)
        assert keeper.counters.n_damaged == 1
        assert house.kept(ACKS).to_pylist()[0]["seq"] == 9
        assert rows(house.kept(READINGS)) == rows(intake.readings_table([some(2)]))
        # Purged behind the position: the stream goes on, and the loss is counted.
        await keeper.close()
        await house.publish(some(5), some(6))
        await house.bus.trim("READINGS", 6)
        await step_until(keeper, lambda: keeper.counters.n_messages >= 4)
        assert keeper.counters.n_lost == 1

    play(records, nats[1], tmp_path, scene)


def test_commands_are_kept_with_proof_and_the_log_shows_the_tail(
    records: Records, nats: tuple[NatsEngine, NatsEndpoints], tmp_path: Path
) -> None:
    def frames(cycle: int) -> CommandFrames:
        scalars = {"shard": 0, "epoch": 1, "cycle": cycle, "issued_ns": DAY_NS + cycle * 10**9}
        return CommandFrames.of_columns(scalars, {"device_no": [4], "seq": [cycle], "value": [100.0 * cycle]})

    async def scene(house: House) -> None:
        keeper = house.keeper(historian.COMMANDS)
        await house.bus.publish_kept(subjects.commands(0, 1), frames(1).encode())
        await step_until(keeper, lambda: keeper.counters.n_messages >= 1)
        tail = HistoryTail(house.bus, house.database)
        following = asyncio.create_task(tail.run())
        await house.bus.publish_kept(subjects.commands(0, 1), frames(2).encode())
        await until(lambda: len(tail()[0]) == 1)
        reader = HistoryReader(house.database, house.store, tail)
        log = await asyncio.to_thread(reader.device_commands, 4, DAY_NS, NOW_NS, 10)
        assert [(row["seq"], row["value"], row["ack_code"]) for row in log] == [(1, 100.0, None), (2, 200.0, None)]
        await step_until(keeper, lambda: keeper.counters.n_messages >= 2)
        await until(lambda: not tail()[0])
        assert house.kept(COMMANDS).num_rows == 2
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        with house.database.begin() as connection:
            assert evidence.verify_log(connection, house.store).n_files == 2

    play(records, nats[1], tmp_path, scene)


def test_a_stream_made_anew_is_read_from_its_first_message(
    records: Records, nats: tuple[NatsEngine, NatsEndpoints], tmp_path: Path
) -> None:
    async def scene(house: House) -> None:
        keeper = house.keeper()
        await house.publish(some(1), some(2))
        await step_until(keeper, lambda: keeper.counters.n_messages >= 2)
        await keeper.close()
        await house.bus.client.jetstream().delete_stream("READINGS")
        await house.bus.ensure_streams()
        await house.publish(some(3))
        await step_until(keeper, lambda: keeper.counters.n_messages >= 3)
        assert rows(house.kept(READINGS)) == rows(intake.readings_table([some(1), some(2), some(3)]))

    play(records, nats[1], tmp_path, scene)


def test_the_house_is_kept(records: Records, nats: tuple[NatsEngine, NatsEndpoints], tmp_path: Path) -> None:
    async def scene(house: House) -> None:
        keeper = house.keeper()
        for seed in range(3):
            await house.publish(some(seed))
            await step_until(keeper, lambda seed=seed: keeper.counters.n_messages > seed)  # type: ignore[misc]
        house.clock.advance(7200)
        counters = HistorianCounters()
        historian.keep_house(house.database, house.store, house.clock, HistorianSettings(), counters)
        assert counters.n_merged == 6
        assert rows(house.kept(READINGS)) == rows(intake.readings_table([some(0), some(1), some(2)]))
        house.clock.advance(7200)
        historian.keep_house(house.database, house.store, house.clock, HistorianSettings(), counters)
        assert (counters.n_swept, counters.n_expired) == (6, 0)
        assert dataclasses.asdict(counters)["n_merged"] == 6

    play(records, nats[1], tmp_path, scene)


class Ticking(MovableClock):
    """A clock that goes on a little each time it is read, for loops that run by themselves."""

    def monotonic_ns(self) -> int:
        self.advance(0.05)
        return super().monotonic_ns()


async def publish_stubbornly(house: House, batch: ReadingBatch) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            await house.bus.publish_kept(subjects.readings(0), batch.encode(), "the-fourth")
            return
