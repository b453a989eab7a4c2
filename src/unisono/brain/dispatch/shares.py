"""Which part of a plant's target each shard gives, from the shards' own sums; work grows with shards, not with devices.

At first each gets what it can surely hold (``firm_w``), in proportion. While a dispatch runs, shares move only where
they must: what a shard has nobody left for, and all of one that is away, goes to those who have room. Shares always
add up to one, so that what nobody can give stays visible as shortfall where it arises.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.fleet.columns import F8

# What is missing below this part of the whole is within what dead-bands leave out (1 % of a device's rating).
NOTICEABLE_FRAC: Final = 0.005


class Shards(NamedTuple):
    """What each shard says of one dispatch, in the direction of its target; powers are >= 0."""

    # The share it holds, and what of it nobody was left for.
    share_frac: F8
    left_w: F8
    # What its members can change by: surely, and at all.
    firm_w: F8
    free_w: F8
    is_away: NDArray[np.bool_]


def first_shares(whole_w: float, shards: Shards) -> F8:
    """Return the shares of a dispatch of which no shard gives anything yet: firm first, then what is there at all."""
    firm_w = np.where(shards.is_away, 0.0, shards.firm_w)
    free_w = np.where(shards.is_away, 0.0, np.maximum(shards.free_w - firm_w, 0.0))
    given_w = _filled(whole_w, firm_w)
    given_w += _filled(whole_w - float(given_w.sum()), free_w)
    if not given_w.any():
        given_w = np.where(shards.is_away & ~shards.is_away.all(), 0.0, 1.0)
    shares: F8 = given_w / given_w.sum()
    return shares


def moved_shares(whole_w: float, shards: Shards) -> F8:
    """Return the shares of a dispatch that runs; as they are, when little is missing or nobody has room."""
    held_w = shards.share_frac * whole_w
    missing_w = np.where(shards.is_away, held_w, np.minimum(shards.left_w, held_w))
    missing_sum_w = float(missing_w.sum())
    if whole_w <= 0.0 or missing_sum_w <= NOTICEABLE_FRAC * whole_w:
        return shards.share_frac
    has_room = ~shards.is_away & (shards.left_w <= 0.0)
    firm_w = np.where(has_room, np.maximum(shards.firm_w - held_w, 0.0), 0.0)
    free_w = np.where(has_room, np.maximum(shards.free_w - held_w - firm_w, 0.0), 0.0)
    taken_w = _filled(missing_sum_w, firm_w)
    taken_w += _filled(missing_sum_w - float(taken_w.sum()), free_w)
    moved_frac = float(taken_w.sum()) / missing_sum_w
    return (held_w - moved_frac * missing_w + taken_w) / whole_w


def _filled(need_w: float, room_w: F8) -> F8:
    """Return how much of each one's room is taken: in proportion, and never more than there is."""
    there_w = float(room_w.sum())
    return room_w * min(1.0, max(0.0, need_w) / there_w) if there_w > 0.0 else np.zeros_like(room_w)
