"""The devices of one dispatch as columns."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, get_args, get_type_hints

import numpy as np

from unisono.base.kernel import type_of
from unisono.fleet.columns import F4, F8, I4, U1, Leases, Nameplate, Picture
from unisono.fleet.evidence import QUICK_S

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
# On-off members that are called together: some thousand bundles of a large fleet fit into the nearest cache.
BUNDLE: Final = 256


class Members(NamedTuple):
    """One dispatch's devices, ascending by row; ``reach_w`` and ``share_w`` are >= 0 in the dispatch's direction."""

    row: I4
    # Indices of members in merit order (ties: the older device first); of those behind slow gateways.
    order: I4
    slow_order: I4
    # On-off members, ascending; in merit order; which bundle of neighbours in that order each is in. Room
    # for a bundle's sum and for the least by which anybody of it can be called.
    switches: I4
    switch_order: I4
    bundle: I4
    bundle_w: F8
    bundle_least_w: F8
    # Members that have a least power, ascending.
    with_least: I4
    is_on_off: U1
    # Least power at which it runs when not at 0.
    least_w: F4
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
    is_on_off = nameplate.is_on_off[rows]
    is_held = (leases.state[rows] == 1) & np.isfinite(leases.reference_w[rows])
    reference_w = np.where(is_held, leases.reference_w[rows], picture.reference_w[rows]).astype(np.float32)
    drifts_home = (is_on_off == 1) & np.isfinite(picture.long_mean_w[rows])
    is_new_tank = (picture.long_mean_weight[rows] < LONG_ENOUGH) & (nameplate.technology[rows] == _WATER_HEATER)
    usual_w = np.where(is_new_tank, TANK_DUTY_FRAC * nameplate.power_min_w[rows], picture.long_mean_w[rows])
    ends = (nameplate.technology[rows] == _EV) | (nameplate.technology[rows] == _EVSE)
    order = np.lexsort((nameplate.device_no[rows], nameplate.merit_micros_per_kwh[rows])).astype(np.int32)
    switch_order = order[is_on_off[order] == 1]
    n_bundles = -(-switch_order.size // BUNDLE)
    bundle = np.empty(n, np.int32)
    bundle[switch_order] = np.arange(switch_order.size) // BUNDLE
    return Members(
        row=rows.astype(np.int32),
        order=order,
        switches=np.flatnonzero(is_on_off).astype(np.int32),
        switch_order=switch_order,
        bundle=bundle[is_on_off == 1],
        bundle_w=np.zeros(n_bundles),
        bundle_least_w=np.zeros(n_bundles),
        with_least=np.flatnonzero(nameplate.power_step_min_w[rows] > 0.0).astype(np.int32),
        slow_order=order[nameplate.latency_s[rows][order] > QUICK_S],
        is_on_off=is_on_off,
        least_w=nameplate.power_step_min_w[rows],
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


def member_dtypes(members: type[Any]) -> list[tuple[str, np.dtype[Any]]]:
    """Return name and dtype of every column of `Members`, in order."""
    return [(name, np.dtype(get_args(get_args(hint)[1])[0])) for name, hint in get_type_hints(members).items()]


MEMBERS: Final = type_of(Members(*(np.empty(0, dtype) for _, dtype in member_dtypes(Members))))
