"""An hour of the bench ``double``: what its checks say, and that they can fail."""

from __future__ import annotations

import dataclasses

import pytest

from unisono.main.bench import double
from unisono.main.bench.owner import Owner
from unisono.main.rehearse import Call, RehearsalSpec
from unisono.plant.state import PlantState

CALLS = (Call(600.0, 1200.0, 0.5, "pro_rata"), Call(1300.0, 1700.0, -0.4))
N_CRASHES = 40


def half_an_hour() -> RehearsalSpec:
    return dataclasses.replace(double.spec_of(60), calls=CALLS, duration_s=1800.0, misbehave_at_s=300.0)


def test_a_plant_that_hears_everything_twice_and_dies_forty_times_does_what_an_undisturbed_one_does() -> None:
    result = double.compared(half_an_hour(), N_CRASHES)
    figures = {one.name: one.value for one in result.figures}
    assert figures["sent twice: setpoints that differ"] == figures["sent twice: powers that differ"] == 0
    assert figures["heirs that ask something else in their first cycle"] == 0
    assert all(result.checks.values()), result.checks
    assert result.sizes["commands obeyed"] > 100


def test_an_owner_that_forgets_a_part_of_its_loop_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    remember = Owner.successor

    def forget(self: Owner, epoch: int, now_ns: int, mono_ns: int) -> PlantState:
        state = remember(self, epoch, now_ns, mono_ns)
        for active in state.dispatches.values():
            active.gap_w = 0.0
        return state

    monkeypatch.setattr(Owner, "successor", forget)
    result = double.compared(half_an_hour(), N_CRASHES)
    figures = {one.name: one.value for one in result.figures}
    assert figures["sent twice: setpoints that differ"] > 0
    assert figures["heirs that ask something else in their first cycle"] > 0
    assert not result.checks["sent twice: the region's account is the same"]
