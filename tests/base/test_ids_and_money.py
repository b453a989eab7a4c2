"""Identities and amounts."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, strategies as st

from unisono.base.errors import InvalidInput
from unisono.base.ids import PREFIX_OF_KIND, check_id, new_id, new_ids, shard_of_site
from unisono.base.money import Money


@given(st.sampled_from(sorted(PREFIX_OF_KIND)), st.integers(0, 2**60), st.binary(min_size=10, max_size=10))
def test_an_id_is_accepted_as_its_kind_and_no_other(kind: str, at_ns: int, randomness: bytes) -> None:
    text = new_id(kind, at_ns, randomness)
    assert check_id(kind, text, "id") == text
    other = "site" if kind != "site" else "device"
    with pytest.raises(InvalidInput):
        check_id(other, text, "id")


def test_ids_sort_by_their_instant() -> None:
    ids = [new_id("device", ms * 10**6, bytes(10)) for ms in (3, 1, 2)]
    assert sorted(ids) == [ids[1], ids[2], ids[0]]


def test_prefixes_are_unique() -> None:
    assert len(set(PREFIX_OF_KIND.values())) == len(PREFIX_OF_KIND)


def test_money_is_exact_and_keeps_its_currency() -> None:
    price = Money.parse("0.1", "USD")
    assert price + Money.parse("0.2", "USD") == Money.parse("0.3", "USD")
    assert price.times(Decimal("0.333333")).micros == 33_333
    with pytest.raises(InvalidInput, match="currency"):
        price + Money.parse("1", "EUR")
    with pytest.raises(InvalidInput, match="six decimals"):
        Money.parse("0.1234567", "USD")


def test_the_shard_of_a_site_never_changes() -> None:
    site_ids = ("sit_01JQ0000000000000000000000", "sit_01JQ0000000000000000000001", "sit_01K9ZZZZZZZZZZZZZZZZZZZZZZ")
    assert [[shard_of_site(one, n) for one in site_ids] for n in (1, 2, 4, 1000)] == [
        [0, 0, 0],
        [1, 1, 1],
        [1, 3, 1],
        [569, 31, 853],
    ]


@pytest.mark.parametrize("n_shards", [2, 3, 4, 64])
def test_sites_spread_evenly_over_shards(n_shards: int) -> None:
    n_sites = 64_000
    randomness = np.random.default_rng(1).bytes(10 * n_sites)
    shards = [shard_of_site(one, n_shards) for one in new_ids("site", 1_790_000_000_000_000_000, randomness)]
    counts = np.bincount(shards, minlength=n_shards)
    # Five standard deviations of a fair choice.
    expected = n_sites / n_shards
    assert np.abs(counts - expected).max() < 5.0 * expected**0.5
