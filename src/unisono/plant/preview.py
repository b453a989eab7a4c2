"""What would come of a dispatch if it were in full force now: the same weighing and sharing, and nothing is kept.

A device serves one dispatch at a time, so whoever is served first takes it away from the others. Each other dispatch
that is as urgent or more so, and whose interval overlaps, is therefore supposed to be in full force too, at its largest
target, and to keep what it holds now besides: together that is rather more than they will take.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from unisono.base.errors import InvalidInput
from unisono.brain.dispatch.controller import ACTIVE, SCHEDULED, ActiveDispatch, largest_change
from unisono.brain.dispatch.members import FREE
from unisono.brain.dispatch.profile import check
from unisono.brain.dispatch.sums import SUM_NAMES
from unisono.fleet.table import FleetTable
from unisono.model.dispatch import Dispatch
from unisono.model.queries import Preview, PreviewResult, Refused
from unisono.plant.requests import draft
from unisono.plant.state import PlantState

_HELD = 1


def preview(state: PlantState, query: Preview, now_ns: int, monotonic_ns: int) -> PreviewResult | Refused:
    """Return how much of the profile's largest target today's members would give; Refused if it can't be run at all."""
    spec = query.dispatch
    try:
        check(spec)
        if not spec.targets:
            raise InvalidInput("targets", spec.targets, "must have at least one point")
    except InvalidInput as wrong:
        return Refused(reason=str(wrong))
    mono_ns = monotonic_ns + state.mono_shift_ns
    table = _with_claims(state, spec, now_ns, mono_ns)
    active = draft(state, spec, now_ns)
    active.share_frac, active.elsewhere_w = query.share_frac, query.elsewhere_w
    target_w, change_w, left_w = largest_change(active, table, mono_ns)
    sums = dict(zip(SUM_NAMES, active.sums.tolist(), strict=True))
    is_called = (active.members.mode == FREE) & (active.members.share_w > 0.0)
    shortfall_w = max(0.0, left_w)
    return PreviewResult(
        at_ns=now_ns,
        target_w=target_w,
        deliverable_w=target_w - np.sign(change_w) * shortfall_w,
        shortfall_w=shortfall_w,
        n_eligible=int(sums["n_eligible"]),
        n_targeted=int(is_called.sum()),
        n_opted_out=int(sums["n_opted_out"]),
        n_silent=int(sums["n_silent"]),
        n_suspect=int(sums["n_suspect"]),
        base_w=sums["base_w"],
        n_claimed=int((table.leases.wanted_no[active.members.row] >= 0).sum()),
    )


def _with_claims(state: PlantState, spec: Dispatch, now_ns: int, mono_ns: int) -> FleetTable:
    """Return the fleet as it stands, but for the devices that others have a claim to: those are wanted already."""
    leases = state.fleet.leases
    wanted_no = np.full_like(leases.wanted_no, -1)
    table = dataclasses.replace(state.fleet, leases=leases._replace(wanted_no=wanted_no))
    rivals = [active for active in state.dispatches.values() if _is_rival(active, spec)]
    for rival in sorted(rivals, key=lambda active: active.urgency):
        supposed = draft(state, rival.spec, now_ns, rival.dispatch_no)
        supposed.share_frac, supposed.elsewhere_w = rival.share_frac, rival.elsewhere_w
        largest_change(supposed, table, mono_ns)
        wanted_no[supposed.members.row[supposed.members.share_w > 0.0]] = rival.dispatch_no
        wanted_no[(leases.state == _HELD) & (leases.dispatch_no == rival.dispatch_no)] = rival.dispatch_no
    return table


def _is_rival(active: ActiveDispatch, spec: Dispatch) -> bool:
    """Return whether it may take devices from ``spec``; of two as urgent, whoever is there already may."""
    other = active.spec
    is_open = active.state in (SCHEDULED, ACTIVE) and other.dispatch_id != spec.dispatch_id and bool(other.targets)
    return is_open and other.priority <= spec.priority and other.start_ns < spec.end_ns and spec.start_ns < other.end_ns
