"""Gates: the last look at every setpoint before it leaves. A gate trims or refuses, and says for each row why.

Allocation respects the same limits; the physics gate holds them again over whatever wrote the setpoints. Gates of the
market and of operations take their place behind it in ``GATES``: any function of the same form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from unisono.base.kernel import column_kernel, index, part
from unisono.fleet.columns import LEASES, NAMEPLATE, PICTURE, SITES, U1, Leases, Nameplate, Picture, Sites
from unisono.fleet.sites import unheard_w
from unisono.fleet.table import FleetTable

# Returns, for each of its reasons by which any setpoint was trimmed, which rows' (n_devices, of bools).
Gate = Callable[[FleetTable, float], dict[str, NDArray[np.bool_]]]

# Each is a bit of a row's mask, in this order.
PHYSICS_REASONS: Final = ("rating", "state_of_charge", "ramp", "site_export_limit", "site_import_limit")
_RATING, _SOC, _RAMP, _EXPORT, _IMPORT = (1 << bit for bit in range(len(PHYSICS_REASONS)))
# Setpoints are whole watts, limits are not.
ROUNDING_W: Final = 1.0

_U1: Final = types.Array(types.uint8, 1, "C")


@part
def _trim_device(row: int, cycle_s: float, nameplate: Nameplate, picture: Picture, leases: Leases, reasons: U1) -> None:
    """Trim one wanted setpoint to rating, state of charge and ramp."""
    wanted_w = float(leases.wanted_w[row])
    trimmed_w = min(max(wanted_w, float(nameplate.power_min_w[row])), float(nameplate.power_max_w[row]))
    if trimmed_w != wanted_w:
        reasons[row] |= _RATING
    if nameplate.energy_capacity_wh[row] > 0.0 and not math.isnan(picture.soc_frac[row]):
        before_w = trimmed_w
        # Only the store's own bounds: a load's way back to its reference stays open.
        if picture.energy_up_wh[row] <= 0.0 and trimmed_w > 0.0:
            trimmed_w = 0.0
        is_full = picture.soc_frac[row] >= nameplate.soc_max_frac[row]
        if is_full and trimmed_w < 0.0 and leases.wanted_reference_w[row] >= 0.0:
            trimmed_w = 0.0
        if trimmed_w != before_w:
            reasons[row] |= _SOC
    at_w = float(leases.expected_w[row])
    is_held = leases.state[row] == 1 and trimmed_w == leases.setpoint_w[row]
    if not math.isnan(at_w) and not is_held and math.isfinite(nameplate.ramp_w_per_s[row]):
        step_w = max(nameplate.ramp_w_per_s[row] * cycle_s, float(nameplate.power_step_min_w[row])) + ROUNDING_W
        before_w = trimmed_w
        trimmed_w = min(max(trimmed_w, at_w - step_w), at_w + step_w)
        if trimmed_w != before_w:
            reasons[row] |= _RAMP
    leases.wanted_w[row] = math.floor(trimmed_w) if trimmed_w > 0.0 else math.ceil(trimmed_w)


@part
def _planned_w(row: int, nameplate: Nameplate, picture: Picture, leases: Leases) -> float:
    """Return where the device will be: as wanted, else where it is expected."""
    if leases.wanted_no[row] >= 0:
        return float(leases.wanted_w[row])
    if math.isnan(leases.expected_w[row]):
        return unheard_w(row, nameplate, picture)
    return float(leases.expected_w[row])


@part
def _trim_site(row: int, over_w: float, change_w: float, sign: int, nameplate: Nameplate, leases: Leases) -> bool:
    """Take the device's part of what its site has too much back towards its reference; an on-off device is refused."""
    mine_w = sign * (leases.wanted_w[row] - leases.wanted_reference_w[row])
    if mine_w <= 0.0:
        return False
    if nameplate.is_on_off[row] == 1:
        leases.wanted_no[row] = -1
        leases.wanted_w[row] = np.nan
        return True
    share = min(1.0, over_w / change_w)
    trimmed_w = leases.wanted_w[row] - sign * share * mine_w
    # Whole watts on the side of the limit.
    leases.wanted_w[row] = math.floor(trimmed_w) if sign > 0 else math.ceil(trimmed_w)
    return True


@column_kernel(types.void(types.int64, types.int64, types.float64, SITES, NAMEPLATE, PICTURE, LEASES, _U1))
def trim_physics(
    n: int,
    n_sites: int,
    cycle_s: float,
    sites: Sites,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    reasons: U1,
) -> None:
    """Trim wanted setpoints to what device and connection point allow; set the bits of its reasons for each row."""
    for site in range(n_sites):
        sites.high_w[site] = 0.0
        sites.up_w[site] = 0.0
        sites.down_w[site] = 0.0
    for row in range(n):
        site = index(nameplate.site[row])
        if leases.wanted_no[row] >= 0:
            _trim_device(row, cycle_s, nameplate, picture, leases, reasons)
            change_w = leases.wanted_w[row] - leases.wanted_reference_w[row]
            sites.up_w[site] += max(0.0, float(change_w))
            sites.down_w[site] += max(0.0, -float(change_w))
        sites.high_w[site] += _planned_w(row, nameplate, picture, leases)
    for row in range(n):
        if leases.wanted_no[row] < 0:
            continue
        site = index(nameplate.site[row])
        over_w = sites.high_w[site] - sites.export_limit_w[site]
        if over_w > ROUNDING_W and sites.up_w[site] > 0.0:
            is_trimmed = _trim_site(row, over_w, sites.up_w[site], 1, nameplate, leases)
            reasons[row] |= _EXPORT if is_trimmed else 0
            continue
        over_w = sites.import_limit_w[site] - sites.high_w[site]
        if over_w > ROUNDING_W and sites.down_w[site] > 0.0:
            is_trimmed = _trim_site(row, over_w, sites.down_w[site], -1, nameplate, leases)
            reasons[row] |= _IMPORT if is_trimmed else 0


def physics_gate(table: FleetTable, cycle_s: float) -> dict[str, NDArray[np.bool_]]:
    """Hold rating, state of charge, ramp and connection point; return whose setpoints were trimmed, by reason."""
    reasons = np.zeros(table.n_devices, np.uint8)
    trim_physics(
        table.n_devices,
        table.n_sites,
        cycle_s,
        table.sites,
        table.nameplate,
        table.picture,
        table.leases,
        reasons,
    )
    if not reasons.any():
        return {}
    found = {reason: (reasons & (1 << bit)) != 0 for bit, reason in enumerate(PHYSICS_REASONS)}
    return {reason: is_trimmed for reason, is_trimmed in found.items() if is_trimmed.any()}


GATES: Final[tuple[Gate, ...]] = (physics_gate,)
