"""Alarms: raised when something stays wrong, cleared when it stays right, one for each thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.services.test_picture import NOW_NS, portfolio, totals

from unisono.base.clock import MovableClock
from unisono.base.instants import NS_PER_S
from unisono.model.dispatch import DispatchProgress
from unisono.services.alarms import (
    COVERAGE,
    SHORTFALL,
    AlarmBook,
    AlarmSettings,
    Condition,
    SilenceWatch,
    conditions_of_dispatches,
    conditions_of_portfolio,
)
from unisono.services.picture import Picture

SETTINGS = AlarmSettings(hold_s=10, clear_s=20)
WRONG = Condition("org", COVERAGE, "pfo", "words")


def at(seconds: float) -> int:
    """Return a monotonic instant."""
    return round(seconds * NS_PER_S)


def test_what_is_wrong_for_a_moment_raises_nothing() -> None:
    book = AlarmBook(SETTINGS)
    assert book.look([WRONG], at(0)) == ([], [])
    assert book.look([], at(5)) == ([], [])
    assert book.look([WRONG], at(11)) == ([], []), "counting began anew"


def test_an_alarm_is_raised_once_and_cleared_after_a_while_of_peace() -> None:
    book = AlarmBook(SETTINGS)
    book.look([WRONG], at(0))
    assert book.look([WRONG], at(10)) == ([WRONG], [])
    assert book.look([WRONG], at(15)) == ([], [])
    assert book.look([], at(20)) == ([], [])
    assert book.look([WRONG], at(30)) == ([], []), "back before it was cleared: the same alarm"
    assert book.look([], at(49)) == ([], [])
    assert book.look([], at(50)) == ([], [WRONG])
    assert book.look([], at(99)) == ([], [])


def test_an_alarm_of_an_earlier_process_is_cleared_when_it_is_over() -> None:
    book = AlarmBook(SETTINGS)
    book.adopt([WRONG], at(0))
    assert book.look([], at(10)) == ([], [])
    assert book.look([], at(20)) == ([], [WRONG])


def test_the_words_of_an_open_alarm_follow_once_a_minute() -> None:
    book = AlarmBook(SETTINGS)

    def look(seconds: float, words: str) -> list[str]:
        book.look([replace(WRONG, detail=words)], at(seconds))
        return [one.detail for one in book.to_refresh(at(seconds))]

    assert [look(0, "a"), look(5, "b"), look(10, "c")] == [[], [], []], "raised with the words of now"
    assert [look(15, "d"), look(69, "e"), look(70, "f"), look(75, "g")] == [[], [], ["f"], []]
    assert look(131, "f") == [], "it says so already"
    book.look([], at(140))
    assert book.to_refresh(at(140)) == []


@pytest.mark.parametrize(("fresh_frac", "n_active", "n_wrong"), [(0.79, 3, 1), (0.8, 3, 0), (0.0, 0, 0)])
def test_coverage_counts_active_devices_only(fresh_frac: float, n_active: int, n_wrong: int) -> None:
    sums = portfolio(completeness_frac=fresh_frac, n_by_lifecycle=(9, 0, n_active, 0, 0))
    found = conditions_of_portfolio("org", "pfo", sums, SETTINGS)
    assert sum(one.is_wrong for one in found) == n_wrong
    assert len(found) == (n_active > 0)


@pytest.mark.parametrize(
    ("state", "target_w", "shortfall_w", "n_wrong"),
    [
        ("active", 1000.0, 51.0, 1),
        ("active", 1000.0, 49.0, 0),
        ("active", -1000.0, -51.0, 1),
        ("scheduled", 1000.0, 999.0, 0),
    ],
)
def test_a_dispatch_in_force_that_falls_short_is_wrong(
    state: str, target_w: float, shortfall_w: float, n_wrong: int
) -> None:
    picture = Picture(MovableClock(NOW_NS))
    values: dict[str, Any] = {
        name: 0 for name in DispatchProgress.__struct_fields__ if name not in DispatchProgress.__struct_defaults__
    }
    values |= {"dispatch_id": "dsp", "organisation_id": "org", "portfolio_id": "pfo", "state": state}
    row = DispatchProgress(**{**values, "target_w": target_w, "shortfall_w": shortfall_w, "frames_digest": ""})
    picture.fold_totals(totals(dispatches=(row,)))
    found = conditions_of_dispatches(picture, SETTINGS)
    assert [one.kind for one in found if one.is_wrong] == [SHORTFALL] * n_wrong


def test_a_gateway_that_was_silent_before_a_restart_is_so_until_it_is_heard() -> None:
    watch = SilenceWatch([1, 7])
    assert watch.silent({1: 10}, at(0), 60) == {1: 60.0, 7: 60.0}
    assert watch.silent({1: 10}, at(90), 60) == {1: 90.0, 7: 60.0}
    assert watch.silent({1: 11, 7: 3}, at(95), 60) == {7: 60.0}
    assert watch.silent({1: 11, 7: 4}, at(99), 60) == {}


def test_a_gateway_is_silent_when_its_count_stands_still() -> None:
    watch = SilenceWatch()
    assert watch.silent({1: 10, 2: 5}, at(0), 60) == {}
    assert watch.silent({1: 11, 2: 5}, at(59), 60) == {}
    assert watch.silent({1: 12, 2: 5}, at(60), 60) == {2: 60.0}
    assert watch.silent({1: 12, 2: 6}, at(61), 60) == {}
