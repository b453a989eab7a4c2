"""A whole platform with a simulated region and one dispatch under way, as tests of the platform share it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from unisono.base.errors import Unavailable
from unisono.base.instants import format_rfc3339, parse_rfc3339
from unisono.bus.connection import Bus, connect
from unisono.main.client import ApiClient
from unisono.main.demo.children import PlantProcess, RegionProcess, wait_until
from unisono.model.batches import ReadingBatch

N_DEVICES: Final = 200
# A first start after a change of kernels compiles them.
START_TIMEOUT_S: Final = 300.0
# From the kill until the supervisor's word that the child runs again, and until a cycle after the kill is shown by the
# API with the dispatch active. On an idle machine: 0.3 to 0.6 s (PostgreSQL 2.7 s), and 1 to 5 s.
RESTART_BOUND_S: Final = 10.0
ACTIVE_BOUND_S: Final = 20.0
# The true power is back within TOLERANCE_FRAC of the target, and stays there for STEADY_STEPS of the region's seconds.
TOLERANCE_FRAC: Final = 0.10
STEADY_STEPS: Final = 3
STEADY_BOUND_S: Final = 45.0
DISPATCH_S: Final = 900.0
RAMP_S: Final = 4.0
# As fast as a small region can follow; vendor clouds that ask twice a minute would only make the test wait.
WORLD: Final = {
    "seed": 3,
    "n_devices": N_DEVICES,
    # Singles at QoS 0 carry no promise: without them every reading counts.
    "single_gateway_frac": 0.0,
    "network": {"cloud_poll_s": [3.0, 4.0, 5.0]},
}
ENVIRONMENT: Final = {"UNISONO_CYCLE_S": "2"}


class Scene:
    """The platform, the region, and one dispatch under way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "plant"
        self.plant = PlantProcess(self.folder)
        self._clients: list[ApiClient] = []
        self.region: RegionProcess | None = None
        self.target_w = 0.0
        self.dispatch_id = ""

    def begin(self) -> None:
        facts = wait_until(self.plant.run_facts, START_TIMEOUT_S, "the platform", every_s=0.05)
        self.client = ApiClient(facts["api_url"], self.plant.admin_key())
        self._clients.append(self.client)
        wait_until(self.client.is_ready, START_TIMEOUT_S, "the platform", every_s=0.05)
        self.region = RegionProcess(
            {
                "world": WORLD,
                "api_url": facts["api_url"],
                "api_key": self.plant.admin_key(),
                "mqtt_host": facts["mqtt_host"],
                "mqtt_port": facts["mqtt_port"],
                "telemetry_url": facts["telemetry_url"],
            },
            self.folder,
        )
        wait_until(lambda: self.status().get("phase") == "running", START_TIMEOUT_S, "the region")
        portfolio = self.client.post("/v1/vpp/portfolios", {"name": "Region", "members": [{"lifecycle": "active"}]})
        path = f"/v1/vpp/portfolios/{portfolio['portfolio_id']}"
        wait_until(lambda: _is_true_picture(self.client.get(f"{path}/status")), 60, "a true picture")
        self.target_w = round(0.5 * self.status()["true_deliverable_up_w"], -3)
        start = datetime.now(UTC) + timedelta(seconds=2)
        asked = {
            "kind": "change_kw",
            "target_kw": self.target_w / 1e3,
            "start": start.isoformat(),
            "end": (start + timedelta(seconds=DISPATCH_S)).isoformat(),
            "ramp_s": RAMP_S,
        }
        self.dispatch_id = self.client.post(f"{path}/dispatches", asked)["dispatch_id"]
        self.await_delivery()

    def end(self) -> None:
        if self.region is not None:
            self.region.stop()
        for client in self._clients:
            client.close()
        self.plant.stop()

    def status(self) -> dict[str, Any]:
        """The region's own word about the present second."""
        assert self.region is not None
        self.region.check()
        return self.region.status

    def child(self, name: str) -> dict[str, Any]:
        """A child's pid and restarts, as the supervisor says."""
        facts = wait_until(self.plant.run_facts, 5, "run.json")
        child: dict[str, Any] = facts["children"][name]
        return child

    def progress(self) -> dict[str, Any] | None:
        """What the API shows of the dispatch; None while it can't be asked."""
        try:
            shown = self.client.get(f"/v1/vpp/dispatches/{self.dispatch_id}")
        except (Unavailable, httpx.HTTPError):
            return None
        return shown["progress"][0] if shown["progress"] and shown["state"] == "active" else None

    def progress_after(self, instant_ns: int) -> dict[str, Any]:
        """The progress of a cycle that ran after ``instant_ns``; it must come within the bound."""

        def seen() -> dict[str, Any] | None:
            progress = self.progress()
            is_new = progress is not None and parse_rfc3339(progress["as_of"]) > instant_ns
            return progress if is_new and progress is not None and progress["state"] == "active" else None

        found: dict[str, Any] = wait_until(seen, ACTIVE_BOUND_S, f"a cycle after {format_rfc3339(instant_ns)}")
        return found

    def await_delivery(self) -> None:
        """Wait until the region's meters show the target, second after second."""
        steady: dict[int, float] = {}

        def is_steady() -> bool:
            status = self.status()
            share = status["true_delivered_w"] / self.target_w
            if abs(share - 1.0) > TOLERANCE_FRAC:
                steady.clear()
            else:
                steady[status["at_ns"]] = share
            return len(steady) > STEADY_STEPS

        wait_until(is_steady, STEADY_BOUND_S, f"{self.target_w / 1e3:g} kW within {TOLERANCE_FRAC:.0%}")

    def n_violations(self) -> dict[str, int]:
        assert self.region is not None
        found: dict[str, int] = self.region.ask_truth()["n_violations"]
        return {name: n for name, n in found.items() if n}

    def n_acknowledged(self) -> int:
        """Readings that gateways and clouds have been told are kept, since the region's beginning."""
        assert self.region is not None
        return int(self.region.ask_truth()["counters"]["readings_acknowledged"])


@contextmanager
def running_scene(folder: Path, **settings: str) -> Iterator[Scene]:
    """Begin it with these settings besides (names as in the environment), and end it."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (ENVIRONMENT | settings).items():
            patched.setenv(name, value)
        scene = Scene(folder)
    try:
        scene.begin()
        yield scene
    finally:
        scene.end()


async def with_bus(facts: dict[str, Any], ask: Callable[[Bus], Any]) -> Any:
    bus = await connect(facts["nats_url"], facts["core_user"], facts["core_password"], "survival")
    try:
        return await ask(bus)
    finally:
        await bus.close()


def n_kept(scene: Scene) -> int:
    """Different readings on the stream: repetitions by gateways and fronts count once, restarts reset nothing."""
    facts = wait_until(scene.plant.run_facts, 5, "run.json")
    kept: set[tuple[int, int]] = set()
    for _, batch in asyncio.run(with_bus(facts, batches_of)):
        kept.update(zip(batch.device_no.tolist(), batch.measured_ns.tolist(), strict=True))
    return len(kept)


async def batches_of(bus: Bus) -> list[tuple[int, ReadingBatch]]:
    """Every batch of readings on the stream, with its sequence."""
    last_seq = await bus.last_seq("READINGS")
    reader = bus.reader("READINGS", "readings.*", 1)
    found, seq = [], 0
    while seq < last_seq:
        for message in await reader.take(500, 1.0):
            seq = message.seq
            if message.payload[:4] == ReadingBatch.MAGIC:
                found.append((seq, ReadingBatch.decode(message.payload)))
    await reader.close()
    return found


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process and its children (PostgreSQL's backends are groups of their own) still."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pids = [pid, *map(int, children)]
    for one in pids:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in reversed(pids):
            os.kill(one, signal.SIGCONT)


def _is_true_picture(status: dict[str, Any]) -> bool:
    return (status["completeness_frac"] or 0.0) >= 0.95 and (status["dispatchable_capacity_kw"] or 0.0) > 0.0
