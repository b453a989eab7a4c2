from __future__ import annotations

import numpy as np
import pytest

from tests.fleet.builders import T0_NS, table_of
from unisono.base.instants import NS_PER_S
from unisono.brain.dispatch.controller import ActiveDispatch, Steered, note_shortfall
from unisono.brain.dispatch.members import new_members
from unisono.model.dispatch import Dispatch, TargetPoint


def active_of(*targets_w: float) -> ActiveDispatch:
    table = table_of()
    spec = Dispatch(
        dispatch_id="dsp_1",
        revision=1,
        organisation_id="org_1",
        portfolio_id="pfo_1",
        portfolio_no=1,
        kind="change_w",
        start_ns=T0_NS,
        end_ns=T0_NS + 3600 * NS_PER_S,
        targets=tuple(TargetPoint(T0_NS + at * NS_PER_S, power_w) for at, power_w in enumerate(targets_w)),
    )
    members = new_members(np.zeros(0, np.int32), table.nameplate, table.picture, table.leases)
    return ActiveDispatch(spec, 1, members, accepted_ns=T0_NS, frozen_ns=T0_NS, fleet_version=0)


def turns(active: ActiveDispatch, target_w: float, *shortfalls_w: float) -> list[str]:
    """Follow shortfalls of one cycle each while the target is held."""
    return [
        note_shortfall(active, Steered(target_w, target_w - short_w, short_w, 0.0, 0, 0, is_holding=True), T0_NS)
        for short_w in shortfalls_w
    ]


def test_a_few_watts_at_no_target_are_no_shortfall() -> None:
    assert turns(active_of(0.0), 0.0, 0.06, 99.0, 99.0) == ["", "", ""]
    assert turns(active_of(0.0), 0.0, 101.0, 101.0, 51.0, 49.0) == ["", "begins", "", "ends"]


@pytest.mark.parametrize(("largest_w", "floor_w"), [(1000.0, 100.0), (100_000.0, 2000.0), (-1e6, 20_000.0)])
def test_at_no_target_a_shortfall_is_measured_by_the_largest_target_of_the_call(
    largest_w: float, floor_w: float
) -> None:
    active = active_of(largest_w, 0.0)
    assert turns(active, 0.0, floor_w, floor_w, floor_w) == ["", "", ""]
    assert turns(active, 0.0, floor_w + 1.0, floor_w + 1.0) == ["", "begins"]


def test_at_its_largest_target_a_call_is_short_beyond_a_twentieth() -> None:
    assert turns(active_of(10_000.0), 10_000.0, 499.0, 499.0, 501.0, 501.0) == ["", "", "", "begins"]
