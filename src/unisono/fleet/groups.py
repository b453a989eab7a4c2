"""Sums over portfolios that overlap: one pass over the members of each, in the order of ``FleetTable.portfolios``."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, part
from unisono.fleet.columns import F4, F8, I4, LEASES, NAMEPLATE, PICTURE, SLOTS, Leases, Nameplate, Picture, Slots
from unisono.fleet.table import FleetTable

SUM_NAMES: Final = (
    "power_w",
    "power_var_w2",
    "commanded_w",
    "acknowledged_w",
    "reported_w",
    "measured_w",
    "up_w",
    "down_w",
    "dispatchable_up_w",
    "dispatchable_down_w",
    "energy_up_wh",
    "energy_down_wh",
    "n_active",
    "n_active_fresh",
    "n_unknown",
    "n_fresh",
    "n_stale",
    "n_silent",
    "n_suspect",
    "n_commanded",
    "n_acknowledged",
    "n_reported",
    "n_measured",
)
N_SUMS: Final = len(SUM_NAMES)
FIRST_TRUST: Final = SUM_NAMES.index("n_unknown")
FIRST_LEVEL: Final = SUM_NAMES.index("n_commanded")
_ACTIVE: Final = 2
_PV: Final = 1

_F4 = types.Array(types.float32, 1, "C")
_I4 = types.Array(types.int32, 1, "C")
_F8_2 = types.Array(types.float64, 2, "C")


@part
def _add_row(
    row: int,
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    leases: Leases,
    firm_up_w: F4,
    firm_down_w: F4,
    out: F8,
) -> None:
    """Add one member to its portfolio's sums; what is unknown adds nothing."""
    power_w = picture.power_w[row]
    if not math.isnan(power_w):
        sd_w = float(picture.power_sd_w[row])
        out[0] += power_w
        out[1] += sd_w * sd_w
    if leases.state[row] == 1:
        out[2] += leases.setpoint_w[row]
        out[19] += 1.0
        if leases.acked_seq[row] >= 0:
            out[3] += leases.acked_w[row]
            out[20] += 1.0
    said_w = slots.power_w[1, row]
    said_w = slots.power_w[2, row] if math.isnan(said_w) else said_w
    if not math.isnan(said_w):
        out[4] += said_w
        out[21] += 1.0
    if not math.isnan(slots.power_w[0, row]):
        out[5] += slots.power_w[0, row]
        out[22] += 1.0
    if nameplate.lifecycle[row] == _ACTIVE:
        out[12] += 1.0
        if picture.trust[row] == 1:
            out[13] += 1.0
        if picture.high_w[row] - picture.low_w[row] >= 1.0:
            reference_w = picture.reference_w[row]
            if nameplate.technology[row] != _PV:
                out[6] += max(0.0, float(picture.high_w[row] - reference_w))
                out[10] += picture.energy_up_wh[row]
            out[7] += max(0.0, float(reference_w - picture.low_w[row]))
            out[11] += picture.energy_down_wh[row]
    out[8] += firm_up_w[row]
    out[9] += firm_down_w[row]
    out[14 + picture.trust[row]] += 1.0


@column_kernel(types.void(_I4, _I4, NAMEPLATE, SLOTS, PICTURE, LEASES, _F4, _F4, _F8_2))
def add_up(
    member_rows: I4,
    member_starts: I4,
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    leases: Leases,
    firm_up_w: F4,
    firm_down_w: F4,
    sums: F8,
) -> None:
    """Fill ``sums`` (portfolio, SUM_NAMES)."""
    sums[:] = 0.0
    for index in range(member_starts.size - 1):
        for j in range(member_starts[index], member_starts[index + 1]):
            _add_row(member_rows[j], nameplate, slots, picture, leases, firm_up_w, firm_down_w, sums[index])


def portfolio_sums(table: FleetTable, firm_up_w: F4, firm_down_w: F4) -> F8:
    """Return the sums (portfolio, SUM_NAMES) of every portfolio."""
    sums = np.zeros((len(table.portfolios), N_SUMS))
    add_up(
        table.member_rows,
        table.member_starts,
        table.nameplate,
        table.slots,
        table.picture,
        table.leases,
        firm_up_w,
        firm_down_w,
        sums,
    )
    return sums
