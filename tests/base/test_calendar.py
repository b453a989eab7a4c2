"""Local days and instants, on the days when clocks change."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from hypothesis import given, strategies as st

from unisono.base.calendar import instant_of_local, quarters_of_day
from unisono.base.clock import MovableClock
from unisono.base.errors import InvalidInput
from unisono.base.instants import EARLIEST_NS, LATEST_NS, format_rfc3339, parse_rfc3339


@pytest.mark.parametrize(
    ("day", "n_quarters"), [(date(2026, 3, 8), 92), (date(2026, 3, 9), 96), (date(2026, 11, 1), 100)]
)
def test_a_day_has_92_96_or_100_quarter_hours(day: date, n_quarters: int) -> None:
    assert len(quarters_of_day(day, "America/Los_Angeles")) == n_quarters


def test_an_hour_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        instant_of_local(datetime.fromisoformat("2026-03-08T02:30"), "America/Los_Angeles")


def test_an_hour_that_exists_twice_needs_a_choice() -> None:
    twice = datetime.fromisoformat("2026-11-01T01:30")
    with pytest.raises(InvalidInput, match="exists twice"):
        instant_of_local(twice, "America/Los_Angeles")
    first = instant_of_local(twice, "America/Los_Angeles", "first")
    assert instant_of_local(twice, "America/Los_Angeles", "second") - first == 3600 * 10**9


@given(st.integers(EARLIEST_NS, LATEST_NS - 1))
def test_an_instant_survives_its_text(at_ns: int) -> None:
    assert parse_rfc3339(format_rfc3339(at_ns)) == at_ns


@pytest.mark.parametrize(
    "text", ["2026-11-20", "2026-11-20T17:00:00", "2026-13-01T00:00:00Z", "1999-12-31T23:59:59Z", ""]
)
def test_a_text_that_is_no_instant_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_rfc3339(text, "start")
    assert refused.value.field == "start"


def test_a_stepped_wall_clock_ages_nothing() -> None:
    clock = MovableClock(0)
    clock.advance(1.5)
    clock.step_wall(-3600)
    assert clock.monotonic_ns() == 1_500_000_000
    assert clock.wall_ns() == 1_500_000_000 - 3600 * 10**9
