"""A new owner of a shard catches up with its streams, against the real server."""

from __future__ import annotations

import asyncio
import zlib
from pathlib import Path

import msgspec
import pytest
from tests.links.edge import bus_of, nats_engine, running, until
from tests.plant.fake_fleet import FakeFleet, battery, dispatch_of, fleet_of

from unisono.base.clock import MovableClock
from unisono.base.instants import NS_PER_S
from unisono.bus.connection import Bus
from unisono.bus.consumers import KeptMessage
from unisono.model.dispatch import TargetPoint, encode_request
from unisono.model.registry import RegistryBatch, encode_registry
from unisono.model.totals import OutcomeBatch
from unisono.plant.checkpoint import Carried, _arrays, checkpoint, restore
from unisono.plant.state import PlantConfig, PlantState
from unisono.services.checkpoints import newest
from unisono.services.realtime import RealtimeSettings, _Loop
from unisono.services.shard_lease import ShardLease


def loop_of(bus: Bus, folder: Path, fleet: FakeFleet, *, epoch: int) -> _Loop:
    """Return an owner four seconds after the fleet's newest cycle."""
    clock = MovableClock(fleet.now_ns + 4 * NS_PER_S)
    lease = ShardLease(None, clock, shard=0, owner="test", duration_s=30.0)  # type: ignore[arg-type]
    lease.epoch = epoch
    settings = RealtimeSettings(shard=0, owner="test", checkpoint_path=folder / "shard-0.ucp", plant=PlantConfig())
    return _Loop(settings, bus, clock, lease)


async def catch_up(loop: _Loop) -> None:
    inbox = loop.inbox
    async with (
        asyncio.timeout(20.0),
        running(inbox.read_registry()),
        running(inbox.read_requests()),
        running(inbox.read_readings()),
        running(inbox.read_commands()),
    ):
        await loop._catch_up()


async def caught_up(loop: _Loop) -> PlantState:
    await catch_up(loop)
    loop.close()
    return loop._state


def test_commands_that_left_after_the_checkpoint_are_known_to_the_next_owner(tmp_path: Path) -> None:
    fleet = fleet_of([battery(no, merit=no) for no in range(1, 6)])
    fleet.cycle(dispatch_of(fleet, 12_000.0))
    payload = checkpoint(fleet.state, Carried({"COMMANDS": 1}), fleet.now_ns, fleet.mono_ns)
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


def test_what_is_on_the_streams_for_another_shard_is_not_waited_for(tmp_path: Path) -> None:
    fleet = fleet_of([battery(1)])
    registry = encode_registry(RegistryBatch((fleet.devices[0].record,)))

    async def scenario() -> PlantState:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                for shard in (0, 1):
                    await bus.publish_kept(f"registry.{shard}", registry)
                await bus.publish_kept("commands.1.1", fleet.frames[0].encode())
                return await caught_up(loop_of(bus, tmp_path, fleet, epoch=2))

    assert asyncio.run(scenario()).n_devices == 1


def test_a_damaged_last_message_is_gone_past(tmp_path: Path) -> None:
    fleet = fleet_of([battery(1)])

    async def scenario() -> dict[str, int]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                for stream in ("registry", "requests", "readings", "commands.1"):
                    name, *epoch = stream.split(".")
                    await bus.publish_kept(".".join([name, "0", *epoch]), b"\xc1 of no code of ours")
                loop = loop_of(bus, tmp_path, fleet, epoch=2)
                await caught_up(loop)
                assert loop.inbox.n_damaged == 4
                return loop.inbox.positions

    assert asyncio.run(scenario()) == dict.fromkeys(("REGISTRY", "REQUESTS", "READINGS", "COMMANDS"), 1)


def test_streams_that_were_made_anew_after_the_checkpoint_are_read_from_their_start(tmp_path: Path) -> None:
    fleet = fleet_of([battery(1)])
    positions = dict.fromkeys(("REGISTRY", "REQUESTS", "READINGS", "COMMANDS"), 50)
    payload = checkpoint(fleet.state, Carried(positions), fleet.now_ns, fleet.mono_ns)

    async def scenario() -> tuple[PlantState, dict[str, int]]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                await bus.publish_kept("registry.0", encode_registry(RegistryBatch((battery(2).record,))))
                (tmp_path / "shard-0.ucp").write_bytes(payload)
                loop = loop_of(bus, tmp_path, fleet, epoch=2)
                return await caught_up(loop), loop.inbox.positions

    state, reached = asyncio.run(scenario())
    assert state.n_devices == 2
    assert reached == {"REGISTRY": 1, "REQUESTS": 0, "READINGS": 0, "COMMANDS": 0}


@pytest.mark.parametrize("damage", ["another schema", "cut off", "damaged"])
def test_a_checkpoint_that_is_refused_is_said_so_and_the_streams_are_read_from_their_start(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = fleet_of([battery(1)])
    payload = checkpoint(fleet.state, Carried({"REGISTRY": 1}), fleet.now_ns, fleet.mono_ns)
    if damage == "another schema":
        body = bytes(16) + payload[24:]
        payload = payload[:4] + zlib.crc32(body).to_bytes(4, "little") + body
    elif damage == "cut off":
        payload = payload[: len(payload) // 2]
    else:
        payload = payload[:-1] + bytes([payload[-1] ^ 1])
    (tmp_path / "shard-0.ucp").write_bytes(payload)

    async def scenario() -> PlantState:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                await bus.publish_kept("registry.0", encode_registry(RegistryBatch((fleet.devices[0].record,))))
                return await caught_up(loop_of(bus, tmp_path, fleet, epoch=2))

    assert asyncio.run(scenario()).n_devices == 1
    [said] = [record for record in caplog.records if "checkpoint refused" in record.message]
    assert said.levelname == "ERROR"


@pytest.mark.parametrize("killed", ["before the checkpoint", "before it is sent", "after it is sent"])
def test_what_is_for_the_event_log_reaches_it_once_whenever_the_owner_is_killed(tmp_path: Path, killed: str) -> None:
    fleet = fleet_of([battery(no, merit=no) for no in range(1, 4)])
    spec = dispatch_of(fleet, 8_000.0, start_ns=fleet.now_ns + 60 * NS_PER_S)
    spec = msgspec.structs.replace(spec, targets=(TargetPoint(spec.start_ns, 8_000.0),))
    records = (*(device.record for device in fleet.devices), *fleet.portfolios)

    async def scenario() -> list[OutcomeBatch]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                await bus.publish_kept("registry.0", encode_registry(RegistryBatch(records)))
                await bus.publish_kept("requests.0", encode_request(spec))
                first = loop_of(bus, tmp_path, fleet, epoch=1)
                await catch_up(first)
                await first._cycle()
                assert first.outbound.records() == (), "nothing leaves that no checkpoint knows"
                if killed != "before the checkpoint":
                    await first._save()
                    assert len(first.outbound.records()) == 1
                if killed == "after it is sent":
                    await sent(first)
                first.close()

                second = loop_of(bus, tmp_path, fleet, epoch=2)
                await catch_up(second)
                await second._cycle()
                await second._save()
                await sent(second)
                second.close()
                reader = bus.reader("OUTCOMES", "outcomes.0.*", 1)
                last, found = await bus.last_seq("OUTCOMES"), list[KeptMessage]()
                while not found or found[-1].seq < last:
                    found += await reader.take(100, 1.0)
                await reader.close()
                return [msgspec.msgpack.decode(message.payload, type=OutcomeBatch) for message in found]

    batches = asyncio.run(scenario())
    assert [entry.kind for batch in batches for entry in batch.log] == ["dispatch.accepted"]
    keys = [(batch.epoch, batch.cycle) for batch in batches]
    assert len(keys) == len(set(keys))


async def sent(loop: _Loop) -> None:
    async with asyncio.timeout(20.0), running(loop.outbound.send()):
        await until(lambda: not loop.outbound.records())


def test_cycles_go_on_while_a_checkpoint_is_written_and_what_they_say_waits_for_the_next_one(tmp_path: Path) -> None:
    fleet = fleet_of([battery(no, merit=no) for no in range(1, 4)])
    spec = dispatch_of(fleet, 8_000.0, start_ns=fleet.now_ns + 60 * NS_PER_S)
    spec = msgspec.structs.replace(spec, targets=(TargetPoint(spec.start_ns, 8_000.0),))
    later = msgspec.structs.replace(spec, dispatch_id="dsp_later", dispatch_no=spec.dispatch_no + 1)
    records = (*(device.record for device in fleet.devices), *fleet.portfolios)

    async def scenario() -> None:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                await bus.publish_kept("registry.0", encode_registry(RegistryBatch(records)))
                await bus.publish_kept("requests.0", encode_request(spec))
                loop = loop_of(bus, tmp_path, fleet, epoch=1)
                await catch_up(loop)
                await loop._cycle()
                image, n_held = await loop._image(), len(loop._held)
                positions, columns = dict(loop.inbox.positions), [array.tobytes() for array in _arrays(loop._state)]
                await bus.publish_kept("requests.0", encode_request(later))
                await catch_up(loop)
                await loop._cycle()
                assert loop._state.dispatches.keys() == {spec.dispatch_id, "dsp_later"}
                await loop._keep(image, n_held)
                assert len(loop.outbound.records()) == 1, "the image knows the first cycle's entries only"
                assert len(loop._held) == 1
                with newest(tmp_path / "shard-0.ucp") as payload:
                    state, carried = restore(payload, PlantConfig(), 2, fleet.now_ns, fleet.mono_ns)
                assert state.dispatches.keys() == {spec.dispatch_id}
                assert carried.positions == positions
                assert [array.tobytes() for array in _arrays(state)] == columns
                assert [array.tobytes() for array in _arrays(loop._state)] != columns
                assert [message.payload for message in carried.unsent] == [loop.outbound.records()[0].payload]
                await loop._save()
                assert len(loop.outbound.records()) == 2
                loop.close()

    asyncio.run(scenario())


def test_an_owner_that_can_not_write_its_checkpoint_goes_on_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = fleet_of([battery(1)])
    # Where the fresh file should be is a folder: nothing can be written there.
    (tmp_path / "plant/shard-0.new").mkdir(parents=True)

    async def scenario() -> int:
        with nats_engine(tmp_path / "nats") as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                await bus.publish_kept("registry.0", encode_registry(RegistryBatch((fleet.devices[0].record,))))
                loop = loop_of(bus, tmp_path / "plant", fleet, epoch=1)
                await catch_up(loop)
                for _ in range(2):
                    await loop._cycle()
                    await loop._save()
                loop.close()
                return loop._state.cycle

    assert asyncio.run(scenario()) == 2
    assert [record.message for record in caplog.records].count("checkpoint not written") == 1
