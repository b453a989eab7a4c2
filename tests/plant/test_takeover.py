"""A region of devices that ramp, some behind slow clouds: their owner is killed on the way and another one goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import pytest

from unisono.base.instants import NS_PER_S
from unisono.main.rehearse import PORTFOLIO_NO, START_NS, portfolio_of_all
from unisono.model.dispatch import Dispatch, TargetPoint
from unisono.plant.checkpoint import Carried, checkpoint, restore
from unisono.plant.replay import Recorded, replay
from unisono.plant.state import PlantConfig, PlantState, new_state
from unisono.plant.step import Arrival, StepResult, step
from unisono.sim.region import Region
from unisono.sim.spec import WorldSpec
from unisono.sim.world import World

CONFIG = PlantConfig(cycle_s=2.0)
CYCLE_NS = 2 * NS_PER_S
# Seven in the evening; ten minutes later the dispatch begins.
BEGIN_NS = START_NS + 19 * 3600 * NS_PER_S
EVENT_NS = BEGIN_NS + 600 * NS_PER_S
AFTER_S = 60
# Without an owner: the process is replaced within a second, and catches up.
AWAY_S = 4
OVER_MAX_FRAC = 0.03


@dataclass
class Seen:
    """One cycle, as shares of the target."""

    at_s: float
    commanded: float
    true: float
    n_frames: int
    n_targeted: int


@cache
def evening(killed_at_s: int | None = None) -> tuple[Seen, ...]:
    """Run the evening; the owner dies after its cycle at that second, right after its checkpoint."""
    return tuple(_run(killed_at_s))


def _run(killed_at_s: int | None) -> Iterator[Seen]:
    region = Region(World(WorldSpec(seed=3, n_devices=200), BEGIN_NS))
    state, registry, target_w = new_state(0, 1, CONFIG), [portfolio_of_all(region)], 0.0
    payload, missed = b"", list[Arrival]()
    for now_ns in range(BEGIN_NS, EVENT_NS + AFTER_S * NS_PER_S, CYCLE_NS):
        at_s, mono_ns = (now_ns - EVENT_NS) / NS_PER_S, now_ns - BEGIN_NS
        arrivals = [Arrival(batch, mono_ns) for batch in region.advance(now_ns)]
        if killed_at_s is not None and killed_at_s < at_s < killed_at_s + AWAY_S:
            missed += arrivals
            continue
        if killed_at_s is not None and at_s == killed_at_s + AWAY_S:
            state = _successor(payload, missed, now_ns, mono_ns)
        requests = [_dispatch(target_w)] if at_s == -CYCLE_NS / NS_PER_S else []
        result = step(state, arrivals, requests, registry, now_ns, mono_ns)
        registry = []
        region.deliver(result.frames, now_ns)
        if at_s < 0.0:
            target_w = round(0.5 * result.totals.portfolios[0].dispatchable_up_w)
            continue
        yield _seen(at_s, result, region, target_w)
        if at_s == killed_at_s:
            payload = checkpoint(state, Carried(), now_ns, mono_ns)


def _successor(payload: bytes, missed: list[Arrival], now_ns: int, mono_ns: int) -> PlantState:
    state, _ = restore(payload, CONFIG, 2, now_ns, mono_ns)
    replay(state, Recorded(arrivals=missed), now_ns, mono_ns)
    return state


def _seen(at_s: float, result: StepResult, region: Region, target_w: float) -> Seen:
    (row,) = result.totals.dispatches
    true_w = float(region.ledger._delta.sum())
    return Seen(at_s, (row.commanded_w or 0.0) / target_w, true_w / target_w, len(result.frames), row.n_targeted)


def _dispatch(power_w: float) -> Dispatch:
    return Dispatch(
        dispatch_id="dsp_1",
        revision=1,
        organisation_id="org_1",
        portfolio_id="pfo_1",
        portfolio_no=PORTFOLIO_NO,
        kind="change_w",
        start_ns=EVENT_NS,
        end_ns=EVENT_NS + 900 * NS_PER_S,
        targets=(TargetPoint(EVENT_NS, power_w),),
        ramp_s=4.0,
    )


@pytest.mark.parametrize("killed_at_s", [4, 8, 14, 20])
def test_after_a_kill_in_the_ramp_nobody_is_called_besides_those_who_are_on_their_way(killed_at_s: int) -> None:
    undisturbed = evening()
    after = [seen for seen in evening(killed_at_s) if seen.at_s >= killed_at_s + AWAY_S]
    for seen in after:
        if seen.at_s <= killed_at_s + AWAY_S + 10:
            most = max(s.commanded for s in undisturbed if abs(s.at_s - seen.at_s) <= AWAY_S)
            assert seen.commanded <= most + OVER_MAX_FRAC, seen
    # In the mean of the twenty seconds after: two clouds whose polls fall together are a spike with or without a kill.
    assert mean_true(after, killed_at_s) <= mean_true(undisturbed, killed_at_s) + OVER_MAX_FRAC


def mean_true(seen: Sequence[Seen], killed_at_s: int) -> float:
    from_s = killed_at_s + AWAY_S
    return fmean(s.true for s in seen if from_s <= s.at_s <= from_s + 20)


def test_every_lease_is_told_anew_under_the_new_epoch() -> None:
    before = [seen for seen in evening(8) if seen.at_s <= 8][-1]
    (first, second) = [seen for seen in evening(8) if seen.at_s > 8][:2]
    assert first.n_frames >= before.n_targeted
    assert second.n_frames < 10
