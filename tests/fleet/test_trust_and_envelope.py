from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.fleet.builders import M0_NS, T0_NS, batch_of, record, table_of
from unisono.base.instants import NS_PER_S
from unisono.fleet.apply import apply_readings
from unisono.fleet.envelope import bound
from unisono.fleet.evidence import expect
from unisono.fleet.table import FleetTable
from unisono.fleet.trust import SuspectReason, reconcile, suspect
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.technology import Lifecycle, Technology, Trust

CYCLE_S = 4.0


def report(table: FleetTable, at_s: float = 0.0, **values: float) -> None:
    known_ns = T0_NS + round(at_s * NS_PER_S)
    row = {"measured_ns": known_ns, "power_w": 0.0, **values}
    apply_readings(table, [batch_of([row], known_ns)], [M0_NS + round(at_s * NS_PER_S)])


def look(table: FleetTable, at_s: float = 0.0) -> int:
    """Bring the picture up to date; return how many are found suspect."""
    mono_ns, n = M0_NS + round(at_s * NS_PER_S), table.n_devices
    reconcile(n, mono_ns, table.nameplate, table.slots, table.picture)
    n_found = suspect(n, mono_ns, table.nameplate, table.picture, table.leases, np.empty(n, np.int32))
    expect(n, mono_ns, CYCLE_S, table.nameplate, table.picture, table.leases)
    now_ns = T0_NS + round(at_s * NS_PER_S)
    bound(n, table.n_sites, now_ns, mono_ns, CYCLE_S, table.sites, table.nameplate, table.picture, table.leases)
    return n_found


@pytest.mark.parametrize(("period_s", "age_s", "trust"), [
    (2.0, 9.0, Trust.FRESH), (2.0, 11.0, Trust.STALE), (2.0, 31.0, Trust.SILENT),
    (60.0, 180.0, Trust.FRESH), (60.0, 181.0, Trust.STALE), (60.0, 601.0, Trust.SILENT),
    (900.0, 2700.0, Trust.FRESH), (900.0, 9001.0, Trust.SILENT),
])  # fmt: skip
def test_freshness_is_counted_in_the_devices_own_periods(period_s: float, age_s: float, trust: Trust) -> None:
    table = table_of(record(1, telemetry_period_s=period_s))
    report(table)
    look(table, age_s)
    assert table.picture.trust[0] == trust


def test_a_silent_device_keeps_its_power_with_growing_uncertainty() -> None:
    table = table_of(record(1))
    look(table)
    assert (table.picture.trust[0], math.isnan(table.picture.power_w[0])) == (Trust.UNKNOWN, True)
    report(table, power_w=3000.0)
    deviations = []
    for at_s in (10.0, 60.0, 300.0, 3000.0):
        look(table, at_s)
        assert table.picture.power_w[0] == 3000.0
        deviations.append(float(table.picture.power_sd_w[0]))
    assert deviations == sorted(deviations)
    assert deviations[-1] == pytest.approx(1500.0, rel=0.05)


def test_a_fresh_meter_wins_and_a_stale_one_gives_way() -> None:
    table = table_of(record(1))
    report(table, power_w=1000.0, source_kind=1)
    report(table, power_w=900.0, source_kind=0)
    look(table, 1.0)
    assert table.picture.power_w[0] == 900.0
    report(table, 60.0, power_w=1100.0, source_kind=1)
    look(table, 61.0)
    assert table.picture.power_w[0] == 1100.0


def test_a_long_mean_stands_behind_any_fresh_power_and_shows_a_command_only_once_it_began_after_it() -> None:
    table = table_of(record(1, telemetry_period_s=4.0))
    report(table, 0.0, power_w=0.0, source_kind=1)
    leases = table.leases
    leases.state[0], leases.setpoint_w[0], leases.acked_seq[0], leases.seq[0] = 1, 4000.0, 5, 5
    leases.sent_mono_ns[0], leases.ack_code[0], leases.expected_w[0] = M0_NS, 0, 0.0
    quarter = {"reading_kind": 1, "source_kind": 0, "energy_wh": 100.0, "power_w": math.nan}
    report(table, 20.0, **quarter, interval_start_ns=T0_NS - 880 * NS_PER_S)
    look(table, 20.0)
    # 100 Wh in 15 min are 400 W, nearly all of it from before the command.
    assert table.picture.power_w[0] == pytest.approx(400.0)
    assert leases.expected_w[0] == 4000.0
    report(table, 24.0, power_w=3990.0, source_kind=1)
    look(table, 24.0)
    assert table.picture.power_w[0] == 3990.0
    assert leases.expected_w[0] == 3990.0


@pytest.mark.parametrize(("shown_w", "reason"), [
    ([0.0, 0.0, 0.0], SuspectReason.FROZEN), ([1.0, 2.0, 3.0], SuspectReason.NOT_MOVING),
    ([-2000.0, -4000.0, -3990.0], SuspectReason.WRONG_SIGN), ([2000.0, 3900.0, 4000.0], SuspectReason.NONE),
    ([0.0, 1500.0, 1500.0], SuspectReason.NONE),
])  # fmt: skip
def test_what_does_not_do_as_it_said_is_suspect(shown_w: list[float], reason: SuspectReason) -> None:
    table = table_of(record(1))
    report(table, 0.0, power_w=0.0)
    leases = table.leases
    leases.state[0], leases.setpoint_w[0], leases.acked_seq[0], leases.seq[0] = 1, 4000.0, 5, 5
    leases.acked_w[0] = 4000.0
    leases.sent_mono_ns[0] = leases.move_mono_ns[0] = leases.heard_mono_ns[0] = M0_NS
    leases.move_from_w[0], leases.move_to_w[0] = 0.0, 4000.0
    n_found = 0
    for k, power_w in enumerate(shown_w):
        report(table, 4.0 * (k + 1), power_w=power_w)
        n_found += look(table, 4.0 * (k + 1))
    assert n_found == (reason != SuspectReason.NONE)
    assert table.picture.suspect_code[0] == reason
    assert (table.picture.trust[0] == Trust.SUSPECT) == (reason != SuspectReason.NONE)


def test_jumps_beyond_its_ramp_make_a_device_suspect() -> None:
    ratings = Ratings(power_max_w=5000.0, power_min_w=-5000.0, ramp_w_per_s=10.0)
    table = table_of(record(1, ratings=ratings))
    for k, power_w in enumerate([0.0, 4000.0, -4000.0]):
        report(table, 10.0 * k, power_w=power_w)
    assert look(table, 20.0) == 1
    assert table.picture.suspect_code[0] == SuspectReason.JUMP


def bounds(table: FleetTable, row: int = 0) -> tuple[float, float]:
    return float(table.picture.low_w[row]), float(table.picture.high_w[row])


def test_a_battery_is_bound_by_its_energy() -> None:
    table = table_of(record(1))
    report(table, soc_frac=0.5)
    look(table)
    assert bounds(table) == (-5000.0, 5000.0)
    assert table.picture.energy_up_wh[0] == pytest.approx(3000.0)
    assert table.picture.hold_up_s[0] == pytest.approx(3000.0 / 5000.0 * 3600.0)
    report(table, 4.0, soc_frac=0.2)
    look(table, 4.0)
    assert bounds(table) == (-5000.0, 0.0)
    report(table, 8.0, soc_frac=1.0)
    look(table, 8.0)
    assert bounds(table) == (0.0, 5000.0)


def test_a_battery_of_unknown_charge_does_not_move() -> None:
    table = table_of(record(1))
    report(table, power_w=300.0)
    look(table)
    assert bounds(table) == (300.0, 300.0)


@pytest.mark.parametrize("lifecycle", [Lifecycle.DECLARED, Lifecycle.SUSPENDED, Lifecycle.RETIRED])
def test_only_active_devices_move(lifecycle: Lifecycle) -> None:
    table = table_of(record(1, lifecycle=lifecycle))
    report(table, soc_frac=0.5)
    look(table)
    assert bounds(table) == (0.0, 0.0)


def test_a_ramp_bounds_the_next_cycle() -> None:
    ratings = Ratings(power_max_w=5000.0, power_min_w=-5000.0, energy_capacity_wh=10_000.0, ramp_w_per_s=100.0)
    table = table_of(record(1, ratings=ratings))
    report(table, power_w=1000.0, soc_frac=0.5)
    look(table)
    assert bounds(table) == (600.0, 1400.0)


def test_pv_goes_only_down() -> None:
    table = table_of(record(1, technology=Technology.PV, ratings=Ratings(power_max_w=5000.0, power_min_w=0.0)))
    report(table, power_w=3000.0)
    look(table)
    assert bounds(table) == (0.0, 3000.0)


TANK = Ratings(power_max_w=0.0, power_min_w=-4500.0, is_on_off=True)


@pytest.mark.parametrize(("degc", "expected"), [
    (55.0, (-4500.0, 0.0)), (43.2, (-4500.0, -4500.0)), (61.8, (-4500.0, 0.0)), (math.nan, (-4500.0, -4500.0)),
])  # fmt: skip
def test_a_tank_stays_within_its_comfort(degc: float, expected: tuple[float, float]) -> None:
    limits = OwnerLimits(comfort_low_degc=43.0, comfort_high_degc=62.0)
    table = table_of(record(1, technology=Technology.WATER_HEATER, ratings=TANK, limits=limits))
    report(table, power_w=-4500.0, temperature_degc=degc)
    look(table)
    assert bounds(table) == expected
    assert (table.picture.hold_up_s[0] == 0.0) == (expected[0] == expected[1])


def test_a_car_is_left_alone_when_it_must_charge_to_be_ready() -> None:
    ratings = Ratings(power_max_w=0.0, power_min_w=-7000.0, energy_capacity_wh=50_000.0)

    def hold_s(ready_in_h: float) -> float:
        limits = OwnerLimits(ready_by_ns=T0_NS + round(ready_in_h * 3600 * NS_PER_S), needed_energy_wh=39_000.0)
        table = table_of(record(1, technology=Technology.EV, ratings=ratings, limits=limits))
        report(table, power_w=-7000.0, soc_frac=0.5)
        look(table)
        return float(table.picture.hold_up_s[0])

    # 14 kWh are missing: two hours of charging.
    assert hold_s(5.0) == pytest.approx(3 * 3600.0 - 120.0, abs=1.0)
    assert hold_s(2.01) == 0.0


def test_an_idle_car_gives_back_what_can_be_charged_again_until_it_leaves() -> None:
    ratings = Ratings(power_max_w=7000.0, power_min_w=-7000.0, energy_capacity_wh=50_000.0)
    limits = OwnerLimits(ready_by_ns=T0_NS + 5 * 3600 * NS_PER_S, needed_energy_wh=30_000.0)
    table = table_of(record(1, technology=Technology.EV, ratings=ratings, limits=limits))
    report(table, power_w=0.0, soc_frac=0.8)
    look(table)
    assert bounds(table) == (-7000.0, 7000.0)
    # 10 kWh are more than needed: out for 3.2 h, 22.4 kWh, and back for 1.8 h, with two minutes in hand.
    assert table.picture.hold_up_s[0] == pytest.approx(((5.0 + 10.0 / 7.0) * 3600.0 - 120.0) / 2.0, abs=1.0)
    # Gone: a charger without a car tells no state of charge.
    report(table, 4.0, power_w=0.0)
    look(table, 4.0)
    assert (bounds(table), table.picture.hold_up_s[0]) == ((0.0, 0.0), 0.0)


def test_an_array_that_was_never_heard_takes_its_rating_of_the_connection_point() -> None:
    limits = OwnerLimits(soc_reserve_frac=0.0)
    array = Ratings(power_max_w=6000.0, power_min_w=0.0)
    table = table_of(
        record(1, site_no=1, export_limit_w=5000.0, limits=limits),
        record(2, site_no=1, export_limit_w=5000.0, technology=Technology.PV, ratings=array),
    )
    report(table, power_w=0.0, soc_frac=0.5, device_no=1)
    table.picture.clear_sky_w_per_m2[:] = 800.0
    look(table)
    assert table.picture.high_w[0] == 0.0
    table.picture.clear_sky_w_per_m2[:] = 0.0
    look(table)
    assert table.picture.high_w[0] == 5000.0


def test_a_compressor_is_not_switched_within_its_least_times() -> None:
    ratings = Ratings(power_max_w=0.0, power_min_w=-3000.0, is_on_off=True, min_on_s=180.0, min_off_s=300.0)
    table = table_of(record(1, technology=Technology.THERMOSTAT, ratings=ratings))
    report(table, 0.0, power_w=0.0)
    report(table, 10.0, power_w=-3000.0)
    look(table, 11.0)
    assert bounds(table) == (-3000.0, -3000.0)
    report(table, 191.0, power_w=-3000.0)
    look(table, 191.0)
    assert bounds(table) == (-3000.0, 0.0)


@given(
    st.lists(st.tuples(st.floats(-5000, 5000), st.floats(0, 1)), min_size=1, max_size=5),
    st.floats(0, 12_000),
    st.floats(-12_000, 0),
)
def test_a_site_is_never_promised_beyond_its_connection(
    devices: list[tuple[float, float]], export_w: float, import_w: float
) -> None:
    limits = {"site_no": 1, "export_limit_w": export_w, "import_limit_w": import_w}
    table = table_of(*(record(no + 1, **limits) for no in range(len(devices))))
    for no, (power_w, soc_frac) in enumerate(devices):
        report(table, device_no=no + 1, power_w=power_w, soc_frac=soc_frac)
    look(table)
    n = table.n_devices
    at_w = sum(power_w for power_w, _ in devices)
    assert table.picture.high_w[:n].sum() <= max(export_w, at_w) + 1.0
    assert table.picture.low_w[:n].sum() >= min(import_w, at_w) - 1.0
