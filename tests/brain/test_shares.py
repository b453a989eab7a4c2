"""Shares of a target over shards: firm first, no more moved than must be, and always one in all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from unisono.brain.dispatch.shares import Shards, first_shares, moved_shares


def shards_of(**change: list[float]) -> Shards:
    """Return three shards of equal ability, each with a third."""
    values = {"share_frac": [1 / 3] * 3, "left_w": [0.0] * 3, "firm_w": [60.0] * 3, "free_w": [90.0] * 3}
    columns = {name: np.array(value, np.float64) for name, value in (values | change).items() if name != "is_away"}
    return Shards(**columns, is_away=np.array(change.get("is_away", [0] * 3), np.bool_))


def test_at_first_each_gets_in_proportion_to_what_it_can_surely_hold() -> None:
    assert first_shares(60.0, shards_of(firm_w=[60.0, 30.0, 30.0])).tolist() == [0.5, 0.25, 0.25]


def test_beyond_what_is_firm_each_gets_of_what_is_there_at_all() -> None:
    shares = first_shares(200.0, shards_of(firm_w=[60.0, 60.0, 0.0], free_w=[60.0, 100.0, 120.0]))
    assert (200.0 * shares).tolist() == pytest.approx([60.0, 80.0, 60.0])


def test_who_is_away_gets_nothing_at_first() -> None:
    assert first_shares(60.0, shards_of(is_away=[0, 1, 0])).tolist() == [0.5, 0.0, 0.5]


def test_where_nobody_can_give_anything_all_are_asked_for_the_same() -> None:
    shares = first_shares(60.0, shards_of(firm_w=[0.0] * 3, free_w=[0.0] * 3))
    assert shares.tolist() == pytest.approx([1 / 3] * 3)


def test_nothing_moves_as_long_as_nobody_lacks_anything() -> None:
    shards = shards_of(share_frac=[0.7, 0.2, 0.1])
    assert moved_shares(90.0, shards) is shards.share_frac


def test_what_one_has_nobody_left_for_goes_to_those_who_have_room() -> None:
    shares = moved_shares(90.0, shards_of(left_w=[10.0, 0.0, 0.0], firm_w=[0.0, 40.0, 60.0]))
    assert (90.0 * shares).tolist() == pytest.approx([20.0, 32.5, 37.5])


def test_what_nobody_has_room_for_stays_where_it_is_missed() -> None:
    shares = moved_shares(90.0, shards_of(left_w=[10.0, 0.0, 0.0], firm_w=[0.0, 34.0, 30.0], free_w=[0.0, 34.0, 32.0]))
    assert (90.0 * shares).tolist() == pytest.approx([24.0, 34.0, 32.0])


def test_all_of_one_that_is_away_goes_to_the_others() -> None:
    shares = moved_shares(90.0, shards_of(is_away=[0, 0, 1]))
    assert (90.0 * shares).tolist() == pytest.approx([45.0, 45.0, 0.0])


POWERS = st.lists(st.floats(0.0, 1e6), min_size=3, max_size=3)


@given(st.floats(1.0, 1e6), POWERS, POWERS, POWERS, POWERS, st.lists(st.booleans(), min_size=3, max_size=3))
def test_shares_are_never_negative_and_always_add_up_to_one(
    whole_w: float, held: list[float], left: list[float], firm: list[float], free: list[float], away: list[bool]
) -> None:
    held_frac = (np.array(held) + 1.0) / (np.array(held) + 1.0).sum()
    shards = Shards(held_frac, np.array(left), np.array(firm), np.array(free), np.array(away))
    for shares in (first_shares(whole_w, shards), moved_shares(whole_w, shards)):
        assert shares.min() >= -1e-12
        assert shares.sum() == pytest.approx(1.0)
