"""The historian's process killed with SIGKILL at points of its talk with NATS and PostgreSQL, chosen by a seed.

It talks to both through taps. At its point a tap lets nothing more through and the process is killed, so that a point
is exact: "the commit is done and the acknowledgement never left" is a message that the tap kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from tests.store.history.make import DAY_NS
from tests.store.history.running import Records, running_nats, running_records

from unisono.bus import subjects
from unisono.bus.connection import Bus, connect
from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.model.batches import ReadingBatch
from unisono.model.technology import SourceKind
from unisono.services.historian import position_name
from unisono.store import positions
from unisono.store.database import Database, open_database
from unisono.store.history import manifest
from unisono.store.history.files import read_all
from unisono.store.history.kinds import READINGS, ROLLUP_15MIN
from unisono.store.history.objects import open_store

SEED = int(os.environ.get("UNISONO_SEED", "20261121"))
ROUNDS = 14
BATCHES_A_ROUND, ROWS_A_BATCH = 8, 50
TAP_BYTES = 1 << 16


@dataclass
class Point:
    """Where the process dies: after so many bytes' worth of talk that match have passed, this one kept or let go."""

    name: str
    peer: str
    is_from_historian: bool
    holds: bytes
    skip: int
    lets_through: bool = False
    # Only in a transaction that shows files.
    needs_files: bool = False
    is_reached: bool = False

    def reaches(self, peer: str, is_from_historian: bool, block: bytes, shows_files: bool) -> bool:
        if self.is_reached or (peer, is_from_historian) != (self.peer, self.is_from_historian):
            return False
        if self.holds not in block or (self.needs_files and not shows_files):
            return False
        self.skip -= 1
        self.is_reached = self.skip < 0
        return self.is_reached


@dataclass
class Talk:
    """One connection: whether its open transaction has told of files."""

    shows_files: bool = False


@dataclass
class Tap:
    """A TCP port that passes everything on to an engine until a block is the point."""

    peer: str
    host: str
    port: int
    is_point: Callable[[str, bool, bytes, bool], Point | None]
    kill: Callable[[], None]
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> int:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_engine = await asyncio.open_connection(self.host, self.port)
        talk = Talk()
        for way in (self._pass(reader, to_engine[1], talk, True), self._pass(to_engine[0], writer, talk, False)):
            task = asyncio.create_task(way)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, talk: Talk, is_from_historian: bool
    ) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while block := await reader.read(TAP_BYTES):
                # A statement's text may be prepared and go unsaid; the paths of the files are always told.
                talk.shows_files |= is_from_historian and b".parquet" in block
                point = self.is_point(self.peer, is_from_historian, block, talk.shows_files)
                if not is_from_historian and b"COMMIT\0" in block:
                    talk.shows_files = False
                if point is not None and not point.lets_through:
                    self.kill()
                    return
                writer.write(block)
                await writer.drain()
                if point is not None:
                    self.kill()
                    return


def points(rng: random.Random) -> Iterator[Point]:
    """Yield points without end; the first five are one of each kind, the first time that it is reached."""
    ack = b"$JS.ACK.READINGS"
    for at in range(sys.maxsize):
        skip = 0 if at < 5 else rng.randrange(3)
        kinds = (
            Point("committed, not acknowledged", "nats", True, ack, skip),
            Point("asked to commit, not committed", "postgres", True, b"COMMIT", skip, needs_files=True),
            Point("committed, not told so", "postgres", False, b"COMMIT\0", skip, needs_files=True),
            Point("acknowledged", "nats", True, ack, skip, lets_through=True),
            Point("anywhere", rng.choice(("nats", "postgres")), rng.random() < 0.5, b"", rng.randrange(2, 40)),
        )
        yield kinds[at] if at < 5 else rng.choice(kinds)


class World:
    """Engines, what was published, and one historian after the other."""

    def __init__(self, bus: Bus, endpoints: NatsEndpoints, database: Database, url: str, folder: Path) -> None:
        self.bus, self.endpoints, self.database, self.url, self.folder = bus, endpoints, database, url, folder
        self.published: list[tuple[int, int, float]] = []
        self.n_batches = 0

    async def publish(self, rng: np.random.Generator) -> None:
        """Put batches on the stream; each reading's instant is its own."""
        for _ in range(BATCHES_A_ROUND):
            first = len(self.published)
            device_no = rng.integers(1, 9, ROWS_A_BATCH)
            measured_ns = DAY_NS + (first + np.arange(ROWS_A_BATCH)) * 1_000_000_000
            power_w = np.round(rng.normal(0.0, 2000.0, ROWS_A_BATCH)).astype(np.float32)
            columns = {
                "device_no": device_no,
                "measured_ns": measured_ns,
                "power_w": power_w,
                "source_kind": np.full(ROWS_A_BATCH, SourceKind.DEVICE),
            }
            batch = ReadingBatch.of_columns({"gateway_no": 1, "batch_seq": -1, "known_ns": DAY_NS + first}, columns)
            await self.bus.publish_kept(subjects.readings(0), batch.encode())
            self.published += zip(device_no.tolist(), measured_ns.tolist(), power_w.tolist(), strict=True)
            self.n_batches += 1

    async def position(self) -> int:
        name = await position_name(self.bus, "historian", "READINGS")
        with self.database.begin() as connection:
            return positions.get(connection, name)

    async def live(self, point: Point | None) -> int:
        """Run a historian until it is killed at the point, or until it has everything; return how it ended."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.services.historian_process"), stdin=asyncio.subprocess.PIPE
        )

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

        def is_point(peer: str, is_from_historian: bool, block: bytes, shows_files: bool) -> Point | None:
            reaches = point is not None and point.reaches(peer, is_from_historian, block, shows_files)
            return point if reaches else None

        nats, postgres = urlsplit(self.endpoints.nats_url), urlsplit(self.url)
        assert nats.port
        assert postgres.port
        taps = [Tap("nats", "127.0.0.1", nats.port, is_point, kill)]
        taps.append(Tap("postgres", "127.0.0.1", postgres.port, is_point, kill))
        ports = [await tap.open() for tap in taps]
        facts = {
            "nats_url": f"nats://127.0.0.1:{ports[0]}",
            "user": self.endpoints.core_user,
            "password": self.endpoints.core_password,
            "database_url": self.url.replace(f":{postgres.port}/", f":{ports[1]}/"),
            "folder": str(self.folder),
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(facts).encode())
        process.stdin.close()
        try:
            while process.returncode is None and await self.position() < self.n_batches:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 0.05)
        finally:
            kill()
            await process.wait()
            for tap in taps:
                await tap.close()
        return int(process.returncode or 0)

    def kept(self) -> list[tuple[int, int, float]]:
        store = open_store(str(self.folder))
        with self.database.begin() as connection:
            files = manifest.live(connection, READINGS)
        columns = ("device_no", "measured_ns", "power_w")
        rows: list[tuple[int, int, float]] = []
        for file in files:
            table = read_all(store, READINGS, file.path)
            rows += zip(*(table.column(name).to_pylist() for name in columns), strict=True)
        return rows

    def n_summed(self) -> int:
        store = open_store(str(self.folder))
        with self.database.begin() as connection:
            files = manifest.live(connection, ROLLUP_15MIN)
        return sum(sum(read_all(store, ROLLUP_15MIN, file.path).column("n").to_pylist()) for file in files)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    with running_records(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[tuple[NatsEngine, NatsEndpoints]]:
    with running_nats(tmp_path / "nats") as running:
        yield running


def test_a_historian_killed_at_any_point_repeats_nothing_and_loses_nothing(
    records: Records, nats: tuple[NatsEngine, NatsEndpoints], tmp_path: Path
) -> None:
    print(f"UNISONO_SEED={SEED}")  # noqa: T201 - what replays a failure
    rng, numbers = random.Random(SEED), np.random.default_rng(SEED)
    url, endpoints = records.migrated(), nats[1]

    async def scene() -> Counter[str]:
        bus = await connect(endpoints.nats_url, endpoints.core_user, endpoints.core_password)
        reached: Counter[str] = Counter()
        try:
            await bus.ensure_streams()
            with open_database(url, pool_size=2) as database:
                world = World(bus, endpoints, database, url, tmp_path / "history")
                for _, point in zip(range(ROUNDS), points(rng), strict=False):
                    await world.publish(numbers)
                    await world.live(point)
                    reached[point.name] += point.is_reached
                    kept = Counter(world.kept())
                    assert max(kept.values(), default=1) == 1, f"repeated after {point}"
                    assert set(kept) <= set(world.published)
                    expected = world.published[: await world.position() * ROWS_A_BATCH]
                    assert kept == Counter(expected), f"lost, or not where the position is, after {point}"
                await world.live(None)
                assert sorted(world.kept()) == sorted(world.published)
                assert world.n_summed() == len(world.published) == ROUNDS * BATCHES_A_ROUND * ROWS_A_BATCH
        finally:
            await bus.close()
        return reached

    reached = asyncio.run(asyncio.wait_for(scene(), 240))
    print(dict(reached))  # noqa: T201 - which points this seed had
    assert all(reached[name] for name in ("committed, not acknowledged", "committed, not told so", "acknowledged"))
    assert reached["asked to commit, not committed"]
