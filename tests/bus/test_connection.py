"""The bus against a real nats-server that is also stopped and started."""

from __future__ import annotations

import asyncio

import pytest
from tests.links.edge import bus_of

from unisono.base.errors import Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus, connect
from unisono.engines.nats import NatsEngine


async def first(bus: Bus, n: int, from_seq: int = 1) -> list[tuple[int, bytes]]:
    found = []
    async with asyncio.timeout(15):
        async for pair in bus.replay("READINGS", "readings.*", from_seq):
            found.append(pair)
            if len(found) == n:
                return found
    raise AssertionError("unreachable")


def test_a_kept_message_is_replayed_from_any_sequence(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus:
            await bus.ensure_streams()
            await bus.ensure_streams()
            assert await bus.last_seq("READINGS") == 0
            seqs = [await bus.publish_kept(subjects.readings(0), b"%d" % n) for n in range(5)]
            assert seqs == [1, 2, 3, 4, 5]
            assert await first(bus, 3, from_seq=3) == [(3, b"2"), (4, b"3"), (5, b"4")]
            assert await bus.seq_bounds("READINGS") == (1, 5)
            await bus.trim("READINGS", 4)
            assert await bus.seq_bounds("READINGS") == (4, 5)

    asyncio.run(scenario())


def test_the_newest_message_of_a_subject_is_known_among_those_of_others(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus:
            await bus.ensure_streams()
            for shard, epoch in ((0, 1), (0, 2), (1, 1)):
                await bus.publish_kept(subjects.commands(shard, epoch), b"x")
            ends = [await bus.last_seq_of("COMMANDS", subjects.all_commands(shard)) for shard in range(3)]
            assert (ends, await bus.last_seq("COMMANDS")) == ([2, 3, 0], 3)
            await bus.trim("COMMANDS", 3)
            assert await bus.last_seq_of("COMMANDS", subjects.all_commands(0)) == 0
            with pytest.raises(Unavailable):
                await bus.last_seq_of("NOTHING", "nothing")

    asyncio.run(scenario())


def test_a_reader_beyond_the_end_of_a_stream_reads_it_from_its_start(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus:
            await bus.ensure_streams()
            for n in range(3):
                await bus.publish_kept(subjects.readings(0), b"%d" % n)
            assert await first(bus, 3, from_seq=100) == [(1, b"0"), (2, b"1"), (3, b"2")]

    asyncio.run(scenario())


def test_a_live_reader_goes_on_at_the_start_of_a_stream_that_was_made_anew(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus, asyncio.timeout(30):
            await bus.ensure_streams()
            for n in range(5):
                await bus.publish_kept(subjects.readings(0), b"%d" % n)
            reader = bus.reader("READINGS", "readings.*", 1)
            seqs = [message.seq for message in await reader.take(5, 5.0)]
            assert seqs == [1, 2, 3, 4, 5]
            await bus.client.jetstream().delete_stream("READINGS")
            await bus.ensure_streams()
            await bus.publish_kept(subjects.readings(0), b"new")
            found = []
            while not found:
                found = await reader.take(5, 1.0)
            assert [(message.seq, message.payload) for message in found] == [(1, b"new")]
            await reader.close()

    asyncio.run(scenario())


def test_a_message_id_makes_a_repetition_harmless(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus:
            await bus.ensure_streams()
            first_seq = await bus.publish_kept(subjects.requests(0), b"x", message_id="dsp_1.1")
            assert await bus.publish_kept(subjects.requests(0), b"x", message_id="dsp_1.1") == first_seq

    asyncio.run(scenario())


def test_a_live_replay_outlives_the_server(engine: NatsEngine) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with bus_of(engine.endpoints) as bus:
            await bus.ensure_streams()
            reader = asyncio.ensure_future(first(bus, 20))
            for n in range(10):
                await bus.publish_kept(subjects.readings(0), b"%d" % n)
            await loop.run_in_executor(None, engine.stop)
            with pytest.raises(Unavailable):
                await bus.publish_kept(subjects.readings(0), b"lost", timeout_s=0.2)
            with pytest.raises(Unavailable):
                await bus.publish("totals.0", b"")
            await loop.run_in_executor(None, engine.start)
            for n in range(10, 20):
                await bus.publish_kept(subjects.readings(0), b"%d" % n)
            assert [payload for _, payload in await reader] == [b"%d" % n for n in range(20)]

    asyncio.run(scenario())


def test_a_durable_gives_again_what_was_not_acknowledged(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus:
            await bus.ensure_streams()
            for n in range(4):
                await bus.publish_kept(subjects.outcomes(0, 1), b"%d" % n)
            place = bus.durable("OUTCOMES", "outcomes.*.*", "recorder", ack_wait_s=1.0)
            messages = await place.fetch()
            assert [message.payload for message in messages] == [b"0", b"1", b"2", b"3"]
            await place.ack(messages[:3])
            await place.close()
            again = bus.durable("OUTCOMES", "outcomes.*.*", "recorder", ack_wait_s=1.0)
            (left,) = await again.fetch(wait_s=10.0)
            assert (left.payload, left.n_deliveries) == (b"3", 2)
            await again.ack([left])
            await bus.flush()
            assert await again.ack_floor() == 4
            await again.delete()
            assert await again.ack_floor() is None

    asyncio.run(scenario())


def test_a_question_is_answered_or_unavailable(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async def double(question: bytes) -> bytes:
            return question * 2

        async with bus_of(engine.endpoints) as bus:
            with pytest.raises(Unavailable):
                await bus.request(subjects.query(0), b"a", timeout_s=0.5)
            serving = await bus.serve(subjects.query(0), double)
            assert await bus.request(subjects.query(0), b"a") == b"aa"
            await serving.stop()

    asyncio.run(scenario())


def test_a_wrong_login_or_no_server_is_unavailable(engine: NatsEngine) -> None:
    async def scenario() -> None:
        with pytest.raises(Unavailable):
            await connect(engine.endpoints.nats_url, "core", "wrong", timeout_s=3.0)
        with pytest.raises(Unavailable):
            await connect("nats://127.0.0.1:9", "core", "wrong", timeout_s=1.0)

    asyncio.run(scenario())
