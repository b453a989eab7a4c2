"""The envelope: what each device can do in the next cycle and for how long, within all its limits.

``high_w`` and ``low_w`` are absolute powers. A device that must be left as it is has both at its present power; one
that must be let go now (comfort, departure, longest call) also holds for 0 s. Devices of one site share its connection
point: what is left of a limit is split in proportion to what each could add.

What is not known is not promised: a store without a state of charge, or a comfort band without a temperature, does not
move. A household's own unmetered load is not part of the sum; it makes export smaller than counted, and import larger.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, part
from unisono.fleet.columns import LEASES, NAMEPLATE, PICTURE, SITES, Leases, Nameplate, Picture, Sites
from unisono.fleet.sites import share_sites

# Technology codes.
_PV, _BESS, _EV, _EVSE, _WATER_HEATER, _THERMOSTAT, _FLEX_LOAD, _CHP = 1, 2, 3, 4, 5, 6, 7, 8
_ACTIVE: Final = 2
_NOT_CONTROLLABLE: Final = 255
# A store may be emptied or filled at most so fast that its bound is not met within a minute: it tapers.
TAPER_S: Final = 60.0
# Distance kept from a comfort bound: sensors read to about half a kelvin.
COMFORT_MARGIN_K: Final = 0.5
_TAPERS_PER_H: Final = 3600.0 / TAPER_S
# How fast a bound is approached while a device is shed, pessimistically: a shower draws a 200 l tank down by some 10 K
# in ten minutes, but the mean over an evening is far less; a poorly insulated house drifts by 2 K an hour.
TANK_K_PER_H: Final = 10.0
ROOM_K_PER_H: Final = 2.0
# An EV whose power is more than this share of its rating is there.
PLUGGED_FRAC: Final = 0.05
# What an EV's departure keeps in hand.
READY_MARGIN_S: Final = 120.0
# Longest time that anything is said to hold.
HOLD_MAX_S: Final = 86_400.0
# Hold of a load whose owner names no bound of comfort or duration.
HOLD_DEFAULT_S: Final = 3600.0
_NS: Final = 1e-9
_H_PER_S: Final = 1.0 / 3600.0


@part
def _set(picture: Picture, row: int, low_w: float, high_w: float, hold_s: float) -> None:
    picture.low_w[row] = low_w
    picture.high_w[row] = high_w
    picture.hold_up_s[row] = hold_s
    picture.hold_down_s[row] = hold_s
    picture.energy_up_wh[row] = 0.0
    picture.energy_down_wh[row] = 0.0


@part
def _soc_now(nameplate: Nameplate, picture: Picture, row: int, mono_ns: int) -> float:
    """Return the state of charge, carried on from its report by the present power (for at most ten periods)."""
    since_s = min((mono_ns - picture.soc_mono_ns[row]) * _NS, 10.0 * nameplate.period_s[row])
    power_w = picture.power_w[row]
    if math.isnan(power_w):
        return float(picture.soc_frac[row])
    stored_w = -power_w * nameplate.charge_efficiency_frac[row]
    if power_w > 0.0:
        stored_w = -power_w / nameplate.discharge_efficiency_frac[row]
    moved_frac = stored_w * since_s / (3600.0 * nameplate.energy_capacity_wh[row])
    return float(min(max(picture.soc_frac[row] + moved_frac, 0.0), 1.0))


@part
def _bound_store(nameplate: Nameplate, picture: Picture, row: int, mono_ns: int) -> float:
    """Narrow the row to what its store allows; return its state of charge."""
    soc_frac = _soc_now(nameplate, picture, row, mono_ns)
    capacity_wh = nameplate.energy_capacity_wh[row]
    above_wh = max(0.0, soc_frac - nameplate.soc_reserve_frac[row]) * capacity_wh
    below_wh = max(0.0, nameplate.soc_max_frac[row] - soc_frac) * capacity_wh
    up_wh = above_wh * nameplate.discharge_efficiency_frac[row]
    down_wh = below_wh / nameplate.charge_efficiency_frac[row]
    high_w = min(float(picture.high_w[row]), up_wh * _TAPERS_PER_H)
    low_w = max(float(picture.low_w[row]), -down_wh * _TAPERS_PER_H)
    picture.high_w[row] = high_w
    picture.low_w[row] = low_w
    picture.energy_up_wh[row] = up_wh
    picture.energy_down_wh[row] = down_wh
    picture.hold_up_s[row] = min(HOLD_MAX_S, up_wh * 3600.0 / high_w) if high_w > 0.0 else HOLD_MAX_S
    picture.hold_down_s[row] = min(HOLD_MAX_S, down_wh * 3600.0 / -low_w) if low_w < 0.0 else HOLD_MAX_S
    return soc_frac


@part
def _bound_ev(
    nameplate: Nameplate, picture: Picture, leases: Leases, row: int, now_ns: int, mono_ns: int, at_w: float
) -> None:
    """An EV (or the charger it hangs on): only while it is there, and ready by its owner's time."""
    knows_soc = nameplate.energy_capacity_wh[row] > 0.0 and not math.isnan(picture.soc_frac[row])
    full_w = float(nameplate.power_min_w[row])
    is_charging = abs(picture.power_w[row]) > PLUGGED_FRAC * nameplate.rating_w[row]
    # A car that gives back tells its state of charge as long as it is there.
    waits = knows_soc and nameplate.power_max_w[row] > 0.0
    waits = waits and picture.soc_mono_ns[row] == picture.received_mono_ns[row]
    if not (is_charging or waits or leases.state[row] == 1):
        _set(picture, row, at_w, at_w, 0.0)
        return
    _set(picture, row, full_w, float(nameplate.power_max_w[row]), HOLD_DEFAULT_S)
    stored_wh = 0.0
    if knows_soc:
        stored_wh = _bound_store(nameplate, picture, row, mono_ns) * nameplate.energy_capacity_wh[row]
        if nameplate.power_max_w[row] <= 0.0:
            # It feeds nothing back: what it can give is to stop, for as long as its owner's time allows.
            picture.high_w[row] = 0.0
            picture.hold_up_s[row] = HOLD_MAX_S
    missing_wh = nameplate.needed_energy_wh[row] - stored_wh
    if nameplate.ready_by_ns[row] <= now_ns:
        return
    stored_w = nameplate.charge_efficiency_frac[row] * max(-full_w, 1.0)
    slack_s = (nameplate.ready_by_ns[row] - now_ns) * _NS - missing_wh * 3600.0 / stored_w
    if missing_wh > 0.0 and slack_s <= READY_MARGIN_S:
        _set(picture, row, full_w, full_w, 0.0)
        return
    # Each second at high_w has to be charged back as well.
    given_w = max(0.0, float(picture.high_w[row])) / nameplate.discharge_efficiency_frac[row]
    slack_s = max(0.0, slack_s - READY_MARGIN_S) / (1.0 + given_w / stored_w)
    picture.hold_up_s[row] = min(float(picture.hold_up_s[row]), slack_s)


@part
def _bound_thermal(nameplate: Nameplate, picture: Picture, row: int, at_w: float, way_back_w: float) -> None:
    """A water heater or a thermostat: within its owner's comfort band."""
    low_degc = nameplate.comfort_low_degc[row]
    high_degc = nameplate.comfort_high_degc[row]
    full_w = float(nameplate.power_min_w[row])
    _set(picture, row, full_w, max(0.0, float(nameplate.power_max_w[row])), HOLD_DEFAULT_S)
    is_tank = nameplate.technology[row] == _WATER_HEATER
    if not is_tank:
        # Whether it heats or cools is not known: it is only ever shed, and only well inside its band.
        picture.low_w[row] = way_back_w
        picture.hold_down_s[row] = 0.0
    if math.isnan(low_degc) and math.isnan(high_degc):
        return
    degc = picture.temperature_degc[row]
    if math.isnan(degc):
        _set(picture, row, at_w, at_w, 0.0)
        return
    above_k = HOLD_MAX_S if math.isnan(low_degc) else degc - low_degc - COMFORT_MARGIN_K
    below_k = HOLD_MAX_S if math.isnan(high_degc) else high_degc - degc - COMFORT_MARGIN_K
    room_k = above_k if is_tank else min(above_k, below_k)
    if room_k <= 0.0:
        picture.high_w[row] = at_w
        picture.hold_up_s[row] = 0.0
    else:
        picture.hold_up_s[row] = min(HOLD_MAX_S, room_k * 3600.0 / (TANK_K_PER_H if is_tank else ROOM_K_PER_H))
    if is_tank and below_k <= 0.0:
        picture.low_w[row] = at_w
        picture.hold_down_s[row] = 0.0


@part
def _locked_s(nameplate: Nameplate, picture: Picture, row: int, mono_ns: int) -> float:
    """Return for how long the device may not switch because it switched lately; 0: it may."""
    if picture.switched_mono_ns[row] < 0:
        return 0.0
    since_s = (mono_ns - picture.switched_mono_ns[row]) * _NS
    least_s = nameplate.min_on_s[row] if picture.is_on[row] == 1 else nameplate.min_off_s[row]
    return max(0.0, float(least_s - since_s))


@part
def _bound_device(nameplate: Nameplate, picture: Picture, leases: Leases, row: int, now_ns: int, mono_ns: int) -> None:
    """Set a row's bounds without its ramp and its site."""
    at_w = float(leases.expected_w[row])
    technology = nameplate.technology[row]
    is_leased = leases.state[row] == 1
    # What was shed may come back to its reference.
    way_back_w = min(at_w, float(leases.reference_w[row])) if is_leased else at_w
    if nameplate.lifecycle[row] != _ACTIVE or nameplate.control_kind[row] == _NOT_CONTROLLABLE or math.isnan(at_w):
        at_w = 0.0 if math.isnan(at_w) else at_w
        _set(picture, row, at_w, at_w, 0.0)
    elif leases.called_s[row] >= nameplate.duration_max_s[row]:
        _set(picture, row, at_w, at_w, 0.0)
    elif _locked_s(nameplate, picture, row, mono_ns) > 0.0:
        _set(picture, row, at_w, at_w, _locked_s(nameplate, picture, row, mono_ns))
    elif technology == _PV:
        # The sun decides what there is; we can only take less of it.
        there_w = max(at_w, float(picture.reference_w[row])) if is_leased else max(at_w, 0.0)
        _set(picture, row, 0.0, there_w, HOLD_MAX_S)
        picture.hold_up_s[row] = 0.0
    elif technology == _BESS:
        _set(picture, row, float(nameplate.power_min_w[row]), float(nameplate.power_max_w[row]), 0.0)
        if math.isnan(picture.soc_frac[row]) or nameplate.energy_capacity_wh[row] <= 0.0:
            _set(picture, row, at_w, at_w, 0.0)
        else:
            _bound_store(nameplate, picture, row, mono_ns)
    elif technology in (_EV, _EVSE):
        _bound_ev(nameplate, picture, leases, row, now_ns, mono_ns, at_w)
    elif technology in (_WATER_HEATER, _THERMOSTAT):
        _bound_thermal(nameplate, picture, row, at_w, way_back_w)
    elif technology == _FLEX_LOAD:
        # It sheds its block and no more; nothing is known of what more it could use.
        _set(picture, row, way_back_w, max(0.0, float(nameplate.power_max_w[row])), HOLD_DEFAULT_S)
        if math.isfinite(nameplate.duration_max_s[row]):
            picture.hold_up_s[row] = nameplate.duration_max_s[row] - leases.called_s[row]
    else:
        _set(picture, row, float(nameplate.power_min_w[row]), float(nameplate.power_max_w[row]), HOLD_MAX_S)


@part
def _bound_ramp(nameplate: Nameplate, picture: Picture, row: int, at_w: float, cycle_s: float) -> None:
    """Narrow the row to what its ramp allows in one cycle; a device that must jump over its least power may."""
    step_w = nameplate.ramp_w_per_s[row] * cycle_s
    least_w = float(nameplate.power_step_min_w[row])
    up_w = at_w + step_w
    down_w = at_w - step_w
    if 0.0 < up_w < least_w:
        up_w = least_w
    elif -least_w < up_w < 0.0:
        up_w = 0.0
    if -least_w < down_w < 0.0:
        down_w = -least_w
    elif 0.0 < down_w < least_w:
        down_w = 0.0
    picture.high_w[row] = min(float(picture.high_w[row]), up_w)
    picture.low_w[row] = max(float(picture.low_w[row]), down_w)


@column_kernel(
    types.void(types.int64, types.int64, types.int64, types.int64, types.float64, SITES, NAMEPLATE, PICTURE, LEASES)
)
def bound(
    n: int,
    n_sites: int,
    now_ns: int,
    mono_ns: int,
    cycle_s: float,
    sites: Sites,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
) -> None:
    """Set high_w, low_w, their energies and how long they hold, for ``n`` devices at ``n_sites`` sites."""
    for row in range(n):
        _bound_device(nameplate, picture, leases, row, now_ns, mono_ns)
        at_w = float(leases.expected_w[row])
        if not math.isnan(at_w):
            _bound_ramp(nameplate, picture, row, at_w, cycle_s)
        if picture.high_w[row] < picture.low_w[row]:
            picture.high_w[row] = picture.low_w[row] = np.float32(0.0 if math.isnan(at_w) else at_w)
        left_s = float(nameplate.duration_max_s[row]) - leases.called_s[row]
        picture.hold_up_s[row] = max(0.0, min(float(picture.hold_up_s[row]), left_s))
        picture.hold_down_s[row] = max(0.0, min(float(picture.hold_down_s[row]), left_s))
        if picture.energy_up_wh[row] == 0.0:
            up_w = max(0.0, float(picture.high_w[row] - picture.reference_w[row]))
            picture.energy_up_wh[row] = up_w * picture.hold_up_s[row] * _H_PER_S
        if picture.energy_down_wh[row] == 0.0:
            down_w = max(0.0, float(picture.reference_w[row] - picture.low_w[row]))
            picture.energy_down_wh[row] = down_w * picture.hold_down_s[row] * _H_PER_S
    share_sites(n, n_sites, sites, nameplate, picture, leases)
