"""A whole platform of two shards over the same engines delivers a dispatch together, and outlives one's owner."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.platform.scene import ACTIVE_BOUND_S, N_DEVICES, RESTART_BOUND_S, Scene, n_kept, running_scene

from unisono.base.instants import parse_rfc3339
from unisono.main.demo.children import wait_until

NAMES = ("realtime", "realtime-1")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("shards"), UNISONO_SHARDS="2") as running:
        yield running


def progress_after(scene: Scene, instant_ns: int) -> dict[int, dict[str, Any]]:
    """Both shards' progress, in cycles that ran after the instant."""

    def seen() -> dict[int, dict[str, Any]] | None:
        shown = scene.client.get(f"/v1/vpp/dispatches/{scene.dispatch_id}")["progress"]
        new = {row["shard"]: row for row in shown if parse_rfc3339(row["as_of"]) > instant_ns}
        return new if set(new) == {0, 1} else None

    found: dict[int, dict[str, Any]] = wait_until(seen, ACTIVE_BOUND_S, "a cycle of both shards")
    return found


def test_two_shards_deliver_one_target(scene: Scene) -> None:
    progress = progress_after(scene, time.time_ns())
    assert sum(row["target_kw"] for row in progress.values()) == pytest.approx(scene.target_w / 1e3, rel=0.02)
    assert min(row["target_kw"] for row in progress.values()) > 0.1 * scene.target_w / 1e3
    assert len({row["epoch"] for row in progress.values()}) == 2
    assert scene.n_violations() == {}


def test_devices_of_both_shards_are_seen(scene: Scene) -> None:
    states = list(scene.client.pages("/v1/devices/states"))
    numbers = [state["device_no"] for state in states]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == N_DEVICES
    one = scene.client.get(f"/v1/devices/{states[-1]['device_id']}")
    assert one["now"] is not None


def test_the_owner_of_one_shard_is_killed_and_the_target_is_kept(scene: Scene) -> None:
    before, pids = progress_after(scene, time.time_ns()), [scene.child(name)["pid"] for name in NAMES]
    os.kill(pids[1], signal.SIGKILL)
    killed_ns = time.time_ns()

    wait_until(lambda: scene.child(NAMES[1])["pid"] != pids[1], RESTART_BOUND_S, "another owner", every_s=0.05)
    after = progress_after(scene, killed_ns)

    assert scene.child(NAMES[0])["pid"] == pids[0]
    assert after[0]["epoch"] == before[0]["epoch"], "the other goes on"
    assert after[1]["epoch"] > max(row["epoch"] for row in before.values()), "epochs differ over the plant"
    scene.await_delivery()
    assert scene.n_violations() == {}
    n_acknowledged = scene.n_acknowledged()
    wait_until(lambda: n_kept(scene) >= n_acknowledged, 10, f"{n_acknowledged} acknowledged readings")
