"""A new owner of a shard knows what the dead one told since its checkpoint, and goes on as it would have."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from tests.plant.fake_fleet import BATTERY, FakeDevice, FakeFleet, battery, dispatch_of, fleet_of
from unisono.base.instants import NS_PER_S
from unisono.fleet.columns import Leases
from unisono.fleet.trust import LeaseState
from unisono.model.batches import CommandFrames
from unisono.model.dispatch import Request
from unisono.model.technology import CommandKind, Technology
from unisono.plant.checkpoint import Carried, checkpoint, restore
from unisono.plant.replay import Recorded, replay
from unisono.plant.state import PlantState

# What frames don't show, and the first cycle of the new owner sets: a held lease's reference drifts in each cycle.
NOT_SHOWN = ("reference_w",)
SLOW_BATTERY = msgspec.structs.replace(BATTERY, ramp_w_per_s=50.0)


@dataclass
class Recording:
    """A fleet whose inputs and frames are kept since the checkpoint."""

    fleet: FakeFleet
    payload: bytes = b""
    arrivals: list = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    frames: list[CommandFrames] = field(default_factory=list)

    def save(self) -> None:
        self.payload = checkpoint(self.fleet.state, Carried(), self.fleet.now_ns, self.fleet.mono_ns)

    def cycle(self, *requests: Request) -> None:
        readings = self.fleet.readings

        def recorded() -> list:
            found = readings()
            self.arrivals += [*self.fleet.arrivals, *found]
            return found

        self.fleet.readings = recorded  # type: ignore[method-assign]
        result = self.fleet.cycle(*requests)
        self.fleet.readings = readings  # type: ignore[method-assign]
        self.requests += requests
        if len(result.frames):
            self.frames.append(result.frames)

    def successor(self, *, after_s: float = 4.0, epoch: int = 2) -> PlantState:
        now_ns, mono_ns = (at_ns + round(after_s * 1e9) for at_ns in (self.fleet.now_ns, self.fleet.mono_ns))
        state, _ = restore(self.payload, self.fleet.state.config, epoch, now_ns, mono_ns)
        replay(state, Recorded(self.arrivals, self.requests, (), self.frames), now_ns, mono_ns)
        return state


def batteries(n: int, **changes: object) -> list[FakeDevice]:
    return [battery(no, merit=no, gateway_no=1 + no % 2, **changes) for no in range(1, n + 1)]


def assert_leases_equal(ours: PlantState, theirs: PlantState, *, but: tuple[str, ...] = NOT_SHOWN) -> None:
    n = ours.n_devices
    for name in Leases._fields:
        if name not in but:
            told, known = getattr(ours.fleet.leases, name)[:n], getattr(theirs.fleet.leases, name)[:n]
            np.testing.assert_array_equal(known, told, err_msg=name)


@pytest.mark.parametrize("n_lost", [0, 1, 2, 5, 12])
def test_what_was_told_after_the_checkpoint_is_known_from_the_frames(n_lost: int) -> None:
    recording = Recording(fleet_of(batteries(12, ratings=SLOW_BATTERY)))
    fleet = recording.fleet
    fleet.devices[0].behaviour = "refuses"
    fleet.devices[1].behaviour = "mute"
    fleet.devices[2].behaviour = "ignores"
    fleet.cycle(dispatch_of(fleet, 25_000.0, ramp_s=40.0, duration_s=100.0))
    for _ in range(22 - n_lost):
        fleet.cycle()
    recording.save()
    for _ in range(n_lost):
        recording.cycle()
    assert sum(map(len, recording.frames)) > 0 or n_lost < 2

    successor = recording.successor()

    assert_leases_equal(fleet.state, successor)
    assert successor.cycle == fleet.state.cycle
    assert successor.next_seq > max(int(frames.seq.max(initial=0)) for frames in fleet.frames)


def test_a_cycle_that_came_in_several_messages_is_known_as_if_it_came_in_one() -> None:
    recording = Recording(fleet_of(batteries(12, ratings=SLOW_BATTERY)))
    fleet = recording.fleet
    fleet.cycle()
    recording.save()
    recording.cycle(dispatch_of(fleet, 25_000.0, ramp_s=40.0, duration_s=100.0))
    for _ in range(4):
        recording.cycle()
    assert max(map(len, recording.frames)) > 6
    whole = recording.successor()
    recording.frames = [part for frames in recording.frames for part in frames.parts(3)]
    assert_leases_equal(whole, recording.successor(), but=())


def test_who_is_let_go_after_the_checkpoint_is_known_to_be() -> None:
    recording = Recording(fleet_of(batteries(6)))
    fleet = recording.fleet
    fleet.cycle(dispatch_of(fleet, 20_000.0, duration_s=40.0))
    fleet.run(8)
    recording.save()
    for _ in range(2):
        recording.cycle()
    assert CommandKind.RELEASE in recording.frames[0].kind
    assert_leases_equal(fleet.state, recording.successor())


def test_a_dispatch_that_came_after_the_checkpoint_is_known_with_those_it_called() -> None:
    recording = Recording(fleet_of(batteries(6)))
    fleet = recording.fleet
    recording.save()
    recording.cycle()
    spec = msgspec.structs.replace(dispatch_of(fleet, 20_000.0), requested_ns=fleet.now_ns)
    recording.cycle(spec)
    for _ in range(3):
        recording.cycle()
    successor = recording.successor()
    assert_leases_equal(fleet.state, successor)
    assert successor.dispatches["dsp_1"].dispatch_no == fleet.state.dispatches["dsp_1"].dispatch_no


def test_frames_that_the_checkpoint_knows_and_those_of_a_relieved_owner_change_nothing() -> None:
    recording = Recording(fleet_of(batteries(6)))
    fleet = recording.fleet
    fleet.devices[0].behaviour = "mute"
    recording.cycle(dispatch_of(fleet, 20_000.0))
    recording.cycle()
    recording.cycle()
    recording.save()
    recording.arrivals.clear()
    assert_leases_equal(fleet.state, recording.successor())
    stranger = dataclasses.replace(recording.frames[0], epoch=3, seq=recording.frames[0].seq + (2 << 32))
    relieved = dataclasses.replace(recording.frames[0], epoch=2, seq=recording.frames[0].seq + (1 << 32))
    recording.frames += [stranger, relieved]
    successor = recording.successor(epoch=4)
    rows = successor.fleet.leases.state[: successor.n_devices] != LeaseState.NONE
    assert (successor.fleet.leases.seq[: successor.n_devices][rows] >> 32 == 3).all()
    assert successor.next_seq > int(stranger.seq.max())


@pytest.mark.parametrize("kind", [CommandKind.TEMPERATURE_OFFSET, CommandKind.SHED_LEVEL])
def test_a_load_that_switches_is_known_to_be_told_to_stop(kind: CommandKind) -> None:
    ratings = msgspec.structs.replace(
        BATTERY, power_max_w=0.0, power_min_w=-4_500.0, is_on_off=True, energy_capacity_wh=0.0
    )
    loads = batteries(5, ratings=ratings, technology=Technology.THERMOSTAT, control_kinds=(int(kind),))
    for load in loads:
        load.normal_w = load.power_w = -4_500.0
        load.behaviour = "mute"
    recording = Recording(fleet_of(loads))
    recording.save()
    recording.cycle(dispatch_of(recording.fleet, 9_000.0))
    recording.cycle()
    assert set(recording.frames[0].kind.tolist()) == {int(kind)}
    assert_leases_equal(recording.fleet.state, recording.successor())


def test_nothing_recorded_and_no_time_gone_leaves_the_leases_as_they_were() -> None:
    recording = Recording(fleet_of(batteries(6)))
    recording.fleet.cycle(dispatch_of(recording.fleet, 20_000.0))
    recording.save()
    successor = recording.successor(after_s=0.5)
    assert_leases_equal(recording.fleet.state, successor)
    assert successor.folded_mono_ns == recording.fleet.state.folded_mono_ns


def test_a_long_absence_is_folded_in_a_bounded_number_of_slices() -> None:
    recording = Recording(fleet_of(batteries(2)))
    recording.save()
    recording.cycle()
    successor = recording.successor(after_s=86_400.0)
    assert successor.n_devices == 2
    assert successor.folded_mono_ns - recording.fleet.state.folded_mono_ns == (86_400 - 4) * NS_PER_S
