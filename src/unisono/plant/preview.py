"""What would come of a dispatch if it were in full force now: the same weighing and sharing, and nothing is kept."""

from __future__ import annotations

import numpy as np

from unisono.base.errors import InvalidInput
from unisono.brain.dispatch.controller import largest_change
from unisono.brain.dispatch.members import FREE, SUM_NAMES
from unisono.brain.dispatch.profile import check
from unisono.model.dispatch import Dispatch
from unisono.model.queries import PreviewResult, Refused
from unisono.plant.requests import draft
from unisono.plant.state import PlantState


def preview(state: PlantState, spec: Dispatch, now_ns: int, monotonic_ns: int) -> PreviewResult | Refused:
    """Return how much of the profile's largest target today's members would give; Refused if it can't be run at all."""
    try:
        check(spec)
        if not spec.targets:
            raise InvalidInput("targets", spec.targets, "must have at least one point")
    except InvalidInput as wrong:
        return Refused(reason=str(wrong))
    active = draft(state, spec, now_ns)
    target_w, change_w, left_w = largest_change(active, state.fleet, monotonic_ns + state.mono_shift_ns)
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
    )
