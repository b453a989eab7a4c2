"""A tiny fleet whose devices refuse, lie, fall silent or deliver too little: others stand in for them."""

from __future__ import annotations

import msgspec
import pytest

from tests.plant.fake_fleet import FakeFleet, batteries, battery, dispatch_of, fleet_of, progress_of
from unisono.base.instants import NS_PER_S
from unisono.model.batches import AckBatch
from unisono.model.dispatch import TargetPoint
from unisono.model.registry import RegistryBatch
from unisono.model.technology import AckCode, CommandKind, Trust
from unisono.plant.answers import device_state
from unisono.plant.step import Arrival


@pytest.mark.parametrize("behaviour", ["refuses", "ignores", "wrong_sign", "dead"])
def test_the_shortfall_of_those_who_fail_goes_to_the_next_in_line(behaviour: str) -> None:
    fleet = fleet_of(batteries(12))
    for device in fleet.devices[:3]:
        device.behaviour = behaviour
    fleet.cycle(dispatch_of(fleet, 25_000.0))
    fleet.run(25)
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.02)


def test_a_refusal_is_made_up_for_within_two_cycles() -> None:
    fleet = fleet_of(batteries(12))
    for device in fleet.devices[:3]:
        device.behaviour = "refuses"
    fleet.cycle(dispatch_of(fleet, 25_000.0))
    result = fleet.run(4)
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.02)
    assert progress_of(result).n_refused == 3


def test_a_liar_is_found_suspect_and_is_never_called_twice_in_one_event() -> None:
    fleet = fleet_of(batteries(6))
    fleet.devices[0].behaviour = "ignores"
    fleet.cycle(dispatch_of(fleet, 10_000.0))
    fleet.run(30)
    assert fleet.log.count("device.suspected") == 1
    state = device_state(fleet.state, 1, fleet.now_ns, fleet.mono_ns)
    assert (state.trust, state.suspect_reason, state.commanded_w) == (Trust.SUSPECT, "frozen", None)


def test_a_device_that_acts_and_never_answers_counts_by_its_readings() -> None:
    fleet = fleet_of(batteries(6))
    fleet.devices[0].behaviour = "mute"
    fleet.cycle(dispatch_of(fleet, 10_000.0))
    result = fleet.run(20)
    assert fleet.power_w == pytest.approx(10_000.0, rel=0.01)
    assert "device.suspected" not in fleet.log
    assert progress_of(result).n_sent == 2


def test_a_level_of_truth_at_which_no_device_is_known_is_none_and_not_zero() -> None:
    fleet = fleet_of(batteries(3))
    fleet.devices[0].behaviour = "mute"
    spec = dispatch_of(fleet, 4_000.0)
    waiting = msgspec.structs.replace(spec, start_ns=spec.start_ns + 30 * NS_PER_S)
    waiting = msgspec.structs.replace(waiting, targets=(TargetPoint(waiting.start_ns, 4_000.0),))
    row = progress_of(fleet.cycle(waiting))
    assert (row.state, row.commanded_w, row.acknowledged_w, row.reported_w) == ("scheduled", None, None, None)
    row = progress_of(fleet.run(10))
    assert (row.commanded_w, row.acknowledged_w, row.reported_w) == (4_000.0, None, 4_000.0), "it never answers"
    assert row.measured_w is None, "there is no meter"


def test_over_delivery_is_taken_back() -> None:
    fleet = fleet_of(batteries(10))
    for device in fleet.devices[:4]:
        device.delivers_frac = 1.15
    fleet.cycle(dispatch_of(fleet, 30_000.0))
    fleet.run(12)
    assert fleet.power_w == pytest.approx(30_000.0, rel=0.01)


def test_under_delivery_is_filled_up() -> None:
    fleet = fleet_of(batteries(10))
    for device in fleet.devices:
        device.delivers_frac = 0.9
    fleet.cycle(dispatch_of(fleet, 30_000.0))
    fleet.run(15)
    assert fleet.power_w == pytest.approx(30_000.0, rel=0.02)


def test_a_dark_gateway_is_counted_by_its_leases_and_replaced_when_they_end() -> None:
    devices = [battery(no, merit=no, gateway_no=1 if no <= 5 else 2) for no in range(1, 16)]
    fleet = fleet_of(devices)
    fleet.cycle(dispatch_of(fleet, 25_000.0, duration_s=600.0))
    fleet.run(10)
    fleet.dark_gateways.add(1)
    fleet.run(8)
    # Its devices still hold their leases: nobody is called in their place.
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.05)
    fleet.run(22)
    # Their leases have run out, they are back to normal by themselves, and others have taken over.
    assert all(device.power_w == 0.0 for device in devices[:5])
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.02)
    fleet.dark_gateways.clear()
    fleet.run(20)
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.02)


@pytest.mark.parametrize("code", [AckCode.REFUSED_EXPIRED, AckCode.REFUSED_OLD_EPOCH, AckCode.REFUSED_OTHER])
def test_whoever_refuses_for_whatever_reason_delivers_nothing_and_is_not_asked_each_cycle(code: AckCode) -> None:
    fleet = fleet_of(batteries(12))
    for device in fleet.devices[:5]:
        device.behaviour, device.refusal_code = "refuses", int(code)
    fleet.cycle(dispatch_of(fleet, 20_000.0, duration_s=300.0))
    fleet.run(3)
    before = len(fleet.frames)
    for _ in range(12):
        result = fleet.cycle()
        assert progress_of(result).delivered_w == pytest.approx(fleet.power_w)
        assert fleet.power_w == pytest.approx(20_000.0)
    assert {no for frames in fleet.frames[before:] for no in frames.device_no.tolist()} <= {-1}


def test_who_obeyed_and_stops_in_the_hold_keeps_no_share_of_the_target() -> None:
    fleet = fleet_of(batteries(20))
    fleet.cycle(dispatch_of(fleet, 25_000.0, duration_s=600.0))
    fleet.run(10)
    for device in fleet.devices[:4]:
        device.behaviour = "ignores"
    result = fleet.run(4)
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.01)
    assert progress_of(result).shortfall_w == pytest.approx(0.0, abs=100.0)


def test_a_command_that_has_just_left_is_no_delivery_yet() -> None:
    fleet = fleet_of(batteries(12))
    fleet.dark_gateways.add(1)
    result = fleet.cycle(dispatch_of(fleet, 25_000.0))
    for _ in range(3):
        assert progress_of(result).delivered_w == pytest.approx(0.0, abs=1.0)
        result = fleet.cycle()


def test_a_meter_that_is_turned_round_in_the_hold_makes_its_device_suspect() -> None:
    fleet = fleet_of(batteries(12))
    fleet.cycle(dispatch_of(fleet, 25_000.0))
    fleet.run(5)
    fleet.devices[0].tells_frac = -1.0
    result = fleet.run(6)
    assert device_state(fleet.state, 1, fleet.now_ns, fleet.mono_ns).trust == Trust.SUSPECT
    assert progress_of(result).delivered_w == pytest.approx(25_000.0, rel=0.01)
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.01)


def test_a_gateways_renewal_is_no_evidence_of_a_device_that_misses_reports() -> None:
    fleet = fleet_of(batteries(12))
    fleet.cycle(dispatch_of(fleet, 25_000.0, duration_s=600.0))
    fleet.run(5)
    # The gateway goes on answering for all; behind it one device is cut off and returns to normal by itself.
    fleet.devices[0].behaviour = "dead"
    fleet.run(25)
    assert fleet.devices[0].power_w == 0.0
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.01)


def test_an_unanswered_command_is_repeated_with_its_sequence() -> None:
    fleet = fleet_of(batteries(2))
    fleet.dark_gateways.add(1)
    before = len(fleet.frames)
    fleet.cycle(dispatch_of(fleet, 5_000.0))
    fleet.run(4)
    rows = [
        (no, seq)
        for frames in fleet.frames[before:]
        for no, seq in zip(frames.device_no.tolist(), frames.seq.tolist(), strict=True)
        if no == 1
    ]
    assert len(rows) >= 2
    assert len(set(rows)) == 1


def test_a_reading_is_no_evidence_of_the_time_after_the_lease_has_run_out() -> None:
    fleet = fleet_of([battery(no, merit=no, telemetry_period_s=20.0) for no in range(1, 13)])
    fleet.cycle(dispatch_of(fleet, 25_000.0, duration_s=600.0))
    fleet.run(5)
    # It is not silent before 200 s have passed; the lease that its last reading shows runs out after 60.
    fleet.devices[0].behaviour = "dead"
    result = fleet.run(20)
    assert fleet.devices[0].power_w == 0.0
    assert fleet.power_w == pytest.approx(25_000.0, rel=0.01)
    assert progress_of(result).delivered_w == pytest.approx(25_000.0, rel=0.01)


def report_every(fleet: FakeFleet, period_s: float) -> None:
    """Let the devices report once a period from now on, not in each cycle."""
    at_once = fleet.readings

    def readings() -> list[Arrival]:
        return at_once() if fleet.at_s % period_s == 0.0 else []

    fleet.readings = readings  # type: ignore[method-assign]


@pytest.mark.parametrize("period_s", [60.0, 300.0, 900.0])
def test_a_device_that_reports_seldom_and_dies_is_replaced_when_its_lease_ends_and_not_called_again(
    period_s: float,
) -> None:
    fleet = fleet_of([battery(no, merit=no, gateway_no=no, telemetry_period_s=period_s) for no in range(1, 5)])
    report_every(fleet, period_s)
    fleet.run(15)
    while fleet.at_s % period_s:
        fleet.cycle()
    fleet.cycle(dispatch_of(fleet, 10_000.0, duration_s=9_000.0))
    fleet.run(10)
    while fleet.at_s % period_s:
        fleet.cycle()
    fleet.devices[0].behaviour = "dead"
    fleet.dark_gateways = {1}
    # The lease of 60 s ends, it is told again in vain, the next in line stands in.
    fleet.run(40)
    told = len(fleet.frames)
    for _ in range(int(3 * period_s / 4)):
        result = fleet.cycle()
        assert fleet.power_w == 10_000.0
        assert progress_of(result).delivered_w == pytest.approx(10_000.0)
    kinds = [frames.kind[frames.device_no == 1].tolist() for frames in fleet.frames[told:]]
    assert {kind for one in kinds for kind in one} <= {CommandKind.RELEASE}


def test_a_device_that_lost_its_lease_behind_an_answering_gateway_is_told_again_within_a_ttl() -> None:
    fleet = fleet_of(batteries(3))
    fleet.cycle(dispatch_of(fleet, 15_000.0, duration_s=900.0))
    fleet.run(25)
    # A power cut: it forgets what it was told, and its gateway goes on answering renewals.
    fleet.devices[0].setpoint_w = None
    fleet.run(4)
    assert fleet.power_w == 15_000.0


def test_a_lease_whose_life_is_changed_is_told_anew_and_lives_on() -> None:
    fleet = fleet_of(batteries(3))
    fleet.run(20)
    fleet.cycle(dispatch_of(fleet, 15_000.0, duration_s=900.0))
    fleet.run(10)
    records = [msgspec.structs.replace(device.record, revision=2, command_ttl_s=240.0) for device in fleet.devices]
    result = fleet._step([], [RegistryBatch(tuple(records))])
    assert result.frames.ttl_s[result.frames.device_no >= 0].tolist() == [240.0] * 3
    fleet.run(100)
    assert fleet.power_w == 15_000.0


def test_an_answer_to_a_renewal_that_was_never_sent_is_no_evidence() -> None:
    fleet = fleet_of(batteries(3))
    fleet.cycle(dispatch_of(fleet, 15_000.0, duration_s=900.0))
    fleet.run(20)
    columns = {"device_no": [-1], "epoch": [1], "seq": [2**62], "code": [0], "answered_ns": [fleet.now_ns]}
    answer = AckBatch.of_columns({"gateway_no": 1, "known_ns": fleet.now_ns}, columns)
    fleet.arrivals.append(Arrival(answer, fleet.mono_ns))
    fleet.run(20)
    gateways = fleet.state.fleet.gateways
    gateway = fleet.state.fleet.gateway_row(1)
    assert gateways.acked_seq[gateway] == gateways.renewed_seq[gateway] < 2**62


def test_a_fading_store_that_is_told_again_and_again_counts_with_what_it_gives() -> None:
    """Near its reserve it is no liar: nobody accuses it, and each command was a reason to believe in it anew."""
    fading = battery(1, gateway_no=2, command_latency_s=45.0)
    fading.soc_frac, fading.delivers_frac = 0.21, 0.1
    fleet = fleet_of([fading, *(battery(no, merit=no) for no in range(2, 8))])
    fleet.poll_s_of_gateway = {2: 40.0}
    fleet.cycle(dispatch_of(fleet, 15_000.0, duration_s=900.0))
    fleet.run(50)
    for _ in range(100):
        delivered_w = progress_of(fleet.cycle()).delivered_w
        assert delivered_w == pytest.approx(fleet.power_w, abs=1000.0), fleet.at_s
    assert "device.suspected" not in fleet.log
    assert fleet.power_w == pytest.approx(15_000.0, rel=0.05)
