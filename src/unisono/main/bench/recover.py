"""Each process of a loaded plant is killed in turn (``kill -9``), while a dispatch runs: how soon is its picture true?

100,000 devices report every 10 s in packed batches, through gateways on MQTT (QoS 1) and HTTP that repeat what is not
acknowledged. Seconds count from when the supervisor has started the killed process again until a cycle of the shard's
owner has folded everything that was on the stream by then. Checked against a fold of our own, read from the stream's
start to the same sequence: every device's newest instant, power and state of charge in the owner's next checkpoint.
At the end every batch that was acknowledged is on the stream once or more, and history holds each of its rows once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, func, select

from unisono.base.errors import Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus, connect
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.gateways import Fleet
from unisono.main.bench.twin import STREAM, Twin, saved
from unisono.main.client import ApiClient
from unisono.main.demo.children import PlantProcess, wait_until
from unisono.model.registry import encode_registry
from unisono.model.totals import ShardTotals
from unisono.services.historian import position_name
from unisono.store import positions
from unisono.store.database import open_database
from unisono.store.tables.portfolios import PORTFOLIO
from unisono.store.tables.records import HISTORY_FILE

N_DEVICES: Final = 100_000
N_GATEWAYS: Final = 200
SEED: Final = 5
KILLED: Final = ("front", "realtime", "historian", "web", "nats", "postgres")
TARGET_S: Final = 5.0
TARGET_W: Final = 10_000_000.0
START_S: Final = 240.0
BOUND_S: Final = 90.0
LOOK_S: Final = 0.02
# Between two kills, so that each finds a plant that is whole.
CALM_S: Final = 6.0


@dataclass(slots=True)
class Kill:
    """What one kill cost; seconds from the kill until another process ran, and from there."""

    name: str
    at_s: float = 0.0
    restarted_s: float = 0.0
    true_s: float = 0.0
    acknowledged_s: float = 0.0
    n_differences: int = -1
    epochs: tuple[int, int] = (0, 0)
    is_dispatching: bool = False


@dataclass(slots=True)
class Heard:
    """What the shard's owner tells of its cycles."""

    newest: ShardTotals | None = None

    async def take(self, subject: str, payload: bytes) -> None:
        """Keep the newest totals."""
        self.newest = msgspec.msgpack.decode(payload, type=ShardTotals)

    def now(self) -> ShardTotals:
        """Return them."""
        assert self.newest is not None, "the picture was waited for"
        return self.newest


@dataclass(slots=True)
class Scene:
    """The running plant, its load, and who watches both."""

    plant: PlantProcess
    facts: dict[str, Any]
    bus: Bus
    fleet: Fleet
    twin: Twin
    heard: Heard = field(default_factory=Heard)

    @property
    def checkpoint(self) -> Path:
        """The file of the shard's owner."""
        return self.plant.data_dir / "checkpoints" / "shard-0.bin"

    def child(self, name: str) -> dict[str, Any]:
        """Return pid and restarts of a child, as the supervisor says."""
        facts = self.plant.run_facts() or self.facts
        child: dict[str, Any] = facts["children"][name]
        return child


def bench(options: BenchOptions) -> BenchResult:
    """Start a plant, load it, kill its processes in turn, and compare."""
    n_devices = options.n_devices or N_DEVICES
    folder = options.folder / "recover"
    shutil.rmtree(folder, ignore_errors=True)
    plant = PlantProcess(folder)
    try:
        result = asyncio.run(_run(plant, n_devices, max(2, N_GATEWAYS * n_devices // N_DEVICES)))
    finally:
        plant.stop()
    shutil.rmtree(folder)
    return result


async def _run(plant: PlantProcess, n_devices: int, n_gateways: int) -> BenchResult:
    began_s = time.monotonic()
    async with _loaded(plant, n_devices, n_gateways) as scene:
        loaded_s = time.monotonic() - began_s
        n_before, before_s = scene.twin.n_rows, time.monotonic()
        kills = [await _kill(scene, name) for name in KILLED]
        n_per_s = (scene.twin.n_rows - n_before) / (time.monotonic() - before_s)
        scene.fleet.is_sending = False
        await _until(lambda: _said(not scene.fleet.n_unacknowledged()), "the last acknowledgement")
        acknowledged = scene.fleet.acknowledged()
        lost = await _lost(scene, acknowledged.keys())
        n_in_files, n_on_stream = await _history(scene)
        await scene.twin.close()
    return BenchResult(
        name="recover",
        figures=(
            *(
                Figure(name=f"{kill.name}: until the picture is true", value=kill.true_s, unit="s", target=TARGET_S)
                for kill in kills
            ),
            Figure(name="acknowledged and lost", value=len(lost), unit="batches", target=0.0),
            Figure(name="rows in history twice or missing", value=abs(n_in_files - n_on_stream), unit="", target=0.0),
        ),
        checks={
            **{f"{kill.name}: the columns are the fold of the stream": kill.n_differences == 0 for kill in kills},
            "a new owner, and only a new owner, counts up": all(
                kill.epochs[1] - kill.epochs[0] == (kill.name == "realtime") for kill in kills
            ),
            "the dispatch goes on after each kill": all(kill.is_dispatching for kill in kills),
            "the stream holds nothing that nobody sent": scene.twin.batches.keys() <= acknowledged.keys(),
        },
        sizes={
            "devices": n_devices,
            "gateways": n_gateways,
            "batches acknowledged": len(acknowledged),
            "batches on the stream twice": sum(n - 1 for n in scene.twin.batches.values()),
            "rows in history": n_in_files,
        },
        details={
            "seconds until loaded": loaded_s,
            "readings_per_s": n_per_s,
            "lost": "; ".join(_when(kills, scene.fleet, acknowledged[one], one[0]) for one in sorted(lost)[:20]),
            **{f"{kill.name}: running again after s": kill.restarted_s for kill in kills},
            **{f"{kill.name}: acknowledging again after s": kill.acknowledged_s for kill in kills},
        },
    )


@asynccontextmanager
async def _loaded(plant: PlantProcess, n_devices: int, n_gateways: int) -> AsyncIterator[Scene]:
    """Yield a plant whose devices all report and that has called some of them."""
    facts = await asyncio.to_thread(wait_until, plant.run_facts, START_S, "the platform")
    client = ApiClient(facts["api_url"], plant.admin_key())
    await asyncio.to_thread(wait_until, client.is_ready, START_S, "the platform")
    bus = await connect(facts["nats_url"], facts["core_user"], facts["core_password"], "bench")
    fleet = Fleet(n_devices, n_gateways, SEED)
    scene = Scene(plant, plant.run_facts() or facts, bus, fleet, Twin(n_devices))
    totals = await bus.subscribe(subjects.totals(0), scene.heard.take)
    try:
        portfolio = await asyncio.to_thread(client.post, "/v1/vpp/portfolios", {"name": "Everyone"})
        portfolio_id = portfolio["portfolio_id"]
        with open_database(facts["database_url"], name="bench") as database, database.begin() as connection:
            organisation_id, portfolio_no = _numbers(connection, portfolio_id)
        for batch in fleet.registry(organisation_id, (portfolio_id, portfolio_no)):
            await bus.publish_kept(subjects.registry(0), encode_registry(batch))
        async with fleet.live(scene.facts):
            await _until(lambda: _said(_is_whole(scene)), "a true picture", START_S)
            await asyncio.to_thread(_call, client, portfolio_id, TARGET_W * n_devices / N_DEVICES)
            await _until(lambda: _said(_is_dispatching(scene)), "the dispatch")
            await scene.twin.read_to(bus, saved(scene.checkpoint)[1])
            yield scene
    finally:
        client.close()
        await totals.stop()
        await bus.close()


async def _kill(scene: Scene, name: str) -> Kill:
    await asyncio.sleep(CALM_S)
    kill, before = Kill(name), scene.child(name)
    epoch = scene.heard.now().epoch
    os.kill(before["pid"], signal.SIGKILL)
    killed_s = kill.at_s = time.monotonic()
    await _until(lambda: _said(scene.child(name)["pid"] != before["pid"]), f"another {name}")
    restarted_s = time.monotonic()
    kill.restarted_s = restarted_s - killed_s
    restarted_ns = time.time_ns()

    async def is_true() -> bool:
        heard = scene.heard.now()
        return heard.at_ns > restarted_ns and heard.readings_seq >= end_seq

    end_seq = await _last_seq(scene.bus)
    await _until(is_true, f"a true picture after the end of {name}")
    kill.true_s = time.monotonic() - restarted_s
    n_kept = len(scene.fleet.acknowledged())
    await _until(lambda: _said(len(scene.fleet.acknowledged()) > n_kept), f"acknowledgements after the end of {name}")
    kill.acknowledged_s = time.monotonic() - restarted_s

    async def is_saved() -> bool:
        return scene.checkpoint.stat().st_mtime_ns > restarted_ns and saved(scene.checkpoint)[1] >= end_seq

    await _until(is_saved, f"a checkpoint after the end of {name}", every_s=0.5)
    state, seq = saved(scene.checkpoint)
    await scene.twin.read_to(scene.bus, seq)
    kill.n_differences = scene.twin.n_differences(state)
    kill.epochs = epoch, scene.heard.now().epoch
    n_commands = await scene.bus.last_seq_of("COMMANDS", subjects.commands(0, kill.epochs[1]))
    kill.is_dispatching = _is_dispatching(scene) and n_commands > 0
    return kill


def _when(kills: list[Kill], fleet: Fleet, at_s: float, gateway_no: int) -> str:
    """Say over which link, and how long after (or before) the nearest kill, a batch was acknowledged."""
    nearest = min(kills, key=lambda kill: abs(at_s - kill.at_s))
    return f"{fleet.gateways[gateway_no - 1].link}, {at_s - nearest.at_s:+.2f} s from the end of {nearest.name}"


async def _lost(scene: Scene, acknowledged: AbstractSet[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return the batches that are not on the stream; the broker's own stream may be a moment ahead of it."""
    until_s = time.monotonic() + BOUND_S
    while True:
        await scene.twin.read_to(scene.bus, await scene.bus.last_seq(STREAM))
        lost = set(acknowledged - scene.twin.batches.keys())
        if not lost or time.monotonic() > until_s:
            return lost
        await asyncio.sleep(1.0)


async def _history(scene: Scene) -> tuple[int, int]:
    """Return the rows of history's files in use, and of the stream as far as they reach, once they hold all of it."""
    consumer = await position_name(scene.bus, "historian", STREAM)
    in_use = (HISTORY_FILE.c.kind == "readings") & HISTORY_FILE.c.retired_at_ns.is_(None)
    found = [0, 0]

    async def is_complete() -> bool:
        with open_database(scene.facts["database_url"], name="bench") as database, database.begin() as connection:
            found[0] = int(connection.execute(select(func.sum(HISTORY_FILE.c.n_rows)).where(in_use)).scalar() or 0)
            seq = positions.get(connection, consumer)
        found[1] = scene.twin.n_rows_to(seq)
        return found[1] == scene.twin.n_rows

    await _until(is_complete, "history", every_s=1.0)
    return found[0], found[1]


def _numbers(connection: Connection, portfolio_id: str) -> tuple[str, int]:
    c = PORTFOLIO.c
    row = connection.execute(select(c.organisation_id, c.portfolio_no).where(c.portfolio_id == portfolio_id)).one()
    return row.organisation_id, row.portfolio_no


def _call(client: ApiClient, portfolio_id: str, power_w: float) -> None:
    start = datetime.now(UTC) + timedelta(seconds=2)
    asked = {
        "kind": "change_kw",
        "target_kw": power_w / 1e3,
        "start": start.isoformat(),
        "end": (start + timedelta(hours=1)).isoformat(),
        "ramp_s": 4.0,
    }
    client.post(f"/v1/vpp/portfolios/{portfolio_id}/dispatches", asked)


def _is_whole(scene: Scene) -> bool:
    """Whether every device is enrolled and has been heard."""
    newest = scene.heard.newest
    if newest is None or newest.n_devices < scene.fleet.n_devices or not newest.portfolios:
        return False
    return any(one.completeness_frac > 0.999 for one in newest.portfolios) and scene.checkpoint.exists()


def _is_dispatching(scene: Scene) -> bool:
    """Whether the newest cycle had the dispatch in force, and somebody told."""
    return any(row.state == "active" and row.n_targeted > 0 for row in scene.heard.now().dispatches)


async def _last_seq(bus: Bus) -> int:
    """Return the end of the stream; a server that has just come back is waited for."""
    while True:
        try:
            return await bus.last_seq(STREAM)
        except Unavailable:
            await asyncio.sleep(LOOK_S)


async def _until(
    is_so: Callable[[], Awaitable[bool]], what: str, bound_s: float = BOUND_S, every_s: float = LOOK_S
) -> None:
    """Wait until it is so; raises Unavailable beyond the bound."""
    until_s = time.monotonic() + bound_s
    while not await is_so():
        if time.monotonic() > until_s:
            raise Unavailable(what, f"not within {bound_s:g} s")
        await asyncio.sleep(every_s)


async def _said(is_so: object) -> bool:
    return bool(is_so)
