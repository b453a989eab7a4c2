"""The target of a dispatch at an instant: its profile, with linear ramps inside [start_ns, end_ns)."""

from __future__ import annotations

from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_S
from unisono.model.dispatch import Dispatch
from unisono.model.technology import EventKind, Policy


def check(dispatch: Dispatch) -> None:
    """Raise InvalidInput if the dispatch can't be run as it is written."""
    if dispatch.kind not in set(EventKind):
        raise InvalidInput("kind", dispatch.kind, f"must be one of {', '.join(EventKind)}")
    if dispatch.policy not in set(Policy):
        raise InvalidInput("policy", dispatch.policy, f"must be one of {', '.join(Policy)}")
    if dispatch.end_ns <= dispatch.start_ns:
        raise InvalidInput("end_ns", dispatch.end_ns, "must be after start_ns")
    if not dispatch.targets and not dispatch.is_cancelled:
        raise InvalidInput("targets", dispatch.targets, "must have at least one point")
    if not 0.0 <= dispatch.ramp_s <= (dispatch.end_ns - dispatch.start_ns) / NS_PER_S:
        raise InvalidInput("ramp_s", dispatch.ramp_s, "must be between 0 and the dispatch's duration")
    for point in dispatch.targets:
        if not abs(point.power_w) < 1e15:
            raise InvalidInput("targets.power_w", point.power_w, "must be a finite power")


def profile_w(dispatch: Dispatch, at_ns: int) -> float:
    """Return the profile's power at an instant, without ramps: the newest point that has begun, else the first."""
    points = dispatch.targets
    return next((p.power_w for p in reversed(points) if p.start_ns <= at_ns), points[0].power_w)


def ramp_frac(dispatch: Dispatch, at_ns: int) -> float:
    """Return how much of the profile is asked for: 0 outside, 1 in the hold, linear over ``ramp_s`` at both ends."""
    if not dispatch.start_ns <= at_ns < dispatch.end_ns:
        return 0.0
    if dispatch.ramp_s <= 0.0:
        return 1.0
    since_s = (at_ns - dispatch.start_ns) / NS_PER_S
    left_s = (dispatch.end_ns - at_ns) / NS_PER_S
    return min(1.0, since_s / dispatch.ramp_s, left_s / dispatch.ramp_s)


def target_w(dispatch: Dispatch, at_ns: int, start_w: float = 0.0) -> float:
    """Return what is asked for at an instant; the ramp runs between ``start_w`` (undispatched) and the profile.

    >>> from unisono.model.dispatch import TargetPoint
    >>> d = Dispatch(dispatch_id="", revision=1, organisation_id="", portfolio_id="", portfolio_no=1, kind="change_w",
    ...              start_ns=0, end_ns=100 * NS_PER_S, targets=(TargetPoint(0, 1000.0),), ramp_s=10.0)
    >>> [target_w(d, s * NS_PER_S) for s in (0, 5, 10, 95, 100)]
    [0.0, 500.0, 1000.0, 500.0, 0.0]
    """
    share = ramp_frac(dispatch, at_ns)
    return start_w + share * (profile_w(dispatch, at_ns) - start_w) if dispatch.targets else start_w


def steering_frac(dispatch: Dispatch, now_ns: int, lead_s: float) -> float:
    """Return the ramp's share to steer for: what is sent now acts in a cycle's time, so the way up looks ahead."""
    ahead_ns = min(now_ns + round(lead_s * NS_PER_S), dispatch.end_ns - 1)
    return max(ramp_frac(dispatch, now_ns), ramp_frac(dispatch, ahead_ns)) if now_ns >= dispatch.start_ns else 0.0
