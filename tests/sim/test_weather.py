from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest

from unisono.base.errors import DamagedRecord
from unisono.base.instants import NS_PER_S
from unisono.sim.places import Zone
from unisono.sim.weather import HOURS, clear_global_w_m2, read_tmy3, shipped_year, sky_at, sun_vector


def test_the_sun_stands_where_the_almanac_says() -> None:
    """Culmination is 90 - latitude + declination: at Denver's longitude and 40 N about 73.4 degrees at midsummer."""
    up = [
        sun_vector(datetime(2026, 6, 21, 18, minute, tzinfo=UTC).timestamp() + 3600, 40.0, -105.0)[2]
        for minute in range(0, 60, 2)
    ]
    assert np.degrees(np.arcsin(max(up))) == pytest.approx(73.4, abs=0.3)
    east = sun_vector(datetime(2026, 3, 20, 13, 30, tzinfo=UTC).timestamp(), 40.0, -105.0)
    assert east[0] > 0.95, "in the morning of the equinox it is in the east"
    assert np.linalg.norm(east) == pytest.approx(1.0)
    assert clear_global_w_m2(1.0) == pytest.approx(1037, abs=5)
    assert clear_global_w_m2(-0.2) == 0.0


def test_the_shipped_year_is_a_year_of_plausible_weather() -> None:
    year = shipped_year()
    assert year.clearness_frac.size == year.ambient_degc.size == HOURS
    assert 0.5 < year.clearness_frac.mean() < 0.8
    assert year.ambient_degc.mean() == pytest.approx(14.5, abs=1.0)


def test_nights_are_dark_and_the_north_is_colder() -> None:
    zones = (Zone("X", "UTC", 30.0, -90.0), Zone("Y", "UTC", 45.0, -90.0))
    midnight = sky_at(int(datetime(2026, 11, 20, 6, tzinfo=UTC).timestamp()) * NS_PER_S, zones, shipped_year())
    assert (midnight.sun_up < 0).all()
    assert (midnight.beam_w_m2 == 0).all()
    assert midnight.ambient_degc[0] - midnight.ambient_degc[1] == pytest.approx(15 * 0.7)


@pytest.mark.parametrize(
    "text", ["", "a,b\n", "1,2,3,-5,36,-80,9\nDate,GHI\n", "1,2,3,-5,36,-80,9\nGHI (W/m^2),Dry-bulb (C)\n1,2\n"]
)
def test_a_file_that_is_no_typical_year_is_refused(text: str) -> None:
    with pytest.raises(DamagedRecord):
        read_tmy3(io.StringIO(text), "weather")
