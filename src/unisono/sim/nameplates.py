"""Nameplates by technology, drawn from published figures; each function returns columns of ``roster.Nameplate``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unisono.model.technology import Technology

Floats = NDArray[np.float64]
Columns = dict[str, Floats]
Draw = Callable[[np.random.Generator, Floats], Columns]

# Columns that a technology does not name.
DEFAULTS = {
    "power_max_w": 0.0,
    "power_min_w": 0.0,
    "energy_capacity_wh": 0.0,
    "efficiency_frac": 1.0,
    "ramp_w_per_s": np.inf,
    "power_step_min_w": 0.0,
    "is_on_off": 0.0,
    "min_on_s": 0.0,
    "min_off_s": 0.0,
    "notice_s": 0.0,
    "duration_max_s": np.inf,
    "rebound_frac": 0.0,
    "soc_reserve_frac": 0.0,
    "comfort_low_degc": np.nan,
    "comfort_high_degc": np.nan,
    "merit_usd_per_kwh": 0.0,
}


def bess(rng: np.random.Generator, size: Floats) -> Columns:
    """Home batteries: 5-11.5 kW and 10-27 kWh, as wall batteries' data sheets say; 89-92 % there and back.

    Median installed size is about 13 kWh (Barbose et al., Tracking the Sun, LBNL 2023, section on storage);
    programmes let owners keep 20 % back (ConnectedSolutions, Emergency Load Reduction Program).
    """
    makes_kw = np.array([5.0, 5.8, 7.6, 7.68, 9.6, 11.5])
    makes_kwh = np.array([13.5, 13.5, 10.0, 10.08, 19.4, 13.5])
    make = rng.choice(6, size.size, p=[0.25, 0.1, 0.1, 0.15, 0.15, 0.25])
    modules = np.where((size > 1.15) & (makes_kwh[make] <= 13.5), 2.0, 1.0)
    power = np.minimum(makes_kw[make] * np.where(modules > 1, 1.5, 1.0), 11.5) * 1000.0
    return {
        "power_max_w": power,
        "power_min_w": -power,
        "energy_capacity_wh": np.minimum(makes_kwh[make] * modules, 27.0) * 1000.0,
        "efficiency_frac": rng.uniform(0.943, 0.96, size.size),
        "ramp_w_per_s": power / 2.0,
        "soc_reserve_frac": rng.choice([0.1, 0.2, 0.2, 0.3], size.size),
        "merit_usd_per_kwh": rng.uniform(0.08, 0.20, size.size).round(3),
    }


def pv(rng: np.random.Generator, size: Floats) -> Columns:
    """Rooftop PV: median 7 kW DC, 4-12 kW for most, inverter loading ratio about 1.2 (LBNL, Tracking the Sun 2023)."""
    dc_kw = np.clip(7.0 * size * rng.lognormal(0.0, 0.2, size.size), 3.0, 15.0)
    return {
        "power_max_w": (dc_kw / 1.2 * 10.0).round() * 100.0,
        "merit_usd_per_kwh": rng.uniform(0.02, 0.05, size.size).round(3),
    }


def water_heater(rng: np.random.Generator, size: Floats) -> Columns:
    """Electric tanks: one 4.5 kW element, 50-80 gallons (US DOE residential water heater rule, 10 CFR 430)."""
    n = size.size
    volume_l = rng.choice([190.0, 227.0, 250.0, 300.0], n, p=[0.55, 0.15, 0.15, 0.15])
    return {
        "power_min_w": np.full(n, -4500.0),
        # Heat between the least and the highest temperature, as electricity.
        "energy_capacity_wh": (volume_l * 1.1611 * 18.0).round(),
        "is_on_off": np.ones(n),
        "power_step_min_w": np.full(n, 4500.0),
        "comfort_low_degc": np.full(n, 43.0),
        "comfort_high_degc": np.full(n, 62.0),
        "merit_usd_per_kwh": rng.uniform(0.03, 0.08, n).round(3),
    }


def thermostat(rng: np.random.Generator, size: Floats) -> Columns:
    """Heat pumps of 2-4 kW; compressors stay 3-5 min on and off (manufacturers' short-cycle locks)."""
    power = np.clip(2.9 * size * rng.lognormal(0.0, 0.12, size.size), 2.0, 4.0)
    n = size.size
    return {
        "power_min_w": -(power * 10.0).round() * 100.0,
        "is_on_off": np.ones(n),
        "power_step_min_w": (power * 10.0).round() * 100.0,
        "min_on_s": np.full(n, 180.0),
        "min_off_s": np.full(n, 300.0),
        "comfort_low_degc": rng.choice([18.0, 18.5, 19.0], n),
        "comfort_high_degc": rng.choice([25.5, 26.0, 26.5], n),
        "merit_usd_per_kwh": rng.uniform(0.05, 0.12, n).round(3),
    }


def evse(rng: np.random.Generator, size: Floats) -> Columns:
    """Managed level-2 chargers: 30 A at 240 V, no less than 6 A (SAE J1772)."""
    n = size.size
    return {
        "power_min_w": np.full(n, -7200.0),
        "power_step_min_w": np.full(n, 1440.0),
        "ramp_w_per_s": np.full(n, 3600.0),
        "efficiency_frac": np.full(n, 0.9),
        "merit_usd_per_kwh": rng.uniform(0.02, 0.06, n).round(3),
    }


def ev(rng: np.random.Generator, size: Floats) -> Columns:
    """Cars that give back: 7.2 kW either way, 60-90 kWh, the owner keeps 40 % for driving."""
    n = size.size
    return {
        "power_max_w": np.full(n, 7200.0),
        "power_min_w": np.full(n, -7200.0),
        "power_step_min_w": np.full(n, 1440.0),
        "energy_capacity_wh": rng.choice([60.0, 66.0, 75.0, 82.0, 90.0], n) * 1000.0,
        "ramp_w_per_s": np.full(n, 3600.0),
        "efficiency_frac": np.full(n, 0.92),
        "soc_reserve_frac": np.full(n, 0.4),
        "merit_usd_per_kwh": rng.uniform(0.10, 0.25, n).round(3),
    }


def flex_load(rng: np.random.Generator, size: Floats) -> Columns:
    """Sheddable parts of commercial sites, 50-500 kW, most of them small (LBNL, 2025 California DR Potential Study)."""
    n = size.size
    power = (np.clip(50.0 * (1.0 + rng.pareto(2.6, n)), 50.0, 500.0) / 5.0).round() * 5000.0
    return {
        "power_min_w": -power,
        "ramp_w_per_s": power / rng.choice([5.0, 10.0, 20.0], n),
        "notice_s": rng.choice([0.0, 0.0, 10.0], n),
        "duration_max_s": rng.choice([3600.0, 7200.0, 14400.0], n),
        "rebound_frac": rng.choice([0.2, 0.4, 0.6], n),
        "merit_usd_per_kwh": rng.uniform(0.15, 0.40, n).round(3),
    }


def chp(rng: np.random.Generator, size: Floats) -> Columns:
    """Small engines of 5-50 kW that run from half to full power (US DOE, CHP technology fact sheets)."""
    power = rng.choice([5.0, 10.0, 20.0, 30.0, 50.0], size.size, p=[0.2, 0.3, 0.25, 0.15, 0.1]) * 1000.0
    n = size.size
    return {
        "power_max_w": power,
        "power_step_min_w": 0.5 * power,
        "ramp_w_per_s": power / 30.0,
        "min_on_s": np.full(n, 600.0),
        "min_off_s": np.full(n, 300.0),
        "merit_usd_per_kwh": rng.uniform(0.08, 0.15, n).round(3),
    }


DRAW_OF_TECHNOLOGY: dict[Technology, Draw] = {
    Technology.BESS: bess,
    Technology.PV: pv,
    Technology.WATER_HEATER: water_heater,
    Technology.THERMOSTAT: thermostat,
    Technology.EVSE: evse,
    Technology.EV: ev,
    Technology.FLEX_LOAD: flex_load,
    Technology.CHP: chp,
}
