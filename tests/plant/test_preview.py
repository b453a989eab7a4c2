"""A preview says what is left of a fleet for one more dispatch, and changes nothing."""

from __future__ import annotations

import msgspec
import pytest

from tests.plant.fake_fleet import FakeFleet, battery, dispatch_of, fleet_of
from unisono.base.instants import NS_PER_S
from unisono.model.dispatch import Dispatch
from unisono.model.queries import Preview, PreviewResult
from unisono.model.registry import PortfolioRecord, RegistryBatch
from unisono.plant.answers import answer
from unisono.plant.step import step


@pytest.fixture
def fleet() -> FakeFleet:
    """Ten batteries of 5 kW in one portfolio, the first four of them in a second one too."""
    made = fleet_of([battery(no, merit=no) for no in range(1, 11)])
    second = PortfolioRecord(
        revision=1, organisation_id="org_1", portfolio_id="pfo_2", portfolio_no=2, device_nos=(1, 2, 3, 4)
    )
    step(made.state, [], [], [RegistryBatch((second,))], made.now_ns, made.mono_ns)
    return made


def previewed(fleet: FakeFleet, spec: Dispatch) -> PreviewResult:
    found = answer(fleet.state, Preview(dispatch=spec), fleet.now_ns, fleet.mono_ns)
    assert isinstance(found, PreviewResult)
    return found


def another(fleet: FakeFleet, power_w: float, **changes: object) -> Dispatch:
    return dispatch_of(fleet, power_w, dispatch_id="dsp_new", **changes)


def test_alone_it_gets_all_there_is(fleet: FakeFleet) -> None:
    found = previewed(fleet, another(fleet, 60_000.0))
    assert (found.deliverable_w, found.shortfall_w, found.n_claimed) == (50_000.0, 10_000.0, 0)


def test_what_a_dispatch_in_an_overlapping_time_takes_is_not_there_twice(fleet: FakeFleet) -> None:
    fleet.cycle(dispatch_of(fleet, 30_000.0))
    for _ in range(2):
        found = previewed(fleet, another(fleet, 30_000.0))
        assert (found.deliverable_w, found.shortfall_w, found.n_claimed) == (20_000.0, 10_000.0, 6)
        # The same while it is scheduled and while it runs.
        fleet.run(6)
    assert fleet.power_w == pytest.approx(30_000.0, rel=0.01), "a preview moves nobody"


def test_two_others_take_one_after_the_other_and_only_shared_devices_count(fleet: FakeFleet) -> None:
    fleet.cycle(
        dispatch_of(fleet, 10_000.0),
        dispatch_of(fleet, 40_000.0, dispatch_id="dsp_2", portfolio_no=2, portfolio_id="pfo_2"),
    )
    found = previewed(fleet, another(fleet, 60_000.0))
    # Two batteries by merit for the first; the second gets what is left of its four: two.
    assert (found.n_claimed, found.deliverable_w) == (4, 30_000.0)


@pytest.mark.parametrize("changes", [{"priority": 101}, {"later": True}, {"dispatch_id": "dsp_new"}])
def test_a_less_urgent_one_a_later_one_and_its_own_revision_before_take_nothing(
    fleet: FakeFleet, changes: dict[str, object]
) -> None:
    if changes.pop("later", False):
        new = another(fleet, 50_000.0)
        start_ns = new.end_ns + 4 * NS_PER_S
        targets = (msgspec.structs.replace(new.targets[0], start_ns=start_ns),)
        changes |= {"start_ns": start_ns, "end_ns": start_ns + 60 * NS_PER_S, "targets": targets}
    fleet.cycle(dispatch_of(fleet, 30_000.0, **changes))
    found = previewed(fleet, another(fleet, 50_000.0, revision=2))
    assert (found.n_claimed, found.shortfall_w) == (0, 0.0)
