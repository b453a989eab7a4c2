"""Devices that are moved to another gateway, or taken out of service, while they hold a lease at the old one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.plant.fake_fleet import FakeFleet, battery, dispatch_of, fleet_of
from unisono.fleet.trust import LeaseState
from unisono.model.batches import CommandFrames
from unisono.model.registry import RegistryBatch
from unisono.model.technology import CommandKind, Lifecycle
from unisono.plant.checkpoint import Carried, checkpoint, restore
from unisono.plant.replay import Recorded, replay

TTL_CYCLES = 15


def called(n: int = 3) -> FakeFleet:
    """Return a fleet behind gateway 1, all of it called on."""
    fleet = fleet_of([battery(no, merit=no) for no in range(1, n + 1)])
    fleet.cycle(dispatch_of(fleet, n * 5000.0, duration_s=2000.0))
    fleet.run(6)
    assert fleet.power_w == n * 5000.0
    return fleet


def change(fleet: FakeFleet, **changes: object) -> CommandFrames:
    """Change the record of device 1, but not where it hears; return what is sent upon it."""
    row = fleet.state.fleet.row(1)
    revision = int(fleet.state.fleet.nameplate.revision[row]) + 1
    record = msgspec.structs.replace(fleet.devices[0].record, revision=revision, **changes)
    return fleet._step([], [RegistryBatch((record,))]).frames


def told(frames: CommandFrames, device_no: int) -> list[tuple[int, int]]:
    of_device = frames.device_no == device_no
    return list(zip(frames.gateway_no[of_device].tolist(), frames.kind[of_device].tolist(), strict=True))


def renewed(frames: list[CommandFrames], gateway_no: int) -> list[int]:
    """Return in which of the cycles the gateway's leases were renewed."""
    return [at for at, one in enumerate(frames) if ((one.device_no == -1) & (one.gateway_no == gateway_no)).any()]


@pytest.mark.parametrize(
    "changes",
    [
        {"gateway_no": 2},
        {"gateway_no": 2, "lifecycle": Lifecycle.COMMISSIONING},
        {"gateway_no": -1, "lifecycle": Lifecycle.RETIRED},
        {"lifecycle": Lifecycle.RETIRED},
    ],
    ids=["moved", "commissioned elsewhere", "retired without a gateway", "retired"],
)
def test_a_device_that_leaves_is_released_where_it_holds_its_lease(changes: dict[str, object]) -> None:
    fleet = called()
    assert told(change(fleet, **changes), 1) == [(1, CommandKind.RELEASE)]
    assert fleet.devices[0].setpoint_w is None
    fleet.run(2)
    table = fleet.state.fleet
    assert table.leases.state[0] == LeaseState.NONE or table.leases.gateway[0] == table.gateway_row(2)


def test_a_suspended_device_whose_release_is_lost_is_released_where_it_was_although_it_has_moved() -> None:
    fleet = called()
    fleet.dark_gateways = {1}
    change(fleet, lifecycle=Lifecycle.SUSPENDED)
    frames = [change(fleet, lifecycle=Lifecycle.COMMISSIONING, gateway_no=2)]
    frames += [fleet.cycle() and fleet.frames[-1] for _ in range(3)]
    assert {gateway for one in frames for gateway, _ in told(one, 1)} == {1}
    assert renewed(frames, 1) == []
    fleet.dark_gateways = set()
    fleet.run(4)
    assert fleet.devices[0].setpoint_w is None


def test_nothing_is_renewed_at_the_old_gateway_before_the_lease_is_over_and_others_keep_theirs() -> None:
    fleet = called()
    fleet.devices[0].behaviour = "dead"
    change(fleet, gateway_no=2)
    began = len(fleet.frames)
    for _ in range(TTL_CYCLES):
        fleet.cycle()
        assert [device.power_w for device in fleet.devices[1:]] == [5000.0, 5000.0]
    assert renewed(fleet.frames[began:], 1) == []
    fleet.run(3 * TTL_CYCLES)
    assert renewed(fleet.frames[began:], 1) != []
    assert fleet.state.fleet.leases.state[0] == LeaseState.NONE
    assert [device.power_w for device in fleet.devices[1:]] == [5000.0, 5000.0]


def test_a_moved_device_is_called_again_through_its_new_gateway() -> None:
    fleet = called()
    record = msgspec.structs.replace(fleet.devices[0].record, revision=2, gateway_no=2)
    change(fleet, gateway_no=2)
    fleet.devices[0].record = record
    fleet.run(8)
    assert fleet.power_w == 15_000.0
    assert fleet.state.fleet.gateways.gateway_no[fleet.state.fleet.leases.gateway[0]] == 2


@pytest.mark.parametrize("knows_frames", [False, True])
def test_a_new_owner_releases_a_device_that_moved_while_nobody_owned_the_shard(knows_frames: bool) -> None:
    fleet = fleet_of([battery(no, merit=no) for no in range(1, 4)])
    payload = checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns)
    spec = dispatch_of(fleet, 15_000.0, duration_s=2000.0)
    began = len(fleet.frames)
    fleet.cycle(spec)
    fleet.run(6)
    if not knows_frames:
        payload = checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns)
    moved = RegistryBatch((msgspec.structs.replace(fleet.devices[0].record, revision=2, gateway_no=2),))
    fleet.at_s += 4.0
    fleet.state, _ = restore(payload, fleet.state.config, 2, fleet.now_ns, fleet.mono_ns)
    recorded = Recorded(requests=[spec], registry=[moved], frames=fleet.frames[began:])
    replay(fleet.state, recorded if knows_frames else Recorded(registry=[moved]), fleet.now_ns, fleet.mono_ns)
    fleet.cycle()
    assert told(fleet.frames[-1], 1) == [(1, CommandKind.RELEASE)]
    assert np.all(fleet.state.fleet.leases.gateway[:3] == fleet.state.fleet.gateway_row(1))
