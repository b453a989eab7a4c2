"""The picture: sums over shards, honest about age; and the way to ask a shard."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest

from unisono.base.clock import MovableClock
from unisono.base.errors import Unavailable
from unisono.model.ingest import COUNTER_NAMES, IngestCounters, no_counts
from unisono.model.queries import DeviceQuery, DeviceStates, Refused, encode_answer
from unisono.model.totals import PortfolioTotals, ShardTotals
from unisono.services.picture import STALE_AFTER_S, Picture, ask, merged

NOW_NS = 1_795_000_000_000_000_000


def portfolio(**change: Any) -> PortfolioTotals:
    """Return the sums of one portfolio of four devices, three of them active."""
    values: dict[str, Any] = {
        "portfolio_no": 1,
        "n_devices": 4,
        "n_by_trust": (0, 2, 1, 1, 0),
        "n_by_lifecycle": (1, 0, 3, 0, 0),
        "n_by_technology": {2: 4},
        "enrolled_export_w_by_technology": {2: 400.0},
        "power_w": 10.0,
        "power_sd_w": 3.0,
        "commanded_w": 1.0,
        "acknowledged_w": 1.0,
        "n_by_level": (1, 1, 1, 1),
        "reported_w": 1.0,
        "measured_w": 1.0,
        "up_w": 100.0,
        "down_w": -50.0,
        "dispatchable_up_w": 60.0,
        "dispatchable_down_w": -30.0,
        "dispatchable_hold_s": 3600.0,
        "energy_up_wh": 10.0,
        "energy_down_wh": 5.0,
        "completeness_frac": 0.5,
    }
    return PortfolioTotals(**{**values, **change})


def totals(shard: int = 0, **change: Any) -> ShardTotals:
    """Return a shard's totals."""
    values: dict[str, Any] = {
        "shard": shard,
        "epoch": 1,
        "cycle": 1,
        "at_ns": NOW_NS,
        "cycle_ms": 1.0,
        "n_devices": 4,
        "n_by_trust": (0, 4, 0, 0, 0),
        "power_w": 0.0,
        "up_w": 0.0,
        "down_w": 0.0,
        "readings_seq": 1,
        "portfolios": (portfolio(),),
        "dispatches": (),
        "ingest": None,
    }
    return ShardTotals(**{**values, **change})


def test_shards_add_up_and_deviations_add_as_independent_ones() -> None:
    other = portfolio(power_sd_w=4.0, n_by_technology={1: 1}, n_by_lifecycle=(0, 0, 1, 0, 0), completeness_frac=1.0)
    both = merged([portfolio(), msgspec.structs.replace(other, dispatchable_hold_s=900.0)])
    assert (both.n_devices, both.power_w, both.power_sd_w) == (8, 20.0, 5.0)
    assert (both.n_by_technology, both.n_by_trust) == ({2: 4, 1: 1}, (0, 4, 2, 2, 0))
    assert both.dispatchable_hold_s == 900.0
    assert both.completeness_frac == pytest.approx((3 * 0.5 + 1 * 1.0) / 4)


def test_a_picture_is_as_old_as_its_oldest_shard() -> None:
    clock = MovableClock(NOW_NS)
    picture = Picture(clock, n_shards=2)
    picture.fold_totals(totals(0))
    assert "not been heard" in picture.stale_reason()
    clock.advance(STALE_AFTER_S)
    picture.fold_totals(totals(1, at_ns=NOW_NS + 5))
    assert picture.stale_reason() == ""
    seen = picture.portfolio(1)
    assert (seen.age_s, seen.as_of_ns) == (STALE_AFTER_S, NOW_NS)
    clock.advance(1)
    assert "last heard 13 s ago" in picture.stale_reason()


def test_a_stepped_wall_clock_ages_nothing() -> None:
    clock = MovableClock(NOW_NS)
    picture = Picture(clock)
    picture.fold_totals(totals())
    clock.step_wall(3600)
    assert picture.portfolio(1).age_s == 0.0


def test_a_portfolio_that_realtime_does_not_know_has_no_sums() -> None:
    picture = Picture(MovableClock(NOW_NS))
    picture.fold_totals(totals())
    assert picture.portfolio(9).totals is None
    assert "does not know" in picture.portfolio(9).stale_reason


def test_who_waits_for_news_is_woken_by_the_next_cycle() -> None:
    async def main() -> int:
        picture = Picture(MovableClock(NOW_NS))
        waiting = asyncio.create_task(picture.changed(picture.version, 60))
        await asyncio.sleep(0)
        picture.fold_totals(totals())
        return await waiting

    assert asyncio.run(main()) == 1


def counters(counts_of_gateway: dict[int, int], role: str = "front", **change: Any) -> IngestCounters:
    """Return counters in which each gateway has so many readings accepted and one kept."""
    counts = no_counts(len(counts_of_gateway))
    counts[:, 0], counts[:, 1] = list(counts_of_gateway.values()), 1
    more = {"run": 1, "at_ns": NOW_NS, "n_gateways": len(counts_of_gateway), **change}
    return IngestCounters.of_rows(np.array(list(counts_of_gateway), np.int32), counts, role=role, instance="0", **more)


def numbers(*gateway_nos: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return gateway numbers as a column."""
    return np.array(gateway_nos, np.int32)


def test_counters_are_summed_over_gateways_by_name() -> None:
    picture = Picture(MovableClock(NOW_NS))
    picture.fold_counters(counters({-1: 7, 1: 0, 2: 3}))
    assert picture.ingest_counts()["front", "0"] | {"late": 0} == dict.fromkeys(COUNTER_NAMES, 0) | {
        "accepted": 10, "kept": 3
    }  # fmt: skip
    assert picture.ingest_counts(numbers(2, 900))["front", "0"]["accepted"] == 3
    assert picture.heard_of_gateway() == {2: 3}


def test_what_realtime_sees_again_is_not_accepted_twice() -> None:
    picture = Picture(MovableClock(NOW_NS))
    picture.fold_counters(counters({2: 3}))
    picture.fold_totals(totals(ingest=counters({2: 3}, role="realtime")))
    [one] = picture.ingest_of_gateways(numbers(2))
    assert one is not None
    assert (one["accepted"], one["kept"]) == (3, 2)


def test_a_gateway_is_unknown_and_not_at_zero_until_a_process_has_told_of_all_it_counted() -> None:
    picture = Picture(MovableClock(NOW_NS))
    assert picture.ingest_of_gateways(numbers(2)) == [None]
    picture.fold_counters(counters({2: 3}, n_gateways=2))
    assert picture.ingest_missing() == ["front 0 has not told of all gateways yet"]
    assert [one is None for one in picture.ingest_of_gateways(numbers(2, 3))] == [False, True]
    picture.fold_counters(counters({5: 1}, n_gateways=2))
    assert picture.ingest_missing() == []
    assert picture.ingest_of_gateways(numbers(3)) == [dict.fromkeys(COUNTER_NAMES, 0)]


def test_what_a_front_counted_in_former_runs_stays() -> None:
    picture = Picture(MovableClock(NOW_NS))
    picture.fold_counters(counters({2: 3, 4: 9}))
    picture.fold_counters(counters({2: 1, 700: 5}, run=2, n_gateways=2))
    picture.fold_counters(counters({2: 3, 4: 9}))
    assert picture.heard_of_gateway() == {2: 4, 4: 9, 700: 5}
    assert picture.ingest_counts()["front", "0"]["accepted"] == picture.ingest_totals()["accepted"] == 18
    rows = picture.ingest_of_gateways(numbers(2, 4, 700))
    assert [row and (row["accepted"], row["kept"]) for row in rows] == [(4, 2), (9, 1), (5, 1)]
    picture.fold_counters(counters({2: 2}, run=3))
    assert picture.ingest_totals(numbers(2, 4))["accepted"] == 15


def test_realtime_that_began_again_goes_on_counting() -> None:
    picture = Picture(MovableClock(NOW_NS))
    for epoch, accepted in ((1, 3), (2, 4)):
        picture.fold_counters(counters({2: accepted}, role="realtime", run=epoch))
    assert picture.ingest_counts()["realtime", "0"]["accepted"] == 4
    assert picture.ingest_totals()["kept"] == 1


def test_what_was_accepted_is_no_less_than_what_became_of_it() -> None:
    picture = Picture(MovableClock(NOW_NS))
    fates = no_counts(2)
    fates[:, 1:3] = [[7, 2], [1, 0]]
    more = {"run": 1, "at_ns": NOW_NS, "n_gateways": 2}
    told = IngestCounters.of_rows(numbers(2, 3), fates, role="realtime", instance="0", **more)
    picture.fold_counters(told)
    picture.fold_counters(counters({2: 1, 3: 9}))
    rows = picture.ingest_of_gateways(numbers(2, 3))
    assert [row and row["accepted"] for row in rows] == [10, 9]
    totals = picture.ingest_totals()
    assert totals["accepted"] == 19
    assert totals == picture.ingest_totals(numbers(2, 3))


class Realtime:
    """A bus that gives one answer."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    async def request(self, subject: str, payload: bytes, timeout_s: float = 2.0) -> bytes:
        """Return it."""
        assert subject == "query.0"
        return self.payload


def test_an_answer_that_is_none_or_a_refusal_is_unavailability() -> None:
    good = encode_answer(DeviceStates(at_ns=NOW_NS, states=()))
    assert asyncio.run(ask(Realtime(good), 0, DeviceQuery(device_no=1))) == DeviceStates(at_ns=NOW_NS, states=())
    with pytest.raises(Unavailable, match="not ready"):
        asyncio.run(ask(Realtime(encode_answer(Refused(reason="not ready"))), 0, DeviceQuery(device_no=1)))
    with pytest.raises(Unavailable, match="can't be read"):
        asyncio.run(ask(Realtime(b"\xc1"), 0, DeviceQuery(device_no=1)))
