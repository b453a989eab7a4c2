"""The plant that is measured: ``unisono up`` with its real roles, what it costs, and what it has kept, read back."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import select

from unisono.base.errors import Unavailable
from unisono.bus.connection import Bus, connect
from unisono.main.bench.ingest_fleet import enrol, pairs
from unisono.main.bench.ingest_load import Sent, Spec
from unisono.main.clock import SystemClock
from unisono.main.demo.children import PlantProcess, wait_until
from unisono.main.endpoints import Endpoints
from unisono.model.batches import ReadingBatch, decode_incoming
from unisono.services import picture
from unisono.store.database import open_database
from unisono.store.tables.records import HISTORY_FILE

START_TIMEOUT_S: Final = 300.0
ENROL_TIMEOUT_S: Final = 120.0
ROLES: Final = ("historian", "realtime", "front")
# Whose CPU is told.
MEASURED: Final = ("nats", "front", "realtime", "historian")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_NS_PER_MS: Final = 1_000_000


class Load:
    """One process of publishers (``ingest_load``)."""

    def __init__(self, spec: Spec, path: Path) -> None:
        path.write_bytes(msgspec.json.encode(spec))
        self._path = path
        command = [sys.executable, "-m", "unisono.main.bench.ingest_load", str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.sent = Sent(n_readings=0, n_acknowledged=0, began_ns=0, ended_ns=0, cpu_s=0.0)

    async def said(self) -> str:
        """Return the next line that it says; raises Unavailable when it has ended instead."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise Unavailable("the load", f"ended with code {self._process.wait()}")
        return line.decode().strip()

    def go(self) -> None:
        """Let it begin."""
        self._tell()

    async def done(self) -> Sent:
        """Wait for its end and return what it did; its connections stay until ``stop``."""
        self.sent = msgspec.json.decode(await self.said(), type=Sent)
        return self.sent

    def stop(self) -> None:
        """Let it end."""
        if self._process.poll() is None:
            self._tell()
        self._process.wait(START_TIMEOUT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def pairs(self, what: str) -> NDArray[np.int64]:
        """Return the pairs that were ``sent`` or ``acknowledged``."""
        found: NDArray[np.int64] = np.load(self._path.with_suffix(f".{what}.npy"))
        return found

    def _tell(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()


@dataclass(frozen=True, slots=True)
class Measured:
    """What one load was, and what it took: CPU seconds by process."""

    loads: tuple[Load, ...]
    cpu_s: dict[str, float]
    seq_before: int
    took_s: float

    @property
    def n_readings(self) -> int:
        """Readings sent."""
        return sum(load.sent.n_readings for load in self.loads)

    @property
    def n_acknowledged(self) -> int:
        """Readings that the platform acknowledged."""
        return sum(load.sent.n_acknowledged for load in self.loads)

    def pairs(self, what: str) -> NDArray[np.int64]:
        """Return all pairs that were ``sent`` or ``acknowledged``."""
        return np.concatenate([load.pairs(what) for load in self.loads])


class Plant:
    """A running platform with an enrolled fleet. Make it with ``running``."""

    def __init__(self, folder: Path, facts: Endpoints, bus: Bus) -> None:
        self.folder, self.facts, self.bus = folder, facts, bus
        self.seen = picture.Picture(SystemClock())
        self._n_loads = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, *, n_devices: int, n_gateways: int, period_s: float) -> AsyncIterator[Self]:
        """Start a new platform on the folder, enrol the fleet, and stop it in the end; what it wrote goes with it."""
        shutil.rmtree(folder, ignore_errors=True)
        process = PlantProcess(folder / "plant", ROLES)
        try:
            found = wait_until(process.run_facts, START_TIMEOUT_S, "the platform")
            wait_until(lambda: len((process.run_facts() or {}).get("children", {})) > len(ROLES), START_TIMEOUT_S, "it")
            facts = msgspec.convert(process.run_facts() or found, Endpoints)
            bus = await connect(facts.nats_url, facts.core_user, facts.core_password, "bench", START_TIMEOUT_S)
            try:
                plant = cls(folder, facts, bus)
                listening = asyncio.create_task(picture.run(bus, plant.seen))
                await enrol(bus, n_devices, n_gateways, period_s)
                await plant.until(lambda: plant.n_enrolled() == n_devices, ENROL_TIMEOUT_S, "realtime's registry")
                yield plant
                listening.cancel()
            finally:
                await bus.close()
        finally:
            await asyncio.to_thread(process.stop)
            shutil.rmtree(folder, ignore_errors=True)

    def n_enrolled(self) -> int:
        """Return how many devices realtime knows."""
        return sum(heard.totals.n_devices for heard in self.seen.shards())

    def folded_seq(self) -> int:
        """Return up to which sequence of READINGS realtime has folded."""
        return min((heard.totals.readings_seq for heard in self.seen.shards()), default=0)

    async def load(self, *specs: Spec) -> Measured:
        """Run these publishers at the same time and return what was sent and what it took."""
        self._n_loads += 1
        loads = tuple(Load(spec, self.folder / f"load-{self._n_loads}-{i}.json") for i, spec in enumerate(specs))
        for load in loads:
            assert await load.said() == "ready"
        seq_before = await self.bus.last_seq("READINGS")
        before, began_s = self.cpu_s(), time.monotonic()
        for load in loads:
            load.go()
        for load in loads:
            await load.done()
        took_s = time.monotonic() - began_s
        after = self.cpu_s()
        return Measured(loads, {name: after[name] - before[name] for name in after}, seq_before, took_s)

    def specs(self, n_processes: int, n_gateways: int, **more: object) -> list[Spec]:
        """Return the specifications of so many processes that share the gateways."""
        at = urlsplit(self.facts.telemetry_url)
        is_http = more["form"] == "http"
        place = {"host": at.hostname, "port": at.port} if is_http else {"host": self.facts.mqtt_host}
        bounds = np.linspace(1, n_gateways + 1, n_processes + 1).astype(int).tolist()
        common = {"port": self.facts.mqtt_port, "n_gateways": n_gateways} | place | more
        return [msgspec.convert({"gateways": shared} | common, Spec) for shared in pairwise(bounds)]

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds that each process has taken since its start."""
        pids = {name: self.facts.children[name].pid for name in MEASURED}
        return {name: _cpu_s(pid) for name, pid in pids.items() if pid is not None}

    async def until(self, is_so: object, timeout_s: float, what: str, every_s: float = 0.2) -> float:
        """Wait until it is so and return for how long; raises Unavailable."""
        assert callable(is_so)
        began_s = time.monotonic()
        while not is_so():
            if time.monotonic() - began_s > timeout_s:
                raise Unavailable(what, f"not within {timeout_s:.0f} s")
            await asyncio.sleep(every_s)
        return time.monotonic() - began_s

    def n_in_history(self) -> int:
        """Return the rows of readings in the files that history consists of, by their own footers."""
        return sum(pq.read_metadata(path).num_rows for path in self._files())

    def history_pairs(self) -> NDArray[np.int64]:
        """Return (device, instant) of each row of history."""
        found = [np.zeros(0, np.int64)]
        for path in self._files():
            table = pq.read_table(path, columns=["device_no", "measured_ns"])
            measured_ms = table["measured_ns"].to_numpy() // _NS_PER_MS
            found.append(pairs(table["device_no"].to_numpy(), measured_ms))
        return np.concatenate(found)

    async def stream_pairs(self, after_seq: int) -> NDArray[np.int64]:
        """Return (device, instant) of each reading on the stream behind a sequence."""
        last = await self.bus.last_seq("READINGS")
        reader = self.bus.reader("READINGS", "readings.0", after_seq + 1)
        found, seq = [np.zeros(0, np.int64)], after_seq
        while seq < last:
            for message in await reader.take(200, 1.0):
                assert message.seq == seq + 1, "the stream has a gap"
                batch, seq = decode_incoming(message.payload), message.seq
                if isinstance(batch, ReadingBatch):
                    found.append(pairs(batch.device_no, batch.measured_ns // _NS_PER_MS))
        await reader.close()
        return np.concatenate(found)

    def _files(self) -> Sequence[Path]:
        database = open_database(self.facts.database_url, name="bench")
        try:
            with database.begin() as connection:
                file = HISTORY_FILE.c
                live = select(file.path).where(file.kind.like("readings%"), file.retired_at_ns.is_(None))
                return [self.folder / "plant" / "history" / path for path in connection.scalars(live)]
        finally:
            database.close()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
