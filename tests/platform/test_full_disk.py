"""A disk fills up under a whole platform: first it is said, then nothing new is accepted, and with room all goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.disk import MIB, fill, small_disk
from tests.platform.scene import Scene, n_kept, running_scene

from unisono.main.demo.children import wait_until
from unisono.services.alarms import DISK_FILLING

DISK_MIB = 1024
# An alarm is looked for each 5 s, and raised when it has been so for 15 s; it clears after 30 s.
ALARM_BOUND_S = 40.0
FULL_S = 12.0
# The server is found stuck within 5 s, started again, and gateways come back.
BACK_BOUND_S = 60.0


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("full") / "disk", DISK_MIB) as mounted:
        yield mounted


@pytest.fixture(scope="module")
def scene(disk: Path) -> Iterator[Scene]:
    with running_scene(disk) as running:
        yield running


def test_a_disk_that_fills_up_is_said_first_then_stops_acceptance_and_loses_nothing(scene: Scene, disk: Path) -> None:
    gateway = own_gateway(scene)
    assert not open_alarms(scene)
    ballast = fill(disk, DISK_MIB * MIB // 8)
    wait_until(lambda: open_alarms(scene), ALARM_BOUND_S, "the alarm, while everything still goes on")
    assert posted(scene, gateway).status_code == httpx.codes.ACCEPTED
    n_before = scene.n_acknowledged()
    wait_until(lambda: scene.n_acknowledged() > n_before, 10, "acknowledgements with little room")

    fill(disk, DISK_MIB * MIB // 100)
    refused = posted(scene, gateway)
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "the disk of the streams" in refused.json()["detail"], refused.text
    assert "is full" in refused.json()["detail"]
    assert "Retry-After" in refused.headers

    # To its last byte: the broker itself can't keep what it is sent.
    fill(disk, 0)
    until_s = time.monotonic() + FULL_S
    seen = [scene.n_acknowledged()]

    def is_over() -> bool:
        fill(disk, 0)
        seen.append(scene.n_acknowledged())
        return time.monotonic() > until_s

    wait_until(is_over, 2 * FULL_S, "a while without room", every_s=1.0)
    assert seen[-1] == seen[-4], "nothing is acknowledged that can't be kept"

    ballast.unlink()
    wait_until(lambda: scene.n_acknowledged() > seen[-1] + 100, BACK_BOUND_S, "acknowledgements again")
    assert posted(scene, gateway).status_code == httpx.codes.ACCEPTED
    scene.progress_after(time.time_ns())
    scene.await_delivery()
    assert scene.n_violations() == {}
    n_acknowledged = scene.n_acknowledged() + 2
    wait_until(lambda: n_kept(scene) >= n_acknowledged, 20, f"{n_acknowledged} acknowledged readings")
    assert scene.client.get("/v1/log/verification")["is_whole"]
    wait_until(lambda: not open_alarms(scene), 2 * ALARM_BOUND_S, "the end of the alarm")


def open_alarms(scene: Scene) -> list[dict[str, Any]]:
    return [one for one in scene.client.get("/v1/alarms")["items"] if one["kind"] == DISK_FILLING]


def own_gateway(scene: Scene) -> dict[str, Any]:
    """Enrol one battery behind a gateway on HTTP; return its line of the result, with the secret."""
    line = {
        "partner_reference": "full-disk",
        "asset_type": "bess",
        "zip": "94107",
        "gateway_reference": "full-disk",
        "max_discharge_kw": 5,
        "max_charge_kw": 5,
        "capacity_kwh": 13.5,
        "link": "http",
    }
    job = scene.client.send("/v1/vpp/enrolments", json.dumps(line).encode(), "application/x-ndjson")
    wait_until(lambda: scene.client.get(job["status_url"])["state"] == "completed", 20, "the enrolment")
    enrolled: dict[str, Any] = json.loads(next(iter(scene.client.lines(job["result_url"]))))
    wait_until(lambda: posted(scene, enrolled).status_code != httpx.codes.UNAUTHORIZED, 10, "the front to know it")
    return enrolled


def posted(scene: Scene, gateway: dict[str, Any]) -> httpx.Response:
    """Send one reading."""
    facts = wait_until(scene.plant.run_facts, 5, "run.json")
    now_ms = time.time_ns() // 10**6
    reading = {"id": gateway["device_id"], "ts": now_ms, "p": 1.0}
    return httpx.post(
        f"{facts['telemetry_url']}/v1/telemetry",
        json={"seq": now_ms, "readings": [reading]},
        headers={"Authorization": f"Bearer {gateway['gateway_id']}.{gateway['gateway_secret']}"},
        timeout=30,
    )
