"""The coordinator of several shards: what it tells them, when, and that the plant delivers as one shard would."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.plant.fake_fleet import START_NS, batteries, dispatch_of, fleet_of
from unisono.base.instants import NS_PER_S
from unisono.main.bench.shard_summaries import summary
from unisono.main.rehearse import PORTFOLIO_NO, START_NS as REGION_NS, Call, RehearsalSpec
from unisono.main.rehearse_shards import ShardedRehearsal, rehearse_shards
from unisono.model.dispatch import Dispatch, DispatchShare, TargetPoint, decode_request, encode_request
from unisono.plant.coordinator import AWAY_AFTER_S, Coordinator
from unisono.plant.requests import fold_request
from unisono.sim.spec import WorldSpec

CYCLE_NS = 4 * NS_PER_S


class Plant:
    """Shards that hold what they are told, and a coordinator that hears them each cycle."""

    def __init__(self, n_shards: int, **part: Any) -> None:
        self.parts: list[dict[str, Any]] = [{"share_frac": 1.0 / n_shards, **part} for _ in range(n_shards)]
        self.more: list[dict[str, Any]] = [{} for _ in range(n_shards)]
        self.coordinator = Coordinator(n_shards, 0)
        self.cycle_no = 0
        self.silent: set[int] = set()

    def cycle(self) -> dict[int, DispatchShare]:
        """Let all that are not silent speak; return what is told, which is held from now on."""
        self.cycle_no += 1
        mono_ns = self.cycle_no * CYCLE_NS
        for shard, part in enumerate(self.parts):
            if shard not in self.silent:
                self.coordinator.fold(summary(shard, self.cycle_no, **self.more[shard], **part), mono_ns)
        told = dict(self.coordinator.decide(mono_ns))
        for shard, share in told.items():
            held = {"round": share.round, "share_frac": share.share_frac, "elsewhere_w": share.elsewhere_w}
            self.parts[shard] |= held
        return told

    @property
    def shares(self) -> list[float]:
        return [part["share_frac"] for part in self.parts]


def test_one_shard_is_told_nothing() -> None:
    plant = Plant(1)
    assert [plant.cycle() for _ in range(5)] == [{}] * 5


def test_shares_are_told_once_as_long_as_nobody_lacks_anything() -> None:
    plant = Plant(2)
    plant.more[0] = {"portfolio": {"dispatchable_up_w": 9e6}}
    assert {shard: share.share_frac for shard, share in plant.cycle().items()} == {0: 0.75, 1: 0.25}
    assert [plant.cycle() for _ in range(10)] == [{}] * 10


def test_nothing_is_told_before_all_shards_are_heard() -> None:
    plant = Plant(3)
    plant.silent = {2}
    assert plant.cycle() == {}
    plant.silent = set()
    assert len(plant.cycle()) == 3


def test_what_one_shard_lacks_goes_to_the_others_within_a_few_cycles() -> None:
    plant = Plant(2)
    plant.cycle()
    plant.parts[0]["left_w"] = 2e5
    n_cycles = 0
    while plant.shares == [0.5, 0.5]:
        plant.cycle()
        n_cycles += 1
    assert n_cycles == 2
    assert plant.shares == pytest.approx([0.3, 0.7])


def test_what_is_lacked_in_one_cycle_alone_moves_nothing() -> None:
    plant = Plant(2)
    plant.cycle()
    for _ in range(5):
        plant.parts[0]["left_w"] = 2e5
        plant.cycle()
        plant.parts[0]["left_w"] = 0.0
        plant.cycle()
    assert plant.shares == [0.5, 0.5]


def test_a_shard_that_is_away_for_long_gives_its_share_to_the_others_and_a_short_absence_moves_nothing() -> None:
    plant = Plant(2)
    plant.cycle()
    plant.silent = {1}
    n_cycles = 0
    while plant.shares == [0.5, 0.5]:
        plant.cycle()
        n_cycles += 1
    assert AWAY_AFTER_S < n_cycles * 4.0 <= AWAY_AFTER_S + 12.0
    assert plant.shares == pytest.approx([1.0, 0.0])
    assert [plant.cycle() for _ in range(10)] == [{}] * 10
    plant.silent = set()
    assert [plant.cycle() for _ in range(10)] == [{}] * 10


def test_a_share_that_was_not_kept_is_told_again() -> None:
    plant = Plant(2)
    plant.more[0] = {"portfolio": {"dispatchable_up_w": 9e6}}
    plant.cycle()
    plant.parts[1] |= {"round": 0, "share_frac": 0.5}
    n_cycles = 0
    while len({part["round"] for part in plant.parts}) > 1:
        plant.cycle()
        n_cycles += 1
    assert n_cycles == 5
    assert plant.shares == pytest.approx([0.6, 0.4])


def test_another_coordinator_goes_on_where_one_left_off() -> None:
    plant = Plant(2)
    plant.more[0] = {"portfolio": {"dispatchable_up_w": 9e6}}
    plant.cycle()
    plant.coordinator = Coordinator(2, plant.cycle_no * CYCLE_NS)
    assert [plant.cycle() for _ in range(5)] == [{}] * 5
    plant.parts[0]["left_w"] = 2e5
    for _ in range(3):
        plant.cycle()
    assert {part["round"] for part in plant.parts} == {2}


def test_targets_of_absolute_power_are_told_with_the_base_of_the_others() -> None:
    plant = Plant(2, kind="net_w", power_w=1e6)
    plant.parts[0]["base_w"], plant.parts[1]["base_w"] = -3e5, 1e5
    told = plant.cycle()
    assert {shard: share.elsewhere_w for shard, share in told.items()} == {0: 1e5, 1: -3e5}
    # By a thousandth of what is asked for: not worth a word. By a tenth: told, and the shares stay.
    plant.parts[0]["base_w"] = -3.01e5
    assert plant.cycle() == {}
    plant.parts[0]["base_w"] = -4e5
    assert plant.cycle()[1].elsewhere_w == -4e5
    assert plant.shares == [0.5, 0.5]


def test_a_share_is_folded_once_and_an_older_round_changes_nothing() -> None:
    fleet = fleet_of(batteries(10))
    fleet.cycle(dispatch_of(fleet, 20_000.0))
    dispatch_id = next(iter(fleet.state.dispatches))
    active = fleet.state.dispatches[dispatch_id]

    def fold(round_no: int, share_frac: float, revision: int = 1) -> None:
        share = DispatchShare(dispatch_id=dispatch_id, revision=revision, round=round_no, share_frac=share_frac)
        again = decode_request(encode_request(share))
        for _ in range(2):
            fold_request(fleet.state, again, START_NS)

    fold(2, 0.5)
    fold(1, 0.9)
    fold(3, 0.7, revision=0)
    assert (active.share_round, active.share_frac) == (2, 0.5)
    assert [entry.kind for entry in fleet.state.pending_log] == ["dispatch.shared"]
    fleet.run(8)
    assert fleet.power_w == pytest.approx(10_000.0, rel=0.01)


def spec_of(*calls: Call, duration_s: float = 1800.0) -> RehearsalSpec:
    return RehearsalSpec(world=WorldSpec(n_devices=600), calls=calls, duration_s=duration_s, misbehave_at_s=300.0)


@cache
def quiet_day(n_shards: int) -> ShardedRehearsal:
    return rehearse_shards(spec_of(duration_s=900.0), n_shards)


@pytest.mark.parametrize("n_shards", [2, 4])
def test_several_shards_see_what_one_sees(n_shards: int) -> None:
    one, several = quiet_day(1), quiet_day(n_shards)
    assert min(several.n_devices_of_shard) > 0
    assert sum(several.n_devices_of_shard) == one.n_devices_of_shard[0]
    for alone, together in zip(one.totals, several.totals, strict=True):
        assert together.n_by_trust == alone.n_by_trust
        for name in ("power_w", "dispatchable_up_w", "dispatchable_down_w", "up_w", "down_w", "power_sd_w"):
            assert getattr(together, name) == pytest.approx(getattr(alone, name), rel=1e-9)


def asked(kind: str, power_w: float) -> Dispatch:
    start_ns = REGION_NS + 480 * NS_PER_S
    return Dispatch(
        dispatch_id="dsp_1",
        revision=1,
        organisation_id="org_rehearsal",
        portfolio_id="pfo_rehearsal",
        portfolio_no=PORTFOLIO_NO,
        kind=kind,
        start_ns=start_ns,
        end_ns=start_ns + 900 * NS_PER_S,
        targets=(TargetPoint(start_ns, power_w),),
        ramp_s=60.0,
        limit_is_export=False,
        policy="pro_rata",
        requested_ns=start_ns - 60 * NS_PER_S,
    )


def mean_between(pairs: list[tuple[float, float]], begin_s: float, end_s: float) -> float:
    return float(np.mean([value for at_s, value in pairs if begin_s <= at_s < end_s]))


@pytest.mark.parametrize("kind", ["net_w", "limit_w"])
@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_target_of_absolute_power_is_met_by_the_plant_as_a_whole(kind: str, n_shards: int) -> None:
    power_w = quiet_day(1).totals[-1].power_w + 100_000.0
    found = rehearse_shards(spec_of(), n_shards, calls=[asked(kind, power_w)])
    net_w = [(4.0 * cycle, totals.power_w) for cycle, totals in enumerate(found.totals)]
    # The plant was at power_w less 100 kW.
    assert mean_between(net_w, 600.0, 1300.0) == pytest.approx(power_w, abs=10_000.0)
    # Others' base is told anew when it has moved by half a percent of what is asked for.
    assert mean_between(found.targets, 600.0, 1300.0) == pytest.approx(power_w, abs=500.0)
    assert bool(found.n_shares_told) is (n_shards > 1)


def test_an_owner_that_is_away_for_twenty_seconds_is_not_missed() -> None:
    call = Call(480.0, 1380.0, 0.4, ramp_s=60.0)
    found = rehearse_shards(spec_of(call), 2, is_there=lambda shard, at_s: shard == 0 or not 800.0 <= at_s < 820.0)
    target_w = found.targets[-30][1]
    lowest_w = min(value for at_s, value in found.truths if 800.0 <= at_s < 1200.0)
    assert lowest_w > 0.9 * target_w
    assert found.ledger["every_invariant_held"]


def test_the_others_take_over_from_a_shard_whose_owner_does_not_come_back() -> None:
    call = Call(480.0, 1680.0, 0.3, ramp_s=60.0)
    found = rehearse_shards(spec_of(call), 2, is_there=lambda shard, at_s: shard == 0 or at_s < 800.0)
    target_w = mean_between(found.targets, 700.0, 800.0)
    # Its own leases have run out long before then: 60 s, and 240 s behind clouds.
    assert mean_between(found.truths, 1200.0, 1600.0) == pytest.approx(target_w, rel=0.05)
    assert found.ledger["every_invariant_held"]


def test_a_part_that_nobody_told_is_an_equal_one() -> None:
    assert math.isnan(DispatchShare(dispatch_id="dsp_1", revision=1, round=1, share_frac=0.5).elsewhere_w)
