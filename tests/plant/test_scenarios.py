"""Whole scenarios with a tiny fleet: what is promised is delivered, within every limit and whatever restarts."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from tests.plant.fake_fleet import (
    BATTERY,
    FakeFleet,
    batteries,
    battery,
    dispatch_of,
    fleet_of,
    opt_out_of,
    progress_of,
)
from unisono.base.instants import NS_PER_S
from unisono.model.dispatch import TargetPoint
from unisono.model.ratings import OptOut, OwnerLimits, Ratings
from unisono.model.registry import PortfolioRecord, RegistryBatch
from unisono.model.technology import AckCode, CommandKind, Technology, Trust
from unisono.plant.checkpoint import Carried, checkpoint, restore
from unisono.plant.step import Arrival, StepResult, step


@pytest.mark.parametrize("policy", ["merit_order", "pro_rata", "soc_fair"])
@pytest.mark.parametrize("power_w", [23_000.0, -23_000.0])
def test_a_fleet_that_obeys_delivers_its_target_and_returns(policy: str, power_w: float) -> None:
    fleet = fleet_of(batteries(10))
    fleet.cycle(dispatch_of(fleet, power_w, policy=policy))
    result = fleet.run(10)
    assert fleet.power_w == pytest.approx(power_w, rel=0.01)
    assert progress_of(result).delivered_w == pytest.approx(power_w, rel=0.01)
    fleet.run(45)
    assert fleet.power_w == 0.0
    assert all(device.setpoint_w is None for device in fleet.devices)
    assert fleet.log == ["dispatch.accepted", "dispatch.activated", "dispatch.completed"]


def test_merit_order_calls_the_cheapest_first() -> None:
    fleet = fleet_of(batteries(10))
    fleet.cycle(dispatch_of(fleet, 12_000.0))
    fleet.run(5)
    assert [device.power_w for device in fleet.devices[:4]] == [5000.0, 5000.0, 2000.0, 0.0]


def test_the_target_ramps_at_both_ends() -> None:
    fleet = fleet_of(batteries(10))
    fleet.cycle(dispatch_of(fleet, 40_000.0, ramp_s=40.0, duration_s=160.0))
    powers = []
    for _ in range(42):
        fleet.cycle()
        powers.append(fleet.power_w)
    steps = np.diff(powers)
    assert max(powers) == pytest.approx(40_000.0, rel=0.01)
    # A ramp of 1 kW/s moves 4 kW a cycle; the first step looks one lead ahead.
    assert np.abs(steps).max() <= 9_100.0
    assert powers[-1] == 0.0


def slow_batteries(n: int) -> list:
    return batteries(n, gateway_no=2, command_latency_s=45.0, command_ttl_s=180.0)


def test_little_hangs_on_one_poll_of_a_slow_cloud_and_quick_devices_stand_in_until_it_comes() -> None:
    devices = slow_batteries(20) + [battery(no, merit=no) for no in range(21, 141)]
    fleet = fleet_of(devices)
    fleet.poll_s_of_gateway = {2: 60.0}
    fleet.cycle(dispatch_of(fleet, 400_000.0, duration_s=1200.0))
    fleet.run(2)
    for _ in range(75):
        result = fleet.cycle()
        assert fleet.power_w == pytest.approx(400_000.0, rel=0.03)
        assert progress_of(result).delivered_w == pytest.approx(fleet.power_w, rel=0.005)
    # 2.5 % of 400 kW a minute: two batteries at each of five polls, the cheapest first.
    assert [device.power_w > 0.0 for device in devices[:20]] == [True] * 10 + [False] * 10


def test_nobody_behind_a_slow_cloud_waits_when_all_are_needed() -> None:
    fleet = fleet_of(slow_batteries(20))
    fleet.poll_s_of_gateway = {2: 60.0}
    fleet.cycle(dispatch_of(fleet, 100_000.0, duration_s=1200.0))
    result = fleet.run(2)
    assert progress_of(result).n_targeted == 20
    assert progress_of(result).delivered_w == pytest.approx(0.0, abs=1.0)
    assert progress_of(fleet.run(15)).delivered_w == pytest.approx(100_000.0, rel=0.01)


@pytest.mark.parametrize("technology", [Technology.FLEX_LOAD, Technology.THERMOSTAT])
def test_a_load_that_is_shed_whole_comes_back_when_less_is_asked(technology: Technology) -> None:
    ratings = Ratings(power_max_w=0.0, power_min_w=-3000.0)
    devices = [
        battery(no, merit=no, technology=technology, ratings=ratings, limits=OwnerLimits()) for no in range(1, 11)
    ]
    for device in devices:
        device.normal_w = -3000.0
    fleet = fleet_of(devices)
    asked = dispatch_of(fleet, 24_000.0, duration_s=400.0)
    later = TargetPoint(asked.start_ns + 100 * NS_PER_S, 6_000.0)
    fleet.cycle(msgspec.structs.replace(asked, targets=(*asked.targets, later)))
    fleet.run(10)
    assert fleet.power_w == pytest.approx(-6_000.0)
    fleet.run(20)
    assert fleet.power_w == pytest.approx(-24_000.0)


def test_the_reference_of_an_array_that_another_dispatch_holds_follows_the_sun() -> None:
    ratings = Ratings(power_max_w=6000.0, power_min_w=0.0)
    arrays = [
        battery(no, technology=Technology.PV, ratings=ratings, latitude_deg=0.0, longitude_deg=0.0) for no in (1, 2)
    ]
    for device in arrays:
        device.normal_w = 4000.0
    fleet = fleet_of(arrays)
    noon_w = float(fleet.state.fleet.picture.clear_sky_w_per_m2[0])
    fleet.cycle(dispatch_of(fleet, -6_000.0, duration_s=9000.0, dispatch_id="first", priority=50))
    fleet.run(1800)
    now_w = float(fleet.state.fleet.picture.clear_sky_w_per_m2[0])
    fleet.cycle(dispatch_of(fleet, -3_000.0, duration_s=600.0, dispatch_id="second", priority=10))
    frozen_w = fleet.state.dispatches["second"].members.accepted_reference_w
    assert now_w < 0.7 * noon_w
    assert frozen_w == pytest.approx(4000.0 * now_w / noon_w, rel=0.02)


def test_only_changes_are_sent_and_one_row_a_gateway_renews_the_rest() -> None:
    devices = [battery(no, merit=no, gateway_no=1 + no % 2) for no in range(1, 11)]
    fleet = fleet_of(devices)
    fleet.cycle(dispatch_of(fleet, 40_000.0, duration_s=400.0))
    fleet.run(6)
    before = len(fleet.frames)
    fleet.run(60)
    sent = [no for frames in fleet.frames[before:] for no in frames.device_no.tolist()]
    assert set(sent) == {-1}
    # 240 s, a renewal each 20 s for two gateways.
    assert len(sent) == 24
    assert fleet.power_w == pytest.approx(40_000.0, rel=0.01)


def test_the_same_request_twice_changes_nothing() -> None:
    once, twice = fleet_of(batteries(5)), fleet_of(batteries(5))
    spec = dispatch_of(once, 9_000.0)
    once.cycle(spec)
    twice.cycle(spec, spec)
    for _ in range(10):
        assert once.cycle().frames.encode() == twice.cycle(spec).frames.encode()
    assert once.log == twice.log


def test_a_revision_moves_the_target_and_an_older_one_does_not() -> None:
    fleet = fleet_of(batteries(10))
    spec = dispatch_of(fleet, 10_000.0)
    fleet.cycle(spec)
    fleet.run(5)
    revised = msgspec.structs.replace(spec, revision=2, targets=(TargetPoint(spec.start_ns, 30_000.0),))
    fleet.cycle(revised)
    fleet.cycle(spec)
    fleet.run(5)
    assert fleet.power_w == pytest.approx(30_000.0, rel=0.01)
    assert "dispatch.revised" in fleet.log


def test_a_revision_whose_end_has_passed_on_its_way_ends_the_dispatch() -> None:
    fleet = fleet_of(batteries(10))
    asked = dispatch_of(fleet, 20_000.0, duration_s=900.0)
    fleet.cycle(asked)
    fleet.run(5)
    over = msgspec.structs.replace(asked, revision=2, end_ns=fleet.now_ns + NS_PER_S)
    result = fleet.cycle(over)
    assert progress_of(result).state == "completed"
    fleet.run(3)
    assert fleet.power_w == 0.0


def test_a_cancelled_dispatch_lets_everyone_go() -> None:
    fleet = fleet_of(batteries(10))
    spec = dispatch_of(fleet, 10_000.0)
    fleet.cycle(spec)
    fleet.run(5)
    result = fleet.cycle(msgspec.structs.replace(spec, revision=2, is_cancelled=True))
    assert progress_of(result).state == "cancelled"
    assert set(result.frames.kind.tolist()) == {CommandKind.RELEASE}
    result = fleet.run(3)
    assert fleet.power_w == 0.0
    assert result.outcomes.progress == ()


def test_an_impossible_dispatch_is_refused_with_field_and_rule() -> None:
    fleet = fleet_of(batteries(1))
    spec = dispatch_of(fleet, 1_000.0)
    result = fleet.cycle(msgspec.structs.replace(spec, end_ns=spec.start_ns))
    (entry,) = result.outcomes.log
    assert (entry.kind, entry.body["field"]) == ("dispatch.refused", "end_ns")


def test_a_dispatch_that_comes_after_its_end_is_refused_and_closed_and_moves_nobody() -> None:
    fleet = fleet_of(batteries(2))
    late = dispatch_of(fleet, 1_000.0)
    fleet.run(3)
    late = msgspec.structs.replace(late, start_ns=fleet.now_ns - 60 * NS_PER_S, end_ns=fleet.now_ns - NS_PER_S)
    late = msgspec.structs.replace(late, targets=(msgspec.structs.replace(late.targets[0], start_ns=late.start_ns),))
    result = fleet.cycle(late)
    assert [entry.kind for entry in result.outcomes.log] == ["dispatch.refused"]
    row = progress_of(result)
    assert (row.state, row.revision, row.n_targeted) == ("completed", 1, 0)
    assert len(result.frames) == 0
    again = fleet.cycle(late)
    assert (again.outcomes.log, again.outcomes.progress) == ((), ())


def test_an_empty_portfolio_is_accepted_and_falls_short() -> None:
    fleet = fleet_of(batteries(1))
    fleet.cycle(dispatch_of(fleet, 1_000.0, portfolio_no=77, portfolio_id="pfo_77"))
    result = fleet.run(5)
    row = progress_of(result)
    assert (row.state, row.shortfall_w, row.n_eligible) == ("active", 1_000.0, 0)
    assert "shortfall.begins" in fleet.log


def test_more_than_the_fleet_has_gives_all_there_is() -> None:
    fleet = fleet_of(batteries(4))
    fleet.cycle(dispatch_of(fleet, 100_000.0))
    result = fleet.run(6)
    assert fleet.power_w == 20_000.0
    assert progress_of(result).shortfall_w == pytest.approx(80_000.0, rel=0.01)


def test_an_opted_out_device_is_never_moved_and_is_let_go_at_once() -> None:
    devices = batteries(4)
    fleet = fleet_of(devices)
    start_ns = fleet.now_ns
    devices[0].record = msgspec.structs.replace(
        devices[0].record, revision=2, opt_outs=(OptOut(start_ns=start_ns, end_ns=start_ns + 3600 * NS_PER_S),)
    )
    step(fleet.state, [], [], [RegistryBatch((devices[0].record,))], fleet.now_ns, fleet.mono_ns)
    fleet.cycle(dispatch_of(fleet, 10_000.0))
    fleet.run(5)
    assert (devices[0].setpoint_w, fleet.power_w) == (None, 10_000.0)
    fleet.cycle(opt_out_of(fleet, 2, 600.0))
    assert devices[1].setpoint_w is None
    result = fleet.run(4)
    assert (devices[1].power_w, fleet.power_w) == (0.0, 10_000.0)
    assert progress_of(result).n_opted_out == 2
    assert "device.opted_out" in fleet.log


def test_the_more_urgent_of_two_overlapping_dispatches_gets_the_devices() -> None:
    fleet = fleet_of(batteries(10))
    second = PortfolioRecord(
        revision=1, organisation_id="org_1", portfolio_id="pfo_2", portfolio_no=2, device_nos=(1, 2, 3, 4)
    )
    step(fleet.state, [], [], [RegistryBatch((second,))], fleet.now_ns, fleet.mono_ns)
    fleet.cycle(dispatch_of(fleet, 20_000.0))
    fleet.run(4)
    assert [device.power_w for device in fleet.devices[:4]] == [5000.0] * 4
    urgent = dispatch_of(fleet, -8_000.0, dispatch_id="dsp_2", portfolio_no=2, portfolio_id="pfo_2", priority=1)
    fleet.cycle(urgent)
    fleet.run(8)
    assert sum(device.power_w for device in fleet.devices[:4]) == pytest.approx(12_000.0 - 10_000.0, abs=12_000.0)
    by_id = {row.dispatch_id: row for row in fleet.cycle().outcomes.progress}
    assert by_id["dsp_2"].delivered_w == pytest.approx(-8_000.0, rel=0.01)
    assert by_id["dsp_1"].delivered_w == pytest.approx(20_000.0, rel=0.01)


def test_net_power_is_held_whatever_the_others_do() -> None:
    fleet = fleet_of(batteries(6))
    for device in fleet.devices[3:]:
        device.normal_w = -2_000.0
    fleet.run(3)
    fleet.cycle(dispatch_of(fleet, 1_000.0, kind="net_w"))
    fleet.run(10)
    assert fleet.power_w == pytest.approx(1_000.0, abs=150.0)


def test_an_export_cap_acts_only_when_it_is_exceeded() -> None:
    fleet = fleet_of(batteries(6))
    fleet.cycle(dispatch_of(fleet, 9_000.0, kind="limit_w", duration_s=400.0))
    fleet.run(5)
    assert fleet.power_w == 0.0
    for device in fleet.devices[3:]:
        device.normal_w = 4_000.0
    fleet.run(10)
    assert fleet.power_w == pytest.approx(9_000.0, abs=300.0)


def test_a_site_never_exports_more_than_its_connection_allows() -> None:
    devices = [battery(no, site_no=1, export_limit_w=6_000.0) for no in (1, 2)]
    fleet = fleet_of(devices)
    fleet.cycle(dispatch_of(fleet, 10_000.0))
    for _ in range(10):
        fleet.cycle()
        assert fleet.power_w <= 6_000.0
    assert fleet.power_w >= 5_990.0


def test_a_battery_stops_at_its_reserve() -> None:
    devices = batteries(2)
    fleet = fleet_of(devices)
    fleet.cycle(dispatch_of(fleet, 8_000.0))
    fleet.run(3)
    devices[0].soc_frac = 0.2
    fleet.run(3)
    assert devices[0].power_w <= 0.0


def test_an_on_off_load_is_called_whole_or_not_at_all() -> None:
    ratings = msgspec.structs.replace(
        BATTERY, power_max_w=0.0, power_min_w=-4_500.0, is_on_off=True, energy_capacity_wh=0.0
    )
    devices = [battery(no, merit=no, ratings=ratings, technology=5) for no in range(1, 6)]
    for device in devices:
        device.normal_w = device.power_w = -4_500.0
    fleet = fleet_of([*devices, battery(6, merit=9)])
    fleet.cycle(dispatch_of(fleet, 11_000.0))
    result = fleet.run(6)
    assert sorted({device.power_w for device in devices}) == [-4_500.0, 0.0]
    assert progress_of(result).delivered_w == pytest.approx(11_000.0, rel=0.01)


def test_replay_from_a_checkpoint_gives_the_same_frames() -> None:
    fleet = fleet_of(batteries(8))
    fleet.devices[2].behaviour = "ignores"
    fleet.cycle(dispatch_of(fleet, 25_000.0, policy="soc_fair", ramp_s=20.0))
    fleet.run(3)
    payload = checkpoint(fleet.state, Carried({"READINGS": 7}), fleet.now_ns, fleet.mono_ns)
    twin, carried = restore(payload, fleet.state.config, 1, fleet.now_ns, 5)
    assert carried == Carried({"READINGS": 7})
    shift_ns = 5 - fleet.mono_ns
    for _ in range(20):
        ours, fed = _recorded_cycle(fleet)
        moved = [type(a)(a.batch, a.received_monotonic_ns + shift_ns) for a in fed]
        theirs = step(twin, moved, [], [], fleet.now_ns, fleet.mono_ns + shift_ns)
        assert ours.frames.encode() == theirs.frames.encode()
        assert ours.outcomes == theirs.outcomes


def _recorded_cycle(fleet: FakeFleet) -> tuple[StepResult, list]:
    fed = []
    readings = fleet.readings

    def recorded() -> list:
        found = readings()
        fed.extend([*fleet.arrivals, *found])
        return found

    fleet.readings = recorded  # type: ignore[method-assign]
    try:
        return fleet.cycle(), fed
    finally:
        fleet.readings = readings  # type: ignore[method-assign]


def test_a_new_owner_commands_anew_before_it_renews_anything() -> None:
    fleet = fleet_of(batteries(4))
    fleet.cycle(dispatch_of(fleet, 12_000.0, duration_s=600.0))
    fleet.run(5)
    payload = checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns)
    fleet.state, _ = restore(payload, fleet.state.config, 2, fleet.now_ns, fleet.mono_ns)
    before = len(fleet.frames)
    first = fleet.cycle().frames
    assert first.epoch == 2
    assert sorted(first.device_no.tolist()) == [1, 2, 3]
    assert first.seq.min() > 2 << 32
    fleet.run(13)
    rows = [no for frames in fleet.frames[before:] for no in frames.device_no.tolist()]
    assert -1 not in rows
    fleet.run(20)
    assert -1 in [no for frames in fleet.frames[before:] for no in frames.device_no.tolist()]
    assert fleet.power_w == 12_000.0


@pytest.mark.parametrize(("code", "is_accepted"), [(AckCode.ACCEPTED, True), (AckCode.REFUSED_OLD_EPOCH, False)])
def test_an_answer_to_the_owner_before_counts_if_it_accepts_what_still_holds(code: AckCode, is_accepted: bool) -> None:
    fleet = fleet_of(batteries(2))
    fleet.cycle(dispatch_of(fleet, 10_000.0))
    ((answer,), fleet.arrivals) = fleet.arrivals, []
    fleet.state, _ = restore(
        checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns),
        fleet.state.config,
        2,
        fleet.now_ns,
        fleet.mono_ns,
    )
    for device in fleet.devices:
        device.behaviour = "mute"
    fleet.cycle()
    batch = dataclasses.replace(answer.batch, code=np.full(2, code, np.uint8))
    fleet.arrivals = [Arrival(batch, fleet.mono_ns)]
    fleet.cycle()
    leases = fleet.state.fleet.leases
    assert (leases.seq[:2] > 2 << 32).all()
    assert (leases.acked_seq[:2] == leases.seq[:2]).tolist() == [is_accepted] * 2
    assert leases.ack_code[:2].tolist() == [0 if is_accepted else 255] * 2


def test_a_stepped_wall_clock_ages_nothing() -> None:
    fleet = fleet_of(batteries(4))
    fleet.cycle(dispatch_of(fleet, 12_000.0, duration_s=2_000.0))
    fleet.run(5)
    fleet.wall_step_s = 200.0
    result = fleet.run(5)
    assert fleet.power_w == 12_000.0
    assert result.totals.portfolios[0].n_by_trust[Trust.FRESH] == 4


def test_setpoints_are_whole_watts_and_the_digest_is_of_the_frames() -> None:
    import hashlib

    fleet = fleet_of(batteries(7))
    result = fleet.cycle(dispatch_of(fleet, 10_001.7, policy="pro_rata"))
    for _ in range(5):
        result = fleet.cycle()
        assert (result.frames.value == np.round(result.frames.value)).all()
        if len(result.frames):
            assert progress_of(result).frames_digest == hashlib.sha256(result.frames.encode()).hexdigest()


def test_counters_are_told_in_time_although_cycles_begin_a_little_early() -> None:
    fleet = fleet_of(batteries(1))
    told = []
    for _ in range(4):
        fleet.at_s -= 0.01
        told.append(fleet.cycle().totals.ingest)
    assert None not in told
