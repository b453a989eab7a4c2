"""Dispatches in the API's words, and back: checks of what is asked, and what shortfall to expect. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from unisono.api.schemas.dispatches import (
    Dispatch,
    DispatchAsked,
    DispatchWithProgress,
    Funnel,
    OutcomeCycle,
    Progress,
    Target,
)
from unisono.api.schemas.types import instant_text, kw, milli
from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_S, format_rfc3339
from unisono.base.problems import ProblemsFound
from unisono.base.units import kw_of_w, w_of_kw
from unisono.model import dispatch as model
from unisono.model.dispatch import DispatchProgress, TargetPoint
from unisono.model.technology import EventKind
from unisono.model.totals import PortfolioTotals
from unisono.store.dispatches import StoredDispatch

Row = Mapping[Any, Any]

# 25 h, so that one dispatch can cover the longest local day (the one on which clocks go back).
DURATION_MAX_S: Final = 25 * 3600
# A call that took a while, or a caller's clock that is slow, may still mean "now".
PAST_START_MAX_S: Final = 60
# Nobody dispatches further ahead than the year that a programme's season lasts.
AHEAD_MAX_S: Final = 366 * 86_400
# One control cycle at its slowest: anything shorter could pass between two cycles.
DURATION_MIN_S: Final = 4

EVENT_KIND_OF_ASKED: Final = {
    "change_kw": EventKind.CHANGE_W,
    "net_kw": EventKind.NET_W,
    "limit_kw": EventKind.LIMIT_W,
}
ASKED_OF_EVENT_KIND: Final = {str(kind): asked for asked, kind in EVENT_KIND_OF_ASKED.items()}

SHORTFALL_BASIS: Final = (
    "against dispatchable_capacity_kw now (a conservative lower bound), not against a forecast for the interval; less "
    "what other open dispatches that overlap and are as urgent or more so may take of the same devices: their largest "
    "target, at most the ratings of the devices shared (all of those for net_kw and limit_kw)"
)


def check_asked(asked: DispatchAsked, now_ns: int, held_start_ns: int | None = None, *, is_open: bool = False) -> None:
    """Raise ProblemsFound with every rule of time, target and ramp that ``asked`` breaks.

    ``held_start_ns`` is the start of the revision to be replaced: a start that has passed may stay as it is. That of a
    dispatch that is open can't be moved later then: its devices hold setpoints by now.
    """
    found = [*_window_errors(asked, now_ns, held_start_ns), *_target_errors(asked)]
    if is_open and held_start_ns is not None and held_start_ns <= now_ns and asked.start > held_start_ns:
        begun = format_rfc3339(held_start_ns)
        rule = f"can't be later than it was ({begun}): the dispatch runs; cancel it and make another"
        found.insert(0, InvalidInput("start", format_rfc3339(asked.start), rule))
    if found:
        raise ProblemsFound(found)


def target_points(asked: DispatchAsked) -> tuple[TargetPoint, ...]:
    """Return the target profile in watts."""
    if asked.targets is None:
        assert asked.target_kw is not None, "the schema wants one of the two"
        return (TargetPoint(asked.start, w_of_kw(asked.target_kw)),)
    return tuple(TargetPoint(point.start, w_of_kw(point.power_kw)) for point in asked.targets)


def model_dispatch(
    asked: DispatchAsked,
    *,
    organisation_id: str,
    portfolio_id: str,
    portfolio_no: int,
    dispatch_id: str,
    revision: int,
    now_ns: int,
) -> model.Dispatch:
    """Return the dispatch as it is recorded and sent to the shards."""
    return model.Dispatch(
        dispatch_id=dispatch_id,
        revision=revision,
        organisation_id=organisation_id,
        portfolio_id=portfolio_id,
        portfolio_no=portfolio_no,
        kind=str(EVENT_KIND_OF_ASKED[asked.kind]),
        start_ns=asked.start,
        end_ns=asked.end,
        targets=target_points(asked),
        ramp_s=asked.ramp_s,
        limit_is_export=asked.limit_side == "export",
        policy=asked.policy,
        priority=asked.priority,
        is_test=asked.test,
        reason=asked.reason or "",
        requested_ns=now_ns,
    )


def claim_w(other: model.Dispatch, shared_w: tuple[float, float]) -> tuple[float, float]:
    """Return what ``other`` may take of devices rated ``shared_w`` (export, import), upwards and downwards, both >= 0.

    A device that is called one way can't be called the other way besides: its rating there goes by the same share.
    """
    up_w, down_w = shared_w
    if other.kind != EventKind.CHANGE_W:
        return up_w, down_w
    called_up_w = max(0.0, *(point.power_w for point in other.targets))
    called_down_w = max(0.0, *(-point.power_w for point in other.targets))
    # A change can come from stopping a load as from exporting: at most from one end of the rating to the other.
    most_w, rating_w = up_w + down_w, max(up_w, down_w)
    taken_frac = min(1.0, max(called_up_w, called_down_w) / rating_w) if rating_w else 0.0
    return max(min(called_up_w, most_w), taken_frac * up_w), max(min(called_down_w, most_w), taken_frac * down_w)


def expected_shortfall_kw(
    asked: DispatchAsked, totals: PortfolioTotals | None, claimed_w: tuple[float, float] = (0.0, 0.0)
) -> float | None:
    """Return the largest part of the target that today's dispatchable capability does not cover; None: no picture.

    ``claimed_w`` is what others may take of it, upwards and downwards, both >= 0.
    """
    if totals is None:
        return None
    up_w = max(0.0, abs(totals.dispatchable_up_w) - claimed_w[0])
    down_w = max(0.0, abs(totals.dispatchable_down_w) - claimed_w[1])
    worst_w = 0.0
    for point in target_points(asked):
        change_w = point.power_w if asked.kind == "change_kw" else point.power_w - totals.power_w
        if asked.kind == "limit_kw":
            change_w = min(change_w, 0.0) if asked.limit_side == "export" else max(change_w, 0.0)
        worst_w = max(worst_w, change_w - up_w, -change_w - down_w)
    return kw_of_w(worst_w)


def uncovered_kw(asked: DispatchAsked) -> float | None:
    """Return the shortfall of a portfolio in which nothing can be moved: the target itself, where that can be told."""
    if asked.kind != "change_kw":
        return None
    return kw_of_w(max(abs(point.power_w) for point in target_points(asked)))


def dispatch(stored: StoredDispatch) -> Dispatch:
    """Return a dispatch's record in its newest revision."""
    return Dispatch(**dispatch_fields(stored.dispatch, stored.state, stored.partner_reference))


def dispatch_with_progress(
    stored: StoredDispatch, progress: Sequence[tuple[DispatchProgress, float]]
) -> DispatchWithProgress:
    """Return a dispatch with what the newest cycle of each shard knows of it."""
    shown = [one_progress(part, age_s) for part, age_s in progress if part.revision == stored.dispatch.revision]
    # The record follows the shards by a second or two; a live cycle of the same revision knows better.
    state = shown[0].state if shown and stored.state == "scheduled" else stored.state
    return DispatchWithProgress(**dispatch_fields(stored.dispatch, state, stored.partner_reference), progress=shown)


def one_progress(progress: DispatchProgress, age_s: float | None) -> Progress:
    """Return one shard's progress."""
    return Progress(
        as_of=instant_text(progress.at_ns),
        age_s=milli(age_s),
        shard=progress.shard,
        epoch=progress.epoch,
        cycle=progress.cycle,
        state=progress.state,
        reference_kw=kw_of_w(progress.reference_w),
        funnel=_funnel(lambda name: getattr(progress, name)),
        **_powers(lambda name: getattr(progress, name)),
    )


def outcome_cycle(row: Row) -> OutcomeCycle:
    """Return one recorded cycle."""
    return OutcomeCycle(
        at=instant_text(row["at_ns"]),
        shard=row["shard"],
        epoch=row["epoch"],
        cycle=row["cycle"],
        revision=row["revision"],
        state=row["state"],
        funnel=_funnel(lambda name: row[name]),
        frames_digest=row["frames_digest"],
        **_powers(lambda name: row[name]),
    )


def _window_errors(asked: DispatchAsked, now_ns: int, held_start_ns: int | None) -> list[InvalidInput]:
    found = []
    start, end = format_rfc3339(asked.start), format_rfc3339(asked.end)
    duration_s = (asked.end - asked.start) / NS_PER_S
    if duration_s <= 0:
        found.append(InvalidInput("end", end, f"must be after start ({start})"))
    elif duration_s < DURATION_MIN_S:
        found.append(InvalidInput("end", end, f"must be at least {DURATION_MIN_S} s after start ({start})"))
    elif duration_s > DURATION_MAX_S:
        found.append(InvalidInput("end", end, f"must be at most {DURATION_MAX_S // 3600} h after start ({start})"))
    is_kept = held_start_ns is not None and asked.start == held_start_ns
    if asked.start < now_ns - PAST_START_MAX_S * NS_PER_S and not is_kept:
        rule = f"must not be more than {PAST_START_MAX_S} s in the past (it is {format_rfc3339(now_ns)} now)"
        found.append(InvalidInput("start", start, rule))
    if duration_s > 0 and asked.end <= now_ns:
        found.append(InvalidInput("end", end, f"must be in the future (it is {format_rfc3339(now_ns)} now)"))
    if asked.start > now_ns + AHEAD_MAX_S * NS_PER_S:
        found.append(InvalidInput("start", start, f"must be at most {AHEAD_MAX_S // 86_400} days ahead"))
    if 0 < duration_s < 2 * asked.ramp_s:
        rule = f"two ramps must fit between start and end ({duration_s:g} s)"
        found.append(InvalidInput("ramp_s", asked.ramp_s, rule))
    return found


def _target_errors(asked: DispatchAsked) -> list[InvalidInput]:
    found = []
    points = asked.targets or []
    if points and points[0].start != asked.start:
        rule = f"the first target must begin at start ({format_rfc3339(asked.start)})"
        found.append(InvalidInput("targets[0].start", format_rfc3339(points[0].start), rule))
    for at in range(1, len(points)):
        if points[at].start <= points[at - 1].start:
            rule = "must be after the start of the target before"
            found.append(InvalidInput(f"targets[{at}].start", format_rfc3339(points[at].start), rule))
        elif points[at].start >= asked.end:
            found.append(InvalidInput(f"targets[{at}].start", format_rfc3339(points[at].start), "must be before end"))
    if asked.kind == "limit_kw":
        sign = 1 if asked.limit_side == "export" else -1
        side_rule = ">= 0 for an export" if sign > 0 else "<= 0 for an import"
        rule = f"must be {side_rule} limit (positive is into the grid)"
        powers = [point.power_kw for point in points] if points else [asked.target_kw or 0.0]
        for at, power_kw in enumerate(powers):
            if power_kw * sign < 0:
                found.append(InvalidInput(f"targets[{at}].power_kw" if points else "target_kw", power_kw, rule))
    return found


def dispatch_fields(kept: model.Dispatch, state: str, partner_reference: str) -> dict[str, Any]:
    """Return what every answer says of a dispatch."""
    ends_ns = [*(point.start_ns for point in kept.targets[1:]), kept.end_ns]
    kind = ASKED_OF_EVENT_KIND[kept.kind]
    return {
        "dispatch_id": kept.dispatch_id,
        "portfolio_id": kept.portfolio_id,
        "revision": kept.revision,
        "state": state,
        "kind": kind,
        "start": format_rfc3339(kept.start_ns),
        "end": format_rfc3339(kept.end_ns),
        "targets": [
            Target(
                interval_start=format_rfc3339(point.start_ns),
                interval_end=format_rfc3339(end_ns),
                power_kw=kw_of_w(point.power_w),
            )
            for point, end_ns in zip(kept.targets, ends_ns, strict=True)
        ],
        "limit_side": ("export" if kept.limit_is_export else "import") if kind == "limit_kw" else None,
        "ramp_s": kept.ramp_s,
        "policy": kept.policy,
        "priority": kept.priority,
        "test": kept.is_test,
        "reason": kept.reason,
        "partner_reference": partner_reference or None,
        "requested_at": instant_text(kept.requested_ns),
        "status_url": f"/v1/vpp/dispatches/{kept.dispatch_id}",
    }


def _powers(value: Any) -> dict[str, float | None]:
    """Return target, delivery and the four levels of truth; a level at which no device is known is null."""
    names = ("target", "delivered", "delivered_sd", "shortfall", "commanded", "acknowledged", "reported", "measured")
    return {f"{name}_kw": kw(value(f"{name}_w")) for name in names}


def _funnel(value: Any) -> Funnel:
    return Funnel(**{name: value(f"n_{name}") for name in Funnel.model_fields})
