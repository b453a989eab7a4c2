"""What a gateway may send, with time moved by hand."""

from __future__ import annotations

import numpy as np
from tests.links.edge import NOW_NS, fleet

from unisono.base.clock import MovableClock
from unisono.links.allowance import Allowances, RateSettings
from unisono.links.identity import Identity

# Gateway 1 has two devices that report each minute.
DECLARED_PER_S = 2 / 60
ONE = np.array([1])


def allowances(clock: MovableClock, **settings: float) -> Allowances:
    identity = Identity()
    identity.fold(fleet())
    return Allowances(identity, clock.monotonic_ns, RateSettings(**settings))  # type: ignore[arg-type]


def test_a_gateway_may_send_a_multiple_of_what_its_devices_declare() -> None:
    assert allowances(MovableClock(NOW_NS), factor=10.0, floor_per_s=0.1).per_s(1) == 10 * DECLARED_PER_S
    assert allowances(MovableClock(NOW_NS), factor=10.0, floor_per_s=7.0).per_s(1) == 7.0


def test_what_was_taken_comes_back_with_time_and_no_more_than_a_burst() -> None:
    clock = MovableClock(NOW_NS)
    found = allowances(clock, floor_per_s=2.0, burst_min=50)
    assert found.take(ONE, np.array([1000])).tolist() == [120]
    assert found.take(ONE, np.array([1])).tolist() == [0]
    clock.advance(3.0)
    assert found.take(ONE, np.array([10])).tolist() == [6]
    clock.advance(10_000.0)
    assert found.take(ONE, np.array([1000])).tolist() == [120]


def test_batches_are_taken_whole_and_in_order() -> None:
    found = allowances(MovableClock(NOW_NS), floor_per_s=1.0, burst_min=100)
    taken = found.take_whole(np.array([1, 2, 1, 1]), np.array([60, 100, 60, 40]))
    assert taken.tolist() == [True, True, False, True]


def test_what_is_kept_in_any_case_is_owed_and_waited_for() -> None:
    clock = MovableClock(NOW_NS)
    found = allowances(clock, floor_per_s=2.0, burst_min=10)
    assert not found.owe(1, 120)
    assert found.owe(1, 19)
    assert found.wait_s(1) == 10
    assert found.wait_s(2) == 0
    clock.advance(10.0)
    assert found.wait_s(1) == 0
    assert not found.owe(-1, 10**9)
