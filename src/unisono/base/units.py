"""Conversions between what is used inside (W, Wh, degC, fractions) and what the API speaks (kW, kWh, percent).

Called only in ``wire/`` and ``api/``.
"""

from __future__ import annotations


def w_of_kw(power_kw: float) -> float:
    """Return watts."""
    return power_kw * 1000.0


def kw_of_w(power_w: float) -> float:
    """Return kilowatts, rounded to the watt that setpoints are whole in; never -0.0."""
    return round(float(power_w) / 1000.0, 3) + 0.0


def wh_of_kwh(energy_kwh: float) -> float:
    """Return watt-hours."""
    return energy_kwh * 1000.0


def kwh_of_wh(energy_wh: float) -> float:
    """Return kilowatt-hours, rounded to the watt-hour; never -0.0."""
    return round(float(energy_wh) / 1000.0, 3) + 0.0
