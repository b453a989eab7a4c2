from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.fleet.builders import M0_NS, record, table_of
from unisono.base.instants import NS_PER_S
from unisono.brain.flexibility.firm import DERATE, firm_w
from unisono.brain.forecast.clear_sky import clear_sky_w_per_m2, light_up
from unisono.brain.forecast.reference import refer
from unisono.fleet.table import FleetTable
from unisono.model.ratings import Ratings
from unisono.model.technology import Lifecycle, ReferenceMethod, Technology, Trust

DAY_NS = 86_400 * NS_PER_S


@given(st.integers(1_700_000_000, 1_900_000_000), st.floats(-60, 60), st.floats(-180, 180))
def test_clear_sky_is_never_negative_and_never_more_than_the_sun(at_s: int, latitude: float, longitude: float) -> None:
    irradiance = clear_sky_w_per_m2(at_s * NS_PER_S, latitude, longitude)
    assert 0.0 <= irradiance <= 1098.0


def test_the_sun_is_highest_at_solar_noon_and_gone_at_midnight() -> None:
    midnight_ns = 20_000 * DAY_NS
    hours = [clear_sky_w_per_m2(midnight_ns + h * 3600 * NS_PER_S, 40.0, 0.0) for h in range(24)]
    assert hours[0] == 0.0
    assert max(hours) == hours[12]


def test_clear_sky_agrees_with_pvlib() -> None:
    pvlib = pytest.importorskip("pvlib")
    pandas = pytest.importorskip("pandas")
    times = pandas.date_range("2026-01-01", "2026-12-31", freq="31h", tz="UTC")
    place = pvlib.location.Location(37.8, -122.3)
    with warnings.catch_warnings():
        # Its own deprecations are no concern of ours.
        warnings.simplefilter("ignore")
        theirs = pvlib.clearsky.haurwitz(place.get_solarposition(times)["zenith"])["ghi"].to_numpy()
    instants_ns = times.as_unit("ns").asi8.tolist()
    ours = np.array([clear_sky_w_per_m2(at_ns, 37.8, -122.3) for at_ns in instants_ns])
    assert np.abs(ours - theirs).max() < 15.0


def with_power(technology: Technology, power_w: float, **columns: float) -> FleetTable:
    ratings = Ratings(power_max_w=5000.0, power_min_w=-5000.0, is_on_off=technology == Technology.WATER_HEATER)
    table = table_of(record(1, technology=technology, ratings=ratings))
    table.picture.power_w[0] = power_w
    for name, value in columns.items():
        getattr(table.picture, name)[0] = value
    refer(1, table.nameplate, table.picture, table.leases)
    return table


@pytest.mark.parametrize(("technology", "columns", "reference_w", "method"), [
    (Technology.BESS, {}, 0.0, ReferenceMethod.PLAN_OR_ZERO),
    (Technology.BESS, {"mean_w": -100.0, "mean_weight": 0.6}, 0.0, ReferenceMethod.PLAN_OR_ZERO),
    (Technology.BESS, {"mean_w": 1500.0, "mean_weight": 0.01}, 0.0, ReferenceMethod.PLAN_OR_ZERO),
    (Technology.BESS, {"mean_w": 1500.0, "mean_weight": 0.6}, 1500.0, ReferenceMethod.RECENT_MEAN),
    (Technology.PV, {}, 0.0, ReferenceMethod.CLEAR_SKY_RATIO),
    (Technology.THERMOSTAT, {"mean_w": -800.0, "mean_weight": 0.6}, -800.0, ReferenceMethod.RECENT_MEAN),
    (Technology.THERMOSTAT, {"mean_w": -800.0, "mean_weight": 0.01}, -3000.0, ReferenceMethod.LAST_VALUE),
    (Technology.EV, {"mean_w": -800.0, "mean_weight": 0.6}, -800.0, ReferenceMethod.RECENT_MEAN),
    (Technology.EV, {"mean_w": -4000.0, "mean_weight": 0.6}, -3000.0, ReferenceMethod.RECENT_MEAN),
    (
        Technology.WATER_HEATER,
        {"mean_w": -4000.0, "mean_weight": 0.6, "long_mean_w": -1000.0, "long_mean_weight": 0.5},
        -2500.0,
        ReferenceMethod.RECENT_MEAN,
    ),
])  # fmt: skip
def test_each_technology_has_its_reference(
    technology: Technology, columns: dict[str, float], reference_w: float, method: ReferenceMethod
) -> None:
    table = with_power(technology, -3000.0, **columns)
    assert table.picture.reference_w[0] == pytest.approx(reference_w)
    assert table.picture.reference_method[0] == method


def test_a_leased_device_keeps_its_reference() -> None:
    table = with_power(Technology.CHP, 3000.0)
    table.leases.state[0] = 1
    table.picture.power_w[0] = 0.0
    refer(1, table.nameplate, table.picture, table.leases)
    assert table.picture.reference_w[0] == 3000.0


def test_only_pv_is_lit() -> None:
    at = {"latitude_deg": 40.0, "longitude_deg": 0.0}
    table = table_of(record(1, technology=Technology.PV, **at), record(2, **at))
    light_up(2, 20_000 * DAY_NS + DAY_NS // 2, table.nameplate, table.picture)
    assert table.picture.clear_sky_w_per_m2[0] > 100.0
    assert math.isnan(table.picture.clear_sky_w_per_m2[1])


@pytest.mark.parametrize(("changes", "factor"), [
    ({}, 1.0), ({"trust": Trust.STALE}, 0.5), ({"trust": Trust.SILENT}, 0.0), ({"trust": Trust.SUSPECT}, 0.0),
    ({"trust": Trust.UNKNOWN}, 0.0), ({"is_opted_out": 1}, 0.0), ({"hold_up_s": 450.0}, 0.5),
    ({"record_frac": 0.4}, 0.4),
])  # fmt: skip
def test_firm_power_is_what_can_be_relied_on(changes: dict[str, float], factor: float) -> None:
    table = table_of(record(1))
    values = {
        "trust": Trust.FRESH,
        "high_w": 5000.0,
        "low_w": -5000.0,
        "hold_up_s": 9000.0,
        "record_frac": 1.0,
    } | changes
    for name, value in values.items():
        getattr(table.picture, name)[0] = value
    assert firm_of(table) == pytest.approx(5000.0 * DERATE[Technology.BESS] * factor, abs=0.1)


def test_declared_and_refusing_devices_are_not_relied_on() -> None:
    for table in (table_of(record(1, lifecycle=Lifecycle.DECLARED)), table_of(record(1))):
        table.picture.trust[0], table.picture.high_w[0], table.picture.hold_up_s[0] = Trust.FRESH, 5000.0, 9000.0
        table.leases.refused_until_mono_ns[0] = M0_NS + 1
        assert firm_of(table) == 0.0


def firm_of(table: FleetTable) -> float:
    n = table.nameplate.rating_w.size
    up_w, down_w = np.zeros(n, np.float32), np.zeros(n, np.float32)
    firm_w(1, M0_NS, 900.0, DERATE, table.nameplate, table.picture, table.leases, up_w, down_w)
    return float(up_w[0])
