"""Sums over the fleet and over portfolios that overlap: one pass over the devices, each added to all its portfolios.

What a device counts with is read once, in the order of memory, however many portfolios it is in. The counts come from
a histogram: all that is counted of a device fits into one byte, its kind.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, index, part, sum_kernel
from unisono.fleet.columns import F4, F8, I4, I8, LEASES, NAMEPLATE, PICTURE, SLOTS, Leases, Nameplate, Picture, Slots
from unisono.fleet.table import FleetTable
from unisono.model.technology import Trust

VALUE_NAMES: Final = (
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
)
COUNT_NAMES: Final = (
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
SUM_NAMES: Final = VALUE_NAMES + COUNT_NAMES
FIRST_TRUST: Final = SUM_NAMES.index("n_unknown")
FIRST_LEVEL: Final = SUM_NAMES.index("n_commanded")
N_VALUES: Final = len(VALUE_NAMES)
_ACTIVE: Final = 2
_FRESH: Final = 1
_PV: Final = 1
# A kind is a Trust and these bits.
N_KINDS: Final = 256
_IS_ACTIVE, _IS_COMMANDED, _IS_ACKNOWLEDGED, _IS_REPORTED, _IS_MEASURED = 8, 16, 32, 64, 128
_TRUST_MASK: Final = 7

_F4 = types.Array(types.float32, 1, "C")
_I4 = types.Array(types.int32, 1, "C")
_I8 = types.Array(types.int64, 1, "C")
_I8_2 = types.Array(types.int64, 2, "C")
_F8 = types.Array(types.float64, 1, "C")
_F8_2 = types.Array(types.float64, 2, "C")


def _counts_of_kinds() -> F8:
    """Return (kind, COUNT_NAMES): 1 where a device of that kind counts."""
    kind = np.arange(N_KINDS)
    trust, is_active = kind & _TRUST_MASK, (kind & _IS_ACTIVE) != 0
    levels = [(kind & bit) != 0 for bit in (_IS_COMMANDED, _IS_ACKNOWLEDGED, _IS_REPORTED, _IS_MEASURED)]
    trusts = [trust == one for one in Trust]
    return np.column_stack([is_active, is_active & (trust == _FRESH), *trusts, *levels]).astype(np.float64)


_COUNTS_OF_KIND: Final = _counts_of_kinds()


@part
def _said_w(row: int, slots: Slots) -> float:
    """Return what the device itself reported, or else its vendor's cloud; NaN: nothing."""
    said_w = slots.power_w[1, row]
    return float(slots.power_w[2, row] if math.isnan(said_w) else said_w)


@part
def _kind(row: int, nameplate: Nameplate, slots: Slots, picture: Picture, leases: Leases) -> int:
    kind = int(picture.trust[row])
    if nameplate.lifecycle[row] == _ACTIVE:
        kind |= _IS_ACTIVE
    if leases.state[row] == 1:
        kind |= _IS_COMMANDED
        if leases.acked_seq[row] >= 0:
            kind |= _IS_ACKNOWLEDGED
    if not math.isnan(_said_w(row, slots)):
        kind |= _IS_REPORTED
    if not math.isnan(slots.power_w[0, row]):
        kind |= _IS_MEASURED
    return kind


@part
def _known(power_w: float) -> float:
    """Return the power; what is unknown adds nothing."""
    return 0.0 if math.isnan(power_w) else np.float64(power_w)


@part
def _can_move(row: int, nameplate: Nameplate, picture: Picture) -> bool:
    """Return whether the device can do anything else than what it does."""
    is_wide = picture.high_w[row] - picture.low_w[row] >= np.float32(1.0)
    return bool(nameplate.lifecycle[row] == _ACTIVE and is_wide)


@column_kernel(types.void(_I4, _I4, NAMEPLATE, SLOTS, PICTURE, LEASES, _F4, _F4, _F8_2, _I8_2))
def add_up(
    starts: I4,
    portfolio_of: I4,
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    leases: Leases,
    firm_up_w: F4,
    firm_down_w: F4,
    values: F8,
    kinds: I8,
) -> None:
    """Fill ``values`` (portfolio, VALUE_NAMES) and ``kinds`` (portfolio, kind): how many members are of it.

    The portfolios of a row are ``portfolio_of[starts[row]:starts[row + 1]]``.
    """
    for row in range(starts.size - 1):
        if starts[row] == starts[row + 1]:
            continue
        kind = index(_kind(row, nameplate, slots, picture, leases))
        is_held = kind & _IS_COMMANDED != 0
        sd_w = 0.0 if math.isnan(picture.power_w[row]) else float(picture.power_sd_w[row])
        takes = _can_move(row, nameplate, picture)
        gives = takes and nameplate.technology[row] != _PV
        reference_w = picture.reference_w[row]
        mine = (
            _known(picture.power_w[row]),
            sd_w * sd_w,
            np.float64(leases.setpoint_w[row]) if is_held else 0.0,
            np.float64(leases.acked_w[row]) if kind & _IS_ACKNOWLEDGED else 0.0,
            _known(_said_w(row, slots)),
            _known(slots.power_w[0, row]),
            max(0.0, np.float64(picture.high_w[row] - reference_w)) if gives else 0.0,
            max(0.0, np.float64(reference_w - picture.low_w[row])) if takes else 0.0,
            np.float64(firm_up_w[row]),
            np.float64(firm_down_w[row]),
            np.float64(picture.energy_up_wh[row]) if gives else 0.0,
            np.float64(picture.energy_down_wh[row]) if takes else 0.0,
        )
        for j in range(index(starts[row]), index(starts[row + 1])):
            portfolio = index(portfolio_of[j])
            kinds[portfolio, kind] += 1
            for value in range(N_VALUES):
                values[portfolio, value] += mine[value]


def portfolio_sums(table: FleetTable, firm_up_w: F4, firm_down_w: F4) -> F8:
    """Return the sums (portfolio, SUM_NAMES) of every portfolio, in the order of ``FleetTable.portfolios``."""
    n = len(table.portfolios)
    values, kinds = np.zeros((n, N_VALUES)), np.zeros((n, N_KINDS), np.int64)
    add_up(
        table.portfolio_starts,
        table.portfolio_of,
        table.nameplate,
        table.slots,
        table.picture,
        table.leases,
        firm_up_w,
        firm_down_w,
        values,
        kinds,
    )
    return np.hstack([values, kinds @ _COUNTS_OF_KIND])


@sum_kernel(types.void(types.int64, NAMEPLATE, PICTURE, _F8, _I8))
def add_up_all(n: int, nameplate: Nameplate, picture: Picture, watts: F8, counts: I8) -> None:
    """Fill ``watts`` with power, up and down of ``n`` devices, ``counts`` with how many are of each Trust."""
    power_w = 0.0
    all_up_w = 0.0
    all_down_w = 0.0
    for row in range(n):
        power_w += _known(picture.power_w[row])
        reference_w, high_w, low_w = picture.reference_w[row], picture.high_w[row], picture.low_w[row]
        takes = (nameplate.lifecycle[row] == _ACTIVE) & (high_w - low_w >= np.float32(1.0))
        gives = takes & (nameplate.technology[row] != _PV)
        all_up_w += float(max(np.float32(0.0), high_w - reference_w)) if gives else 0.0
        all_down_w += float(max(np.float32(0.0), reference_w - low_w)) if takes else 0.0
    watts[0], watts[1], watts[2] = power_w, all_up_w, all_down_w
    n_fresh = n_stale = n_silent = n_suspect = 0
    for row in range(n):
        n_fresh += picture.trust[row] == 1
        n_stale += picture.trust[row] == 2
        n_silent += picture.trust[row] == 3
        n_suspect += picture.trust[row] == 4
    counts[0], counts[1], counts[2] = n - n_fresh - n_stale - n_silent - n_suspect, n_fresh, n_stale
    counts[3], counts[4] = n_silent, n_suspect


def fleet_sums(table: FleetTable) -> tuple[list[float], list[int]]:
    """Return power, up and down of all devices of the shard in W, and how many are of each Trust."""
    watts, counts = np.zeros(3), np.zeros(len(Trust), np.int64)
    add_up_all(table.n_devices, table.nameplate, table.picture, watts, counts)
    return watts.tolist(), counts.tolist()
