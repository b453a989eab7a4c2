"""A new owner of a shard catches up with its streams, against the real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.links.edge import bus_of, nats_engine, running
from tests.plant.fake_fleet import FakeFleet, battery, dispatch_of, fleet_of

from unisono.base.clock import MovableClock
from unisono.base.instants import NS_PER_S
from unisono.bus.connection import Bus
from unisono.model.registry import RegistryBatch, encode_registry
from unisono.plant.checkpoint import checkpoint
from unisono.plant.state import PlantConfig, PlantState
from unisono.services.realtime import RealtimeSettings, _Loop
from unisono.services.shard_lease import ShardLease

POSITIONS = {"REGISTRY": 0, "REQUESTS": 0, "READINGS": 0, "COMMANDS": 0}


def loop_of(bus: Bus, folder: Path, fleet: FakeFleet, *, epoch: int) -> _Loop:
    """Return an owner four seconds after the fleet's newest cycle."""
    clock = MovableClock(fleet.now_ns + 4 * NS_PER_S)
    lease = ShardLease(None, clock, shard=0, owner="test", duration_s=30.0)  # type: ignore[arg-type]
    lease.epoch = epoch
    settings = RealtimeSettings(shard=0, owner="test", checkpoint_path=folder / "shard-0.ucp", plant=PlantConfig())
    return _Loop(settings, bus, clock, lease)


async def caught_up(loop: _Loop) -> PlantState:
    inbox = loop.inbox
    async with (
        asyncio.timeout(20.0),
        running(inbox.read_registry()),
        running(inbox.read_requests()),
        running(inbox.read_readings()),
        running(inbox.read_commands()),
    ):
        await loop._catch_up()
    loop.close()
    return loop._state


def test_commands_that_left_after_the_checkpoint_are_known_to_the_next_owner(tmp_path: Path) -> None:
    fleet = fleet_of([battery(no, merit=no) for no in range(1, 6)])
    fleet.cycle(dispatch_of(fleet, 12_000.0))
    payload = checkpoint(fleet.state, POSITIONS | {"COMMANDS": 1}, fleet.now_ns, fleet.mono_ns)
    before = len(fleet.frames)
    fleet.cycle()

    async def scenario() -> tuple[PlantState, dict[str, int]]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                for frames in fleet.frames[before - 1 :]:
                    await bus.publish_kept("commands.0.1", frames.encode())
                (tmp_path / "shard-0.ucp").write_bytes(payload)
                loop = loop_of(bus, tmp_path, fleet, epoch=2)
                return await caught_up(loop), loop.inbox.positions

    state, positions = asyncio.run(scenario())
    ours, theirs = fleet.state.fleet.leases, state.fleet.leases
    assert theirs.setpoint_w[:5].tolist()[:3] == [5000.0, 5000.0, 2000.0]
    assert theirs.seq.tolist() == ours.seq.tolist()
    assert positions["COMMANDS"] == 2
    assert state.next_seq > 2 << 32


def test_without_a_checkpoint_the_streams_say_who_holds_what(tmp_path: Path) -> None:
    fleet = fleet_of([battery(no, merit=no) for no in range(1, 6)])
    spec = dispatch_of(fleet, 12_000.0, dispatch_no=7)
    fleet.cycle(spec)
    fleet.cycle()
    records = (*(device.record for device in fleet.devices), *fleet.portfolios)

    async def scenario() -> PlantState:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                await bus.publish_kept("registry.0", encode_registry(RegistryBatch(records)))
                for frames in fleet.frames:
                    await bus.publish_kept("commands.0.1", frames.encode())
                # The oldest of them are gone: they are not waited for.
                await bus.trim("COMMANDS", 2)
                return await caught_up(loop_of(bus, tmp_path, fleet, epoch=2))

    leases = asyncio.run(scenario()).fleet.leases
    assert leases.setpoint_w[:3].tolist() == [5000.0, 5000.0, 2000.0]
    assert set(leases.dispatch_no[:3].tolist()) == {7}


def test_a_stream_whose_messages_have_all_gone_is_not_waited_for(tmp_path: Path) -> None:
    fleet = fleet_of([battery(1)])

    async def scenario() -> PlantState:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                await bus.publish_kept("commands.0.1", fleet.frames[0].encode())
                await bus.trim("COMMANDS", 2)
                return await caught_up(loop_of(bus, tmp_path, fleet, epoch=2))

    assert asyncio.run(scenario()).n_devices == 0
