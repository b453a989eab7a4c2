"""What readings alone say of a device: who is accused of what, and which honest oddities accuse nobody."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.fleet.builders import M0_NS, T0_NS, batch_of, record, table_of
from unisono.base.instants import NS_PER_S
from unisono.fleet.apply import apply_readings
from unisono.fleet.doubt import APART_ACCUSES, APART_FRAC, APART_RATING_FRAC, APART_W, BETWEEN_S, CLOSE_S
from unisono.fleet.table import FleetTable
from unisono.fleet.trust import SUSPECT_S, SuspectReason, reconcile, suspect
from unisono.model.ratings import Ratings
from unisono.model.technology import Technology, Trust

METER, DEVICE, CLOUD = 0, 1, 2
ARRAY = Ratings(power_max_w=5000.0, power_min_w=0.0)
TANK = Ratings(power_max_w=0.0, power_min_w=-4500.0, is_on_off=True)


def tell(table: FleetTable, at_s: float, power_w: float, source: int = DEVICE, **values: float) -> int:
    """Fold one reading and look; return the reason of a new suspicion, else 0."""
    known_ns, mono_ns = T0_NS + round(at_s * NS_PER_S), M0_NS + round(at_s * NS_PER_S)
    row = {"measured_ns": known_ns, "power_w": power_w, "source_kind": source, **values}
    apply_readings(table, [batch_of([row], known_ns)], [mono_ns])
    n = table.n_devices
    reconcile(n, mono_ns, table.nameplate, table.slots, table.picture)
    n_found = suspect(n, mono_ns, table.nameplate, table.picture, table.leases, np.empty(n, np.int32))
    return int(table.picture.suspect_code[0]) if n_found else 0


def tell_all(table: FleetTable, powers_w: list[float], period_s: float = 10.0, from_s: float = 0.0) -> int:
    """Return the first reason that is given on the way, else 0."""
    for k, power_w in enumerate(powers_w):
        if reason := tell(table, from_s + k * period_s, power_w):
            return reason
    return 0


def fluttering(n: int, power_w: float = 3000.0, step_w: float = 0.1) -> list[float]:
    noise = np.random.default_rng(3).normal(0.0, 0.0025 * abs(power_w) + 1.0, n)
    return (np.round((power_w + noise) / step_w) * step_w).tolist()


def test_a_source_that_used_to_flutter_and_stands_still_is_frozen() -> None:
    table = table_of(record(1))
    assert tell_all(table, fluttering(60)) == 0
    assert tell_all(table, [2987.3] * 12, from_s=600.0) == SuspectReason.FROZEN


@pytest.mark.parametrize("powers_w", [
    fluttering(60, 0.5) + [0.0] * 200,                      # switched off: exactly nothing
    [0.0] * 50 + [4000.0] * 200,                            # a coarse meter at a setpoint
    fluttering(60, 3000.0, 100.0) + [3000.0] * 200,         # steps of 100 W
    [7200.0, 7200.0, 0.0, 0.0] * 30 + [7200.0] * 100,       # computed, not measured
])  # fmt: skip
def test_a_source_that_is_steady_by_nature_is_not_accused_of_being_frozen(powers_w: list[float]) -> None:
    assert tell_all(table_of(record(1, ratings=Ratings(power_max_w=8000.0, power_min_w=-8000.0))), powers_w) == 0


def test_who_holds_its_setpoint_may_report_just_that() -> None:
    table = table_of(record(1))
    tell_all(table, fluttering(60))
    leases = table.leases
    leases.state[0], leases.setpoint_w[0], leases.acked_seq[0], leases.seq[0] = 1, 2500.0, 5, 5
    assert tell_all(table, [2500.0] * 50, from_s=600.0) == 0


def test_an_array_that_goes_on_in_the_dark_is_frozen() -> None:
    table = table_of(record(1, technology=Technology.PV, ratings=ARRAY))
    table.picture.clear_sky_w_per_m2[0] = 700.0
    assert tell_all(table, [3000.0] * 30) == 0
    table.picture.clear_sky_w_per_m2[0] = 0.0
    assert tell(table, 300.0, 3000.0) == SuspectReason.FROZEN


@pytest.mark.parametrize("spike_w", [20_000.0, -20_000.0, 6_500.0])
def test_two_spikes_beyond_the_rating_are_jumps_and_one_is_a_glitch(spike_w: float) -> None:
    table = table_of(record(1))
    assert tell_all(table, [*fluttering(20), spike_w, *fluttering(40)]) == 0
    assert tell_all(table, [spike_w, *fluttering(3), spike_w], from_s=1000.0) == SuspectReason.JUMP


@pytest.mark.parametrize(("technology", "ratings", "power_w"), [
    (Technology.PV, ARRAY, -3000.0), (Technology.WATER_HEATER, TANK, 4500.0),
])  # fmt: skip
def test_an_array_that_consumes_and_a_load_that_gives_have_their_sign_turned(
    technology: Technology, ratings: Ratings, power_w: float
) -> None:
    table = table_of(record(1, technology=technology, ratings=ratings))
    assert tell_all(table, [power_w] * 3) == 0
    assert tell(table, 30.0, power_w) == SuspectReason.WRONG_SIGN


def test_an_array_at_night_and_a_load_at_idle_are_honest() -> None:
    for technology, ratings in ((Technology.PV, ARRAY), (Technology.WATER_HEATER, TANK)):
        table = table_of(record(1, technology=technology, ratings=ratings))
        assert tell_all(table, [-3.0, 4.0, -20.0, 25.0, 0.0, -8.0] * 30) == 0


@pytest.mark.parametrize(("sign", "reason"), [(-1.0, SuspectReason.NONE), (1.0, SuspectReason.WRONG_SIGN)])
def test_a_store_that_fills_while_it_is_said_to_give_has_its_sign_turned(sign: float, reason: SuspectReason) -> None:
    table = table_of(record(1))
    given = 0
    for k, power_w in enumerate(fluttering(90, 4000.0)):
        # 4 kW into 10 kWh: 1.1 % in 100 s, shown in whole per cents.
        soc_frac = math.floor(100.0 * (0.3 + k * 10.0 * 4000.0 / 3600.0 / 10_000.0)) / 100.0
        given = given or tell(table, 10.0 * k, sign * power_w, soc_frac=soc_frac)
    assert given == reason


def pair(table: FleetTable, meter_w: float, device_w: float, at_s: float) -> int:
    return tell(table, at_s, device_w, DEVICE) or tell(table, at_s + 4.0, meter_w, METER)


@pytest.mark.parametrize(("factor", "offset_w", "reason"), [
    (1.02, 0.0, SuspectReason.NONE), (0.98, 60.0, SuspectReason.NONE), (0.7, 0.0, SuspectReason.SOURCES_DISAGREE),
    (1.4, 0.0, SuspectReason.SOURCES_DISAGREE), (1.0, 900.0, SuspectReason.SOURCES_DISAGREE),
    (-1.0, 0.0, SuspectReason.WRONG_SIGN),
])  # fmt: skip
def test_two_sources_are_held_to_their_accuracies(factor: float, offset_w: float, reason: SuspectReason) -> None:
    table = table_of(record(1))
    found = 0
    for k, power_w in enumerate(fluttering(30)):
        found = found or pair(table, factor * power_w + offset_w, power_w, 10.0 * k)
    assert found == reason


def test_a_device_that_switches_between_its_sources_readings_is_no_contradiction() -> None:
    table = table_of(record(1, technology=Technology.WATER_HEATER, ratings=TANK, telemetry_period_s=300.0))
    for k in range(400):
        at_s = 10.0 * k
        # On for three minutes, off for five; the cloud tells once in five minutes.
        power_w = -4500.0 if at_s % 480.0 < 180.0 else 0.0
        assert tell(table, at_s, power_w, METER) == 0
        if k % 30 == 7:
            assert tell(table, at_s + 1.0, power_w, CLOUD) == 0


def test_who_goes_on_lying_stays_suspect_and_who_is_honest_for_a_pause_is_trusted_again() -> None:
    table = table_of(record(1))
    at_s, n_found = 0.0, 0
    while at_s < 3600.0:
        n_found += pair(table, 1500.0, 3000.0, at_s) > 0
        at_s += 10.0
    assert n_found == 1, "one suspicion, prolonged"
    assert table.picture.trust[0] == Trust.SUSPECT
    honest_s = at_s
    while table.picture.trust[0] == Trust.SUSPECT:
        pair(table, 3000.0, 3000.0, at_s)
        at_s += 10.0
    assert at_s - honest_s == pytest.approx(SUSPECT_S, abs=60.0)


@given(st.lists(st.tuples(st.sampled_from([METER, DEVICE]), st.floats(-5000, 5000)), max_size=60))
def test_the_score_of_two_sources_agrees_with_its_slow_twin(said: list[tuple[int, float]]) -> None:
    table = table_of(record(1))
    newest: dict[int, tuple[float, float]] = {}
    score, accused = 0, False
    for k, (source, told_w) in enumerate(said):
        power_w, at_s, other = float(np.float32(told_w)), 10.0 * k, DEVICE if source == METER else METER
        if (
            source in newest
            and other in newest
            and newest[other][0] >= newest[source][0]
            and at_s - newest[source][0] <= BETWEEN_S
        ):
            other_w = newest[other][1]
            low_w, high_w = sorted((power_w, newest[source][1]))
            near_w = APART_FRAC * max(abs(low_w), abs(high_w), abs(other_w)) + APART_RATING_FRAC * 5000.0 + APART_W
            gap = (other_w > high_w + near_w) - (other_w < low_w - near_w)
            as_seen = gap if source == METER else -gap
            if as_seen == 0:
                score -= (score > 0) - (score < 0)
            else:
                score = (score if score * as_seen > 0 else 0) + as_seen * (
                    2 if at_s - newest[source][0] <= CLOSE_S else 1
                )
            if abs(score) >= APART_ACCUSES:
                score, accused = 0, True
        newest[source] = (at_s, power_w)
        reason = tell(table, at_s, power_w, source)
        assert table.picture.n_apart[0] == score
        assert accused or reason not in (SuspectReason.SOURCES_DISAGREE, SuspectReason.WRONG_SIGN)
