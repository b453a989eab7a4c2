"""Clear-sky irradiance on the horizontal, from place and instant alone.

Sun: declination and equation of time by Spencer's Fourier series (Spencer 1971, Search 2(5), p. 172; as printed in
Iqbal, An Introduction to Solar Radiation, 1983, eq. 1.3.1 and 1.4.1). Irradiance: Haurwitz,
1098 cos z exp(-0.059 / cos z) W/m2 (Haurwitz 1945, J. Meteorology 2, 154; coefficients as in Reno, Hansen and
Stein 2012, SAND2012-2389). Good to some 5 %; only ratios over minutes to hours are used here.
"""

from __future__ import annotations

import math
from typing import Final

from numba import types

from unisono.base.kernel import column_kernel, kernel, pair_of
from unisono.fleet.columns import NAMEPLATE, PICTURE, Nameplate, Picture

_NS_PER_DAY: Final = 86_400 * 1_000_000_000
_PV: Final = 1


@kernel(pair_of(types.float64)(types.int64))
def sun_of_day(now_ns: int) -> tuple[float, float]:
    """Return the declination in radians and the equation of time in minutes."""
    days = now_ns / _NS_PER_DAY
    # Fraction of a 365.2425-day year since 1970-01-01, which drifts by less than a day a century.
    years = days / 365.2425
    g = 2.0 * math.pi * (years - math.floor(years))
    declination = (
        0.006918
        - 0.399912 * math.cos(g)
        + 0.070257 * math.sin(g)
        - 0.006758 * math.cos(2 * g)
        + 0.000907 * math.sin(2 * g)
        - 0.002697 * math.cos(3 * g)
        + 0.00148 * math.sin(3 * g)
    )
    equation_min = 229.18 * (
        0.000075
        + 0.001868 * math.cos(g)
        - 0.032077 * math.sin(g)
        - 0.014615 * math.cos(2 * g)
        - 0.040849 * math.sin(2 * g)
    )
    return declination, equation_min


@kernel(types.float64(types.int64, types.float64, types.float64))
def clear_sky_w_per_m2(now_ns: int, latitude_deg: float, longitude_deg: float) -> float:
    """Return the global horizontal irradiance under a clear sky; 0 at night, NaN without a place.

    >>> round(clear_sky_w_per_m2(1_750_449_600_000_000_000, 45.5, -122.6))  # Portland, 2025-06-20 20:00 UTC
    954
    """
    declination, equation_min = sun_of_day(now_ns)
    minute_of_day = (now_ns % _NS_PER_DAY) / 60e9
    hour_angle = math.radians((minute_of_day + equation_min + 4.0 * longitude_deg) / 4.0 - 180.0)
    latitude = math.radians(latitude_deg)
    cos_z = math.sin(latitude) * math.sin(declination)
    cos_z += math.cos(latitude) * math.cos(declination) * math.cos(hour_angle)
    if math.isnan(cos_z):
        return math.nan
    return 1098.0 * cos_z * math.exp(-0.059 / cos_z) if cos_z > 0.001 else 0.0


@column_kernel(types.void(types.int64, types.int64, NAMEPLATE, PICTURE))
def light_up(n: int, now_ns: int, nameplate: Nameplate, picture: Picture) -> None:
    """Set the clear-sky irradiance of every PV row; due each minute (the sun moves a quarter of a degree)."""
    for row in range(n):
        if nameplate.technology[row] == _PV:
            picture.clear_sky_w_per_m2[row] = clear_sky_w_per_m2(
                now_ns, float(nameplate.latitude_deg[row]), float(nameplate.longitude_deg[row])
            )
