"""The devices of one dispatch as columns."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from unisono.base.kernel import type_of
from unisono.fleet.columns import F4, I4, U1, Leases, Nameplate, Picture

# Modes of a member in a cycle; those who wait could be called if nobody else can give.
EXCLUDED, FREE, PINNED, WAITING = 0, 1, 2, 3
# A load that switches forgets its present run in a quarter of an hour; a charging session has hours left: of those that
# charge now, a half is still charging after 1.4 h (choices, not fits; the first by the region's hot-water draws).
SWITCHING_DRIFT_S: Final = 900.0
SESSION_DRIFT_S: Final = 7200.0
# What a tank is on over a day: some 12 kWh of hot water through a 4.5 kW element (US DOE test procedure, 10 CFR 430
# subpart B, appendix E: medium draw pattern). It stands in until an hour of the device's own three-hour mean is seen.
TANK_DUTY_FRAC: Final = 0.11
LONG_ENOUGH: Final = 0.283
_EV: Final = 3
_EVSE: Final = 4
_WATER_HEATER: Final = 5


class Members(NamedTuple):
    """One dispatch's devices, ascending by row; ``reach_w`` and ``share_w`` are >= 0 in the dispatch's direction."""

    row: I4
    # Indices of members in merit order (ties: the older device first).
    order: I4
    accepted_reference_w: F4
    accepted_clear_sky: F4
    # The reference drifts from there to ``settled_w`` with this time constant (infinite: it does not).
    settled_w: F4
    drift_s: F4
    method: U1
    # In this cycle: reference, change now commanded, most it could change, mode, what it is believed to deliver.
    reference_w: F4
    held_w: F4
    reach_w: F4
    mode: U1
    credit_w: F4
    # What the allocation gives it.
    share_w: F4


def new_members(rows: I4, nameplate: Nameplate, picture: Picture, leases: Leases) -> Members:
    """Return the members at ``rows`` with their references frozen as they are now.

    A device that another dispatch holds shows its command: its reference there, carried on to now, stands for it.
    """
    n = rows.size
    is_held = (leases.state[rows] == 1) & np.isfinite(leases.reference_w[rows])
    reference_w = np.where(is_held, leases.reference_w[rows], picture.reference_w[rows]).astype(np.float32)
    drifts_home = (nameplate.is_on_off[rows] == 1) & np.isfinite(picture.long_mean_w[rows])
    is_new_tank = (picture.long_mean_weight[rows] < LONG_ENOUGH) & (nameplate.technology[rows] == _WATER_HEATER)
    usual_w = np.where(is_new_tank, TANK_DUTY_FRAC * nameplate.power_min_w[rows], picture.long_mean_w[rows])
    ends = (nameplate.technology[rows] == _EV) | (nameplate.technology[rows] == _EVSE)
    order = np.lexsort((nameplate.device_no[rows], nameplate.merit_micros_per_kwh[rows])).astype(np.int32)
    return Members(
        row=rows.astype(np.int32),
        order=order,
        accepted_reference_w=reference_w,
        accepted_clear_sky=picture.clear_sky_w_per_m2[rows].copy(),
        settled_w=np.where(drifts_home, usual_w, 0.0).astype(np.float32),
        drift_s=np.where(drifts_home, SWITCHING_DRIFT_S, np.where(ends, SESSION_DRIFT_S, np.inf)).astype(np.float32),
        method=picture.reference_method[rows].copy(),
        reference_w=reference_w.copy(),
        held_w=np.zeros(n, np.float32),
        reach_w=np.zeros(n, np.float32),
        mode=np.zeros(n, np.uint8),
        credit_w=np.zeros(n, np.float32),
        share_w=np.zeros(n, np.float32),
    )


def carried_over(fresh: Members, before: Members) -> Members:
    """Keep the references that were frozen before for those who still are members."""
    _, here, there = np.intersect1d(fresh.row, before.row, assume_unique=True, return_indices=True)
    fresh.accepted_reference_w[here] = before.accepted_reference_w[there]
    fresh.accepted_clear_sky[here] = before.accepted_clear_sky[there]
    fresh.settled_w[here] = before.settled_w[there]
    fresh.drift_s[here] = before.drift_s[there]
    fresh.method[here] = before.method[there]
    return fresh


def _empty_members() -> Members:
    dtypes = ["i4", "i4", "f4", "f4", "f4", "f4", "u1", "f4", "f4", "f4", "u1", "f4", "f4"]
    return Members(*(np.empty(0, dtype) for dtype in dtypes))


MEMBERS: Final = type_of(_empty_members())
