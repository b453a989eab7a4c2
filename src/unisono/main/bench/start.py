"""A platform with a million devices enrolled is stopped, and started again to a true picture.

Measured from the start of the process until three things hold: the API says that realtime has every device, it shows a
portfolio's totals that are not stale, and the front takes a reading in. Checked against what was there before the stop:
the totals of portfolios, and every column of what the devices are, of all of them, from the checkpoints.

Besides: for how long a checkpoint holds the worker that runs the cycles, by copying that state here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np

from unisono.base.errors import Unavailable
from unisono.fleet.table import FleetTable
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure, best_s
from unisono.main.bench.plant import SETTLE_TIMEOUT_S, BenchPlant, fleet, fresh_folder, say
from unisono.main.client import Refused
from unisono.main.demo.children import wait_until
from unisono.plant.checkpoint import PIECE_BYTES, Carried, Image
from unisono.plant.state import PlantState

N_DEVICES: Final = 1_000_000
TARGET_S: Final = 20.0
# A cycle of 4 s wants to be done in 300 ms; a third of that may be the checkpoint's.
HELD_MS_MAX: Final = 100.0
# Members of the portfolios that are looked at.
N_HEARD: Final = 500
N_VIEWED: Final = 5_000
# What each of them says that it draws; cars and thermostats, which can.
LOAD_W: Final = -125.0
# What has to be equal before and after: readings of a kWh register apart, all that the API says of power and capacity.
_TOTALS: Final = ("n_devices", "enrolled_kw", "enrolled_kwh", "by_lifecycle", "enrolled_by_technology")
_POWERS: Final = ("power_kw", "reported_kw", "measured_kw")


def bench(options: BenchOptions) -> BenchResult:
    """Enrol, stop, start, compare."""
    n_lines = options.n_devices or N_DEVICES
    told, good = fleet(n_lines)
    fresh_folder(options.folder)
    plant = BenchPlant(options.folder)
    try:
        plant.connect()
        plant.enrol(told)
        wait_until(lambda: plant.n_in_realtime() >= len(good), SETTLE_TIMEOUT_S, "realtime with every device", 0.1)
        probe = _Probe(plant)
        before, saved = probe.picture(), plant.saved(len(good))
        plant.stop()
        say(f"stopped; starting with {len(good):,} devices")
        plant = BenchPlant(options.folder)
        start_s = probe.follow(plant, len(good))
        after, restarted = probe.picture(), plant.saved(len(good))
        return _result(plant, probe, start_s, (before, after), (saved, restarted))
    finally:
        plant.stop()
        shutil.rmtree(options.folder)


def _result(
    plant: BenchPlant,
    probe: _Probe,
    start_s: dict[str, float],
    pictures: tuple[dict[str, Any], dict[str, Any]],
    states: tuple[PlantState, PlantState],
) -> BenchResult:
    before, after = (state.fleet for state in states)
    begun_s = best_s(lambda: Image(states[1], Carried(), 0, 0))
    settled_s = best_s(lambda: Image(states[1], Carried(), 0, 0).settle())
    source, room = np.ones(PIECE_BYTES, np.uint8), np.ones(PIECE_BYTES, np.uint8)
    piece_s = best_s(lambda: np.copyto(room, source))
    copy = plant.folder / "copy.bin"
    written_s = _written_s(Image(states[1], Carried(), 0, 0), copy)
    return BenchResult(
        name="start",
        figures=(
            Figure(name="start", value=max(start_s.values()), unit="s", target=TARGET_S),
            Figure(name="held by a checkpoint", value=1e3 * (begun_s + piece_s), unit="ms", target=HELD_MS_MAX),
            Figure(
                name="held by a checkpoint of which nothing is written when the next cycle begins",
                value=1e3 * settled_s,
                unit="ms",
                target=HELD_MS_MAX,
                reference=1e3 * piece_s * copy.stat().st_size / PIECE_BYTES,
                reference_name="one copy of as many bytes, numpy",
            ),
        ),
        checks={
            "the totals are what they were": pictures[0] == pictures[1],
            "the totals are of what was sent": pictures[1]["heard"]["reported_kw"] == probe.sent_kw,
            "every device is what it was": _same_nameplates(before, after),
            "every device's newest reading is what it was": np.array_equal(
                before.slots.power_w[:, : before.n_devices], after.slots.power_w[:, : after.n_devices], equal_nan=True
            ),
        },
        sizes={"devices": after.n_devices, "sites": after.n_sites, "gateways": after.n_gateways - 1},
        details={
            **{f"{name}_s": seconds for name, seconds in start_s.items()},
            "checkpoint_mb": copy.stat().st_size / 1e6,
            "checkpoint_to_disk_s": written_s,
            "realtime_mb": plant.rss_mb("realtime"),
            "realtime_peak_mb": plant.rss_mb("realtime", "VmHWM"),
            "front_mb": plant.rss_mb("front"),
        },
    )


class _Probe:
    """Two portfolios and a gateway of the fleet, to see whether the plant is there."""

    def __init__(self, plant: BenchPlant) -> None:
        self._api = plant.api
        query = (
            "SELECT gateway_no, gateway_id FROM gateway JOIN device USING (gateway_no)"
            " WHERE link = 'http' AND technology IN (3, 6)"
            " GROUP BY gateway_no, gateway_id ORDER BY count(*) DESC, gateway_no LIMIT 1"
        )
        gateway_no, self._gateway_id = plant.rows(query)[0]
        members = (
            "SELECT device_id FROM device WHERE gateway_no = %s AND technology IN (3, 6) ORDER BY device_no LIMIT %s"
        )
        self._ids = [row[0] for row in plant.rows(members, gateway_no, N_HEARD)]
        self._secret = self._api.post(f"/v1/gateways/{self._gateway_id}/rotate-secret")["gateway_secret"]
        every_nth = 1 + plant.n_in_realtime() // N_VIEWED
        self._urls = {
            name: self._api.post("/v1/vpp/portfolios", {"name": name, "members": members})["status_url"]
            for name, members in {"heard": self._ids, "viewed": [{"every_nth": every_nth}]}.items()
        }
        self.sent_kw = LOAD_W * len(self._ids) / 1000.0
        readings = [{"id": device_id, "p": LOAD_W} for device_id in self._ids]
        wait_until(lambda: self._is_taken(plant, readings), SETTLE_TIMEOUT_S, "the front with the new secret")
        wait_until(self._is_heard, SETTLE_TIMEOUT_S, "a picture with the readings")

    def picture(self) -> dict[str, Any]:
        """Return what the API says of both portfolios, ages aside."""
        told = {name: self._api.get(url) for name, url in self._urls.items()}
        return {
            name: {field: status[field] for field in _TOTALS} | {field: status["power"][field] for field in _POWERS}
            for name, status in told.items()
        }

    def follow(self, plant: BenchPlant, n_devices: int) -> dict[str, float]:
        """Return for each thing after how many seconds it was first seen."""
        seen_s: dict[str, float] = {}
        plant.connect()
        seen_s["api"] = time.perf_counter() - plant.started_s
        self._api = plant.api
        looks: dict[str, Callable[[], bool]] = {
            "every device": lambda: plant.n_in_realtime() == n_devices,
            "totals": self._is_heard,
            "front": lambda: self._is_taken(plant, [{"id": self._ids[0], "p": LOAD_W}]),
        }

        def all_seen() -> bool:
            for name, look in looks.items():
                if name not in seen_s and look():
                    seen_s[name] = time.perf_counter() - plant.started_s
                    say(f"{seen_s[name]:.1f} s: {name}")
            return len(seen_s) > len(looks)

        wait_until(all_seen, SETTLE_TIMEOUT_S, "the plant", 0.05)
        return seen_s

    def _is_heard(self) -> bool:
        try:
            statuses = [self._api.get(url) for url in self._urls.values()]
        except (Refused, Unavailable):
            return False
        is_sent = statuses[0]["power"]["reported_kw"] == self.sent_kw
        return is_sent and not any(status["stale"] for status in statuses)

    def _is_taken(self, plant: BenchPlant, readings: Sequence[dict[str, Any]]) -> bool:
        """Send readings as the gateway and return whether all of them were accepted."""
        now_ns = time.time_ns()
        told = [{**one, "ts": now_ns // 1_000_000} for one in readings]
        body = msgspec.json.encode({"seq": now_ns // 1000, "readings": told})
        headers = {
            "Authorization": f"Bearer {self._gateway_id}.{self._secret}",
            "Content-Type": "application/json",
        }
        try:
            answer = httpx.post(f"{plant.facts['telemetry_url']}/v1/telemetry", content=body, headers=headers)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.ACCEPTED and answer.json()["accepted"] == len(readings)


def _same_nameplates(before: FleetTable, after: FleetTable) -> bool:
    n = before.n_devices
    names = before.nameplate._fields
    columns = [(getattr(before.nameplate, name)[:n], getattr(after.nameplate, name)[:n]) for name in names]
    return (
        n == after.n_devices
        and all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in columns)
        and np.array_equal(before.device_ids[:n], after.device_ids[:n])
        and before.organisations == after.organisations
    )


def _written_s(image: Image, path: Path) -> float:
    """Return how long the writer's part takes: copies, CRC and file, without the sync."""
    began_s = time.perf_counter()
    with path.open("wb") as file:
        image.write(file)
    return time.perf_counter() - began_s
