"""Requests folded into the state: dispatches accepted, revised, cancelled or refused; owners' opt-outs.

Idempotent: a request that was folded before, or an older revision, changes nothing and logs nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_S
from unisono.brain.dispatch.controller import CANCELLED, COMPLETED, ActiveDispatch
from unisono.brain.dispatch.members import Members, carried_over, new_members
from unisono.brain.dispatch.profile import check
from unisono.model.dispatch import Dispatch, DispatchShare, OptOutChange, Request
from unisono.model.technology import ReferenceMethod
from unisono.model.totals import LogEntry
from unisono.plant.state import PlantState

# Kinds of log entries.
ACCEPTED: Final = "dispatch.accepted"
REVISED: Final = "dispatch.revised"
CANCELLED_KIND: Final = "dispatch.cancelled"
REFUSED: Final = "dispatch.refused"
SHARED: Final = "dispatch.shared"
OPTED_OUT: Final = "device.opted_out"
OPT_OUT_WITHDRAWN: Final = "device.opt_out_withdrawn"

# Ended dispatches that are remembered, so that a repeated request is known for one.
REMEMBERED_MAX: Final = 10_000


def fold_request(state: PlantState, request: Request, now_ns: int) -> None:
    """Take one request in; whatever is wrong with it ends in a log entry, not in an exception."""
    if isinstance(request, OptOutChange):
        _fold_opt_out(state, request, now_ns)
    elif isinstance(request, DispatchShare):
        _fold_share(state, request, now_ns)
    else:
        _fold_dispatch(state, request, now_ns)


def members_of(state: PlantState, spec: Dispatch) -> Members:
    """Return the portfolio's members as they are now; none if the portfolio is not here (yet)."""
    table = state.fleet
    portfolio = table.portfolios.get(spec.portfolio_no)
    rows = np.empty(0, np.int32) if portfolio is None else portfolio.rows
    return new_members(rows, table.nameplate, table.picture, table.leases)


def draft(state: PlantState, spec: Dispatch, now_ns: int, dispatch_no: int = -2) -> ActiveDispatch:
    """Return the dispatch with its references frozen now; it is not yet the state's."""
    return ActiveDispatch(
        spec=spec,
        dispatch_no=dispatch_no,
        members=members_of(state, spec),
        accepted_ns=now_ns,
        frozen_ns=now_ns,
        fleet_version=state.fleet.version,
        sign=1 if not spec.targets or spec.targets[0].power_w >= 0.0 else -1,
        share_frac=1.0 / state.config.n_shards,
    )


def refreshed(state: PlantState, active: ActiveDispatch) -> None:
    """Take over changes of membership; who was a member keeps its reference."""
    if active.fleet_version != state.fleet.version:
        active.members = carried_over(members_of(state, active.spec), active.members)
        active.fleet_version = state.fleet.version


def log_entry(
    state: PlantState, active_or_spec: ActiveDispatch | Dispatch, kind: str, now_ns: int, body: dict[str, object]
) -> LogEntry:
    """Return a log entry about a dispatch."""
    spec = active_or_spec.spec if isinstance(active_or_spec, ActiveDispatch) else active_or_spec
    return LogEntry(
        at_ns=now_ns,
        kind=kind,
        organisation_id=spec.organisation_id,
        portfolio_id=spec.portfolio_id,
        subject_id=spec.dispatch_id,
        body={"shard": state.shard, "revision": spec.revision, **body},
    )


def remember(state: PlantState, dispatch_id: str, revision: int, ended_as: str) -> None:
    """Keep what became of a dispatch, dropping the oldest beyond a bound."""
    state.ended[dispatch_id] = (revision, ended_as)
    while len(state.ended) > REMEMBERED_MAX:
        del state.ended[next(iter(state.ended))]


def _fold_dispatch(state: PlantState, spec: Dispatch, now_ns: int) -> None:
    active = state.dispatches.get(spec.dispatch_id)
    known_revision = active.spec.revision if active else state.ended.get(spec.dispatch_id, (-1, ""))[0]
    if spec.revision <= known_revision:
        return
    if spec.is_cancelled:
        _cancel(state, active, spec, now_ns)
        return
    try:
        check(spec)
        if active is None and spec.dispatch_id in state.ended:
            ended_as = state.ended[spec.dispatch_id][1]
            raise InvalidInput("dispatch_id", spec.dispatch_id, f"is {ended_as}; it can't be revised")
        # One that runs, and whose end a revision on its way has overtaken, is over now.
        if active is None and spec.end_ns <= now_ns:
            raise InvalidInput("end_ns", spec.end_ns, "must be in the future")
    except InvalidInput as wrong:
        body: dict[str, object] = {"field": wrong.field, "value": str(wrong.value), "rule": wrong.rule}
        state.pending_log.append(log_entry(state, spec, REFUSED, now_ns, body))
        if active is None and spec.dispatch_id not in state.ended:
            _close_unseen(state, spec, now_ns)
        return
    if active is None:
        _accept(state, spec, now_ns)
    else:
        _revise(state, active, spec, now_ns)


def _accept(state: PlantState, spec: Dispatch, now_ns: int) -> None:
    dispatch_no = spec.dispatch_no if spec.dispatch_no >= 0 else state.next_dispatch_no
    state.next_dispatch_no = max(state.next_dispatch_no, dispatch_no) + 1
    active = state.dispatches[spec.dispatch_id] = draft(state, spec, now_ns, dispatch_no)
    members = active.members
    methods = {method.name.lower(): int((members.method == method).sum()) for method in ReferenceMethod}
    state.pending_log.append(
        log_entry(
            state,
            active,
            ACCEPTED,
            now_ns,
            {
                "dispatch_no": dispatch_no,
                "kind": spec.kind,
                "policy": spec.policy,
                "priority": spec.priority,
                "is_test": spec.is_test,
                "reason": spec.reason,
                "start_ns": spec.start_ns,
                "end_ns": spec.end_ns,
                "target_w": [[point.start_ns, point.power_w] for point in spec.targets],
                "n_members": int(members.row.size),
                "n_by_reference_method": {name: n for name, n in methods.items() if n},
            },
        )
    )


def _close_unseen(state: PlantState, spec: Dispatch, now_ns: int) -> None:
    """End a dispatch that can't begin any more, so that its record does not wait for it for ever.

    It came too late: the way here was shut for longer than it was to last, or a restored plant announces it again.
    """
    if spec.end_ns > now_ns:
        remember(state, spec.dispatch_id, spec.revision, "refused")
        return
    dispatch_no = spec.dispatch_no if spec.dispatch_no >= 0 else state.next_dispatch_no
    state.next_dispatch_no = max(state.next_dispatch_no, dispatch_no) + 1
    closed = state.dispatches[spec.dispatch_id] = draft(state, spec, now_ns, dispatch_no)
    closed.state = COMPLETED


def _revise(state: PlantState, active: ActiveDispatch, spec: Dispatch, now_ns: int) -> None:
    moved = spec.portfolio_no != active.spec.portfolio_no
    active.spec = spec
    if moved:
        active.members = carried_over(members_of(state, spec), active.members)
        active.fleet_version = state.fleet.version
    body: dict[str, object] = {
        "start_ns": spec.start_ns,
        "end_ns": spec.end_ns,
        "target_w": [[point.start_ns, point.power_w] for point in spec.targets],
        "in_force_after_s": max(0.0, (spec.start_ns - now_ns) / NS_PER_S),
    }
    state.pending_log.append(log_entry(state, active, REVISED, now_ns, body))


def _cancel(state: PlantState, active: ActiveDispatch | None, spec: Dispatch, now_ns: int) -> None:
    """Mark it cancelled; the next cycle lets its devices go. Of what is over or unknown only the revision is kept."""
    if active is None:
        ended_as = state.ended.get(spec.dispatch_id, (-1, CANCELLED))[1]
        is_new = spec.dispatch_id not in state.ended
        remember(state, spec.dispatch_id, spec.revision, ended_as)
        if is_new:
            state.pending_log.append(log_entry(state, spec, CANCELLED_KIND, now_ns, {"was": "unknown"}))
        return
    body: dict[str, object] = {"was": active.state}
    active.spec = spec if spec.targets else _with_revision(active.spec, spec.revision)
    active.state = CANCELLED
    state.pending_log.append(log_entry(state, active, CANCELLED_KIND, now_ns, body))


def _with_revision(spec: Dispatch, revision: int) -> Dispatch:
    return msgspec.structs.replace(spec, revision=revision, is_cancelled=True)


def _fold_share(state: PlantState, share: DispatchShare, now_ns: int) -> None:
    """Take over this shard's part; one of an older revision or round changes nothing."""
    active = state.dispatches.get(share.dispatch_id)
    if active is None or share.revision < active.spec.revision or share.round <= active.share_round:
        return
    active.share_round, active.elsewhere_w = share.round, share.elsewhere_w
    if share.share_frac != active.share_frac:
        active.share_frac = share.share_frac
        body: dict[str, object] = {"round": share.round, "share_frac": share.share_frac}
        state.pending_log.append(log_entry(state, active, SHARED, now_ns, body))


def _fold_opt_out(state: PlantState, request: OptOutChange, now_ns: int) -> None:
    """Leave the device alone in the window, or in less of it: an earlier end under the same id is a withdrawal."""
    table = state.fleet
    row = table.row(request.device_no)
    if row < 0:
        return
    is_known = request.request_id in table.asked_opt_outs_of_row.get(row, {})
    if not table.set_opt_out(row, request.request_id, (request.start_ns, request.end_ns)):
        return
    state.pending_log.append(
        LogEntry(
            at_ns=now_ns,
            kind=OPT_OUT_WITHDRAWN if is_known else OPTED_OUT,
            organisation_id=table.organisation_id(row),
            subject_id=table.device_id(row),
            body={
                "request_id": request.request_id,
                "start_ns": request.start_ns,
                "end_ns": request.end_ns,
                "reason": request.reason,
            },
        )
    )
