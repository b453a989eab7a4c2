"""Two live owners of one shard, one of them of an old epoch: gateways and devices obey the new one only.

The old one is the plant's own realtime, held still (SIGSTOP) until its lease has run out. Its successor is a realtime
of another place: a data folder of its own, on the same NATS and PostgreSQL. The judge is the region's ledger.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from asyncio import run
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from sqlalchemy import select
from tests.platform.scene import TOLERANCE_FRAC, Scene, running_scene, stopped, with_bus

from unisono.base.instants import NS_PER_S
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.main.demo.children import wait_until
from unisono.model.batches import CommandFrames
from unisono.model.technology import CommandKind
from unisono.store import leases
from unisono.store.database import open_database
from unisono.store.tables.devices import GATEWAY
from unisono.wire.frames import messages_of
from unisono.wire.topics import Down, down_topic

LEASE_S: Final = 9.0
# The lease, the pause between two attempts to get it, and the start of a process.
SUCCESSION_BOUND_S: Final = 45.0
# A hung owner ends when it runs again: at its next cycle (2 s) or renewal (1.5 s), after the 4 s that a role is given.
END_BOUND_S: Final = 10.0
LATE_TTL_S: Final = 60.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("fencing"), UNISONO_LEASE_S=str(LEASE_S)) as running:
        yield running


def test_a_hung_owner_whose_lease_ran_out_is_obeyed_by_nobody_and_ends(scene: Scene, tmp_path: Path) -> None:
    hung = scene.child("realtime")
    assert epoch_of(scene) == 1
    with elsewhere(scene, tmp_path / "elsewhere"):
        with stopped(hung["pid"]):
            wait_until(lambda: epoch_of(scene) == 2, SUCCESSION_BOUND_S, "a successor's lease")
            assert scene.progress_after(time.time_ns())["epoch"] == 2
            scene.await_delivery()
            n_old = n_frames_of(scene, 1)
            assert n_old, "the hung owner had commanded"

        # It lives again, beside its successor.
        wait_until(lambda: scene.child("realtime")["pid"] != hung["pid"], END_BOUND_S, "the end of the hung owner")
        assert lease_was_lost(scene, hung["pid"])
        scene.await_delivery()
        assert scene.progress_after(time.time_ns())["epoch"] == 2
        assert n_frames_of(scene, 1) == n_old, "it told nobody anything after its lease"
        # The supervisor has started it again: it waits for a lease that is another's.
        assert epoch_of(scene) == 2

        check_late_commands(scene)
    wait_until(lambda: epoch_of(scene) == 3, SUCCESSION_BOUND_S, "the plant's own realtime again")
    assert scene.progress_after(time.time_ns())["epoch"] == 3
    scene.await_delivery()
    assert scene.n_violations() == {}


def check_late_commands(scene: Scene) -> None:
    """The old owner's words, newly stamped so that only the epoch is wrong with them: everybody is told to let go."""
    late = stamped_anew(frames_of(scene, 1), time.time_ns())
    assert len(late) > 10
    truth_before = truth_of(scene)

    # On the stream, as an owner sends them: the front drops them before they reach a gateway.
    run(with_bus(facts_of(scene), lambda bus: bus.publish_kept(subjects.commands(0, late.epoch), late.encode())))
    scene.progress_after(time.time_ns())
    scene.await_delivery()
    assert n_refused(scene) == n_refused_in(truth_before)

    # Past the front, as a broker that kept them would: gateways refuse each and say why.
    n_sent = run(with_bus(facts_of(scene), lambda bus: publish(bus, late, gateway_ids(scene))))
    assert n_sent > 10
    wanted = n_refused_in(truth_before) + n_sent
    wait_until(lambda: n_refused(scene) >= wanted, 10, f"{n_sent} refusals of an old epoch")
    assert n_refused(scene) == wanted
    shares = [scene.status()["true_delivered_w"] / scene.target_w]
    until_ns = time.time_ns() + 5 * NS_PER_S

    def is_over() -> bool:
        shares.append(scene.status()["true_delivered_w"] / scene.target_w)
        return time.time_ns() > until_ns

    wait_until(is_over, 10, "five seconds after")
    assert min(shares) > 1.0 - 2 * TOLERANCE_FRAC, "nobody let go"
    assert truth_of(scene)["n_released"] - truth_before["n_released"] < n_sent / 2
    assert scene.n_violations() == {}


@contextmanager
def elsewhere(scene: Scene, folder: Path) -> Iterator[None]:
    """Run a realtime of another place, which waits for the shard."""
    facts = facts_of(scene)
    environment = os.environ | {
        "UNISONO_DATA_DIR": str(folder),
        "UNISONO_NATS_URL": facts["nats_url"],
        "UNISONO_NATS_USER": facts["core_user"],
        "UNISONO_NATS_PASSWORD": facts["core_password"],
        "UNISONO_DATABASE_URL": facts["database_url"],
        "UNISONO_METRICS_PORT": "0",
        "UNISONO_CYCLE_S": "2",
        "UNISONO_LEASE_S": str(LEASE_S),
    }
    folder.mkdir()
    with (folder / "out").open("wb") as output:
        command = [sys.executable, "-m", "unisono.main.roles", "realtime"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)
        try:
            wait_until((folder / "log/realtime.log").exists, 60, "a realtime elsewhere")
            assert process.poll() is None, (folder / "out").read_text()
            yield
            assert process.poll() is None, (folder / "out").read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def facts_of(scene: Scene) -> dict[str, Any]:
    facts: dict[str, Any] = wait_until(scene.plant.run_facts, 5, "run.json")
    return facts


def epoch_of(scene: Scene) -> int:
    """The shard's epoch, as PostgreSQL has it."""
    with open_database(facts_of(scene)["database_url"], name="fencing") as database, database.begin() as connection:
        lease = leases.current(connection, 0)
        assert lease is not None
        return lease.epoch


def gateway_ids(scene: Scene) -> dict[int, str]:
    """The gateways that are pushed to, by number."""
    with open_database(facts_of(scene)["database_url"], name="fencing") as database, database.begin() as connection:
        pushed = select(GATEWAY.c.gateway_no, GATEWAY.c.gateway_id).where(GATEWAY.c.link == "mqtt")
        return {row.gateway_no: row.gateway_id for row in connection.execute(pushed)}


def lease_was_lost(scene: Scene, pid: int) -> bool:
    """Whether the journal of the plant's realtime says so."""
    lines = map(json.loads, (scene.folder / "log/realtime.log").read_text().splitlines())
    return any("is lost; this owner stops" in str(line.get("why")) for line in lines)


def frames_of(scene: Scene, epoch: int) -> list[CommandFrames]:
    """All that an owner has on the stream."""

    async def read(bus: Bus) -> list[CommandFrames]:
        last_seq = await bus.last_seq_of("COMMANDS", subjects.commands(0, epoch))
        reader = bus.reader("COMMANDS", subjects.commands(0, epoch), 1)
        found, seq = [], 0
        while seq < last_seq:
            for message in await reader.take(500, 1.0):
                seq = message.seq
                found.append(CommandFrames.decode(message.payload))
        await reader.close()
        return found

    frames: list[CommandFrames] = run(with_bus(facts_of(scene), read))
    return frames


def n_frames_of(scene: Scene, epoch: int) -> int:
    return len(frames_of(scene, epoch))


def stamped_anew(frames: list[CommandFrames], now_ns: int) -> CommandFrames:
    """One release for everybody whom the owner had called, in its epoch, with sequences that nobody has seen."""
    columns = {name: np.concatenate([getattr(one, name) for one in frames]) for name in CommandFrames.DTYPES}
    called, at = np.unique(columns["device_no"], return_index=True)
    rows = {name: column[at[called >= 0]] for name, column in columns.items()}
    n = int((called >= 0).sum())
    rows["seq"] = int(columns["seq"].max()) + 1 + np.arange(n)
    rows["kind"] = np.full(n, int(CommandKind.RELEASE))
    rows["value"] = np.zeros(n)
    rows["start_ns"] = np.full(n, now_ns)
    rows["expires_ns"] = np.full(n, now_ns + round(LATE_TTL_S * NS_PER_S))
    header = {"shard": 0, "epoch": frames[-1].epoch, "cycle": frames[-1].cycle + 1, "issued_ns": now_ns}
    return dataclasses.replace(CommandFrames.of_columns(header, rows))


async def publish(bus: Bus, frames: CommandFrames, id_of_no: dict[int, str]) -> int:
    """Send to the gateways that a broker pushes to; return how many commands that were."""
    n = 0
    pushed = [one for one in messages_of(frames, frames.issued_ns) if one.gateway_no in id_of_no]
    for outgoing in pushed:
        topic = down_topic(id_of_no[outgoing.gateway_no], Down.FRAME)
        await bus.publish(topic.replace("/", "."), outgoing.payload)
        n += int((frames.gateway_no == outgoing.gateway_no).sum())
    await bus.flush()
    return n


def truth_of(scene: Scene) -> dict[str, Any]:
    assert scene.region is not None
    return scene.region.ask_truth()


def n_refused_in(truth: dict[str, Any]) -> int:
    return int(truth["n_commands_by_answer"].get("refused_old_epoch", 0))


def n_refused(scene: Scene) -> int:
    return n_refused_in(truth_of(scene))
