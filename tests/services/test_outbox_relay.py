"""The relay: in order, each once under its own id, by one relay at a time, going on after everything that was away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count

import psycopg
import pytest

from unisono.base.clock import MovableClock
from unisono.base.errors import Unavailable
from unisono.engines.postgres import PostgresEngine
from unisono.services.outbox_relay import Relay, _Standby as Standby
from unisono.store import outbox
from unisono.store.database import Database, open_database
from unisono.store.migrate import migrate

NOW_NS = 1_795_000_000_000_000_000
_numbers = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running PostgreSQL."""
    engine = PostgresEngine(tmp_path_factory.mktemp("relay_postgres"))
    try:
        yield engine.start()
    finally:
        engine.stop()


@pytest.fixture
def database(server: str) -> Iterator[Database]:
    """An empty database with our schema."""
    name = f"relay_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = f"{server.rpartition('/')[0]}/{name}"
    migrate(url)
    with open_database(url) as opened:
        yield opened


class Stream:
    """Keeps what is published; drops repeated ids as JetStream does; can be away, or lose an answer."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes]] = []
        self.ids: list[str] = []
        self.n_left = 10**9
        self.loses_answer = False
        self.refused = asyncio.Event()
        self.took = asyncio.Event()

    async def publish_kept(self, subject: str, payload: bytes, message_id: str | None = None) -> int:
        """Keep a message unless its id was seen."""
        if self.n_left == 0:
            self.refused.set()
            raise Unavailable("NATS", "not connected")
        self.n_left -= 1
        assert message_id is not None
        if message_id not in self.ids:
            self.ids.append(message_id)
            self.kept.append((subject, payload))
            self.took.set()
        if self.loses_answer:
            self.loses_answer = False
            raise Unavailable("NATS", "timeout")
        return len(self.kept)


def put(database: Database, *payloads: str) -> None:
    """Commit messages."""
    with database.begin() as connection:
        for payload in payloads:
            outbox.put(connection, "requests.0", payload.encode(), "", NOW_NS)


def n_waiting(database: Database) -> int:
    """Return how many messages wait."""
    with database.begin() as connection:
        return len(outbox.waiting(connection, 1000))


def test_messages_are_published_once_and_in_order(database: Database) -> None:
    stream = Stream()
    relay = Relay(database, stream, MovableClock(NOW_NS))
    put(database, "a", "b", "c")

    async def main() -> None:
        assert await relay.round() == 3
        assert await relay.round() == 0

    asyncio.run(main())
    relay.release()
    assert [payload for _, payload in stream.kept] == [b"a", b"b", b"c"]
    assert len(set(stream.ids)) == 3
    assert n_waiting(database) == 0


def test_what_was_published_before_the_stream_went_away_is_not_published_again(database: Database) -> None:
    stream = Stream()
    relay = Relay(database, stream, MovableClock(NOW_NS))
    put(database, "a", "b", "c")
    stream.n_left = 1

    async def main() -> None:
        with pytest.raises(Unavailable):
            await relay.round()
        assert n_waiting(database) == 2
        stream.n_left = 10
        assert await relay.round() == 2

    asyncio.run(main())
    relay.release()
    assert [payload for _, payload in stream.kept] == [b"a", b"b", b"c"]
    assert stream.n_left == 8


def test_a_lost_answer_is_asked_again_under_the_same_id(database: Database) -> None:
    stream = Stream()
    stream.loses_answer = True
    relay = Relay(database, stream, MovableClock(NOW_NS))
    put(database, "a", "b")

    async def main() -> None:
        with pytest.raises(Unavailable):
            await relay.round()
        assert await relay.round() == 2

    asyncio.run(main())
    relay.release()
    assert [payload for _, payload in stream.kept] == [b"a", b"b"]


def test_what_is_not_committed_is_not_published(database: Database) -> None:
    stream = Stream()
    relay = Relay(database, stream, MovableClock(NOW_NS))
    with pytest.raises(RuntimeError), database.begin() as connection:
        outbox.put(connection, "requests.0", b"never", "", NOW_NS)
        raise RuntimeError
    assert asyncio.run(relay.round()) == 0
    relay.release()


def test_a_second_relay_stands_by_until_the_first_is_gone(database: Database) -> None:
    first, second = (Relay(database, Stream(), MovableClock(NOW_NS)) for _ in range(2))
    put(database, "a")

    async def main() -> None:
        assert await first.round() == 1
        with pytest.raises(Standby):
            await second.round()
        first.release()
        put(database, "b")
        assert await second.round() == 1

    asyncio.run(main())
    assert second.state.is_leader
    second.release()


def test_the_loop_goes_on_after_nats_was_away_and_gives_the_lock_back(database: Database) -> None:
    stream = Stream()
    stream.n_left = 0
    relay = Relay(database, stream, MovableClock(NOW_NS))
    put(database, "a")

    async def main() -> None:
        task = asyncio.create_task(relay.run())
        await asyncio.wait_for(stream.refused.wait(), 20)
        stream.n_left = 10
        await asyncio.wait_for(stream.took.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert stream.kept == [("requests.0", b"a")]
    assert not relay.state.is_leader
    other = Relay(database, stream, MovableClock(NOW_NS))
    assert asyncio.run(other.round()) == 0
    other.release()


def test_a_lock_whose_session_was_ended_is_taken_anew(database: Database, server: str) -> None:
    stream = Stream()
    relay = Relay(database, stream, MovableClock(NOW_NS))
    put(database, "a")
    assert asyncio.run(relay.round()) == 1
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'relay_%'")
    put(database, "b")
    with pytest.raises(Unavailable):
        asyncio.run(relay.round())
    assert asyncio.run(relay.round()) == 1
    relay.release()
    assert [payload for _, payload in stream.kept] == [b"a", b"b"]
