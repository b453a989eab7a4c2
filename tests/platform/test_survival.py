"""A whole platform with a simulated region loses each of its processes in turn, while a dispatch is under way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import func, select
from tests.platform.scene import (
    ACTIVE_BOUND_S,
    RESTART_BOUND_S,
    TOLERANCE_FRAC,
    Scene,
    batches_of,
    n_kept,
    running_scene,
    stopped,
    with_bus,
)

from unisono.base.instants import parse_rfc3339
from unisono.main.demo.children import wait_until
from unisono.services.historian import position_name
from unisono.store import positions
from unisono.store.database import open_database
from unisono.store.tables.records import HISTORY_FILE

AWAY_S: Final = 10.0
# An alarm clears when what was wrong has been gone for 30 s.
ALARM_BOUND_S: Final = 60.0
ROLES: Final = ("realtime", "front", "historian", "web")
ENGINES: Final = ("nats", "postgres")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("survival")) as running:
        yield running


def test_the_first_owner_delivers_what_was_called(scene: Scene) -> None:
    progress = scene.progress_after(time.time_ns())
    assert progress["epoch"] == 1
    assert scene.n_violations() == {}


@pytest.mark.parametrize("name", [*ROLES, *ENGINES])
def test_a_killed_process_is_replaced_and_the_dispatch_goes_on(scene: Scene, name: str) -> None:
    before, epoch = scene.child(name), scene.progress_after(time.time_ns())["epoch"]
    os.kill(before["pid"], signal.SIGKILL)
    killed_ns = time.time_ns()

    wait_until(lambda: scene.child(name)["pid"] != before["pid"], RESTART_BOUND_S, f"another {name}", every_s=0.05)
    after = scene.progress_after(killed_ns)

    assert scene.child(name)["n_restarts"] == before["n_restarts"] + 1, "once is enough"
    assert after["epoch"] == epoch + (name == "realtime"), "a new owner, and only a new owner, counts up"
    scene.await_delivery()
    _check_nothing_is_lost(scene)


@pytest.mark.parametrize("names", [("nats",), ("postgres",), ("nats", "postgres"), ("historian",)])
def test_what_hangs_for_ten_seconds_is_hardly_noticed(scene: Scene, names: tuple[str, ...]) -> None:
    before, epoch = {name: scene.child(name) for name in names}, scene.progress_after(time.time_ns())["epoch"]
    with ExitStack() as hung:
        for child in before.values():
            hung.enter_context(stopped(child["pid"]))
        until_s = time.monotonic() + AWAY_S
        shares = [scene.status()["true_delivered_w"] / scene.target_w]

        def is_over() -> bool:
            shares.append(scene.status()["true_delivered_w"] / scene.target_w)
            return time.monotonic() > until_s

        wait_until(is_over, 2 * AWAY_S, f"{AWAY_S:g} s without {' and '.join(names)}")
    back_ns = time.time_ns()

    assert scene.progress_after(back_ns)["epoch"] == epoch, "leases bridge it: the owner stays"
    assert {name: scene.child(name) for name in names} == before, "nobody had to be started again"
    assert min(shares) > 1.0 - 2 * TOLERANCE_FRAC, "devices went on meanwhile"
    scene.await_delivery()
    _check_nothing_is_lost(scene)


def test_no_alarm_is_left_standing(scene: Scene) -> None:
    wait_until(lambda: not scene.client.get("/v1/alarms")["items"], ALARM_BOUND_S, "the end of all alarms")


def test_every_cycle_is_on_record_once(scene: Scene) -> None:
    now_ns = time.time_ns()

    def recorded() -> list[dict[str, Any]] | None:
        rows = scene.client.pages(f"/v1/vpp/dispatches/{scene.dispatch_id}/outcome")
        return rows if any(parse_rfc3339(row["at"]) > now_ns for row in rows) else None

    rows = wait_until(recorded, ACTIVE_BOUND_S, "the record of a present cycle")
    keys = [(row["epoch"], row["cycle"]) for row in rows]
    assert len(keys) == len(set(keys))
    for epoch in {epoch for epoch, _ in keys}:
        cycles = sorted(cycle for of, cycle in keys if of == epoch)
        assert cycles == list(range(cycles[0], cycles[-1] + 1)), f"none of epoch {epoch} is missing"


def test_history_holds_each_reading_of_the_stream_once(scene: Scene) -> None:
    facts = wait_until(scene.plant.run_facts, 5, "run.json")
    database = open_database(facts["database_url"], name="survival")
    consumer = asyncio.run(with_bus(facts, lambda bus: position_name(bus, "historian", "READINGS")))
    in_use = (HISTORY_FILE.c.kind == "readings") & HISTORY_FILE.c.retired_at_ns.is_(None)

    def unmoved() -> tuple[int, int] | None:
        with database.begin() as connection:
            seq = positions.get(connection, consumer)
            n_rows = connection.execute(select(func.sum(HISTORY_FILE.c.n_rows)).where(in_use)).scalar_one()
            return (seq, int(n_rows)) if seq and seq == positions.get(connection, consumer) else None

    try:
        # A file is written each half minute at the latest.
        through_seq, n_in_files = wait_until(unmoved, 40, "a file of readings")
    finally:
        database.close()
    batches = asyncio.run(with_bus(facts, batches_of))
    assert n_in_files == sum(len(batch) for seq, batch in batches if seq <= through_seq)


def _check_nothing_is_lost(scene: Scene) -> None:
    """No limit broken at a device, no acknowledged reading gone, no entry of the event log changed."""
    assert scene.n_violations() == {}
    n_acknowledged = scene.n_acknowledged()
    # The broker's own stream may be a moment ahead of ours.
    wait_until(lambda: n_kept(scene) >= n_acknowledged, 10, f"{n_acknowledged} acknowledged readings")
    verified = scene.client.get("/v1/log/verification")
    assert verified["is_whole"], verified["problem"]


def test_the_platform_ends_when_told(scene: Scene) -> None:
    pids = [child["pid"] for child in json.loads((scene.folder / "run.json").read_text())["children"].values()]
    scene.end()
    assert scene.plant.process.returncode == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
