"""Dispatches: each revision is one row and one message in the outbox, in one transaction; cancelling is a revision too.

Receivers keep the highest revision of a dispatch and drop the rest, so that a repeated message changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, delete, exists, insert, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or
from sqlalchemy.sql.elements import ColumnElement

from unisono.base.errors import Conflict, NotFound
from unisono.model.dispatch import Dispatch, DispatchProgress, TargetPoint
from unisono.model.totals import LogEntry
from unisono.store import event_log, outbox
from unisono.store.tables.dispatches import DISPATCH, DISPATCH_CYCLE, DISPATCH_REVISION
from unisono.store.tables.portfolios import PORTFOLIO

# Kind of log entry.
OUTCOME_EXPIRED: Final = "dispatch.outcome_expired"
# A day of 4 s cycles is 21,600 rows; other writers of the log wait for this transaction.
_FORGOTTEN_AT_ONCE: Final = 10


class StoredDispatch(msgspec.Struct, frozen=True, kw_only=True):
    """A dispatch in its newest revision, with what the store knows besides."""

    dispatch: Dispatch
    # scheduled, active, completed, cancelled
    state: str
    partner_reference: str
    requested_by: str
    created_ns: int


# Columns of a revision that carry a Dispatch's field of the same name.
_SAME: Final = (
    *("revision", "organisation_id", "kind", "start_ns", "end_ns", "ramp_s", "limit_is_export", "policy", "priority"),
    *("is_test", "is_cancelled", "reason", "requested_ns"),
)
_ROWS = (
    select(
        *(DISPATCH_REVISION.c[name] for name in _SAME),
        DISPATCH_REVISION.c.targets,
        DISPATCH_REVISION.c.requested_by,
        DISPATCH.c.dispatch_id,
        DISPATCH.c.dispatch_no,
        DISPATCH.c.state,
        DISPATCH.c.partner_reference,
        DISPATCH.c.created_ns,
        PORTFOLIO.c.portfolio_id,
        PORTFOLIO.c.portfolio_no,
    )
    .join_from(DISPATCH, DISPATCH_REVISION, DISPATCH.c.dispatch_no == DISPATCH_REVISION.c.dispatch_no)
    .join(PORTFOLIO, PORTFOLIO.c.portfolio_no == DISPATCH.c.portfolio_no)
)
_IS_NEWEST = DISPATCH.c.revision == DISPATCH_REVISION.c.revision


def create(
    connection: Connection, dispatch: Dispatch, *, requested_by: str = "", partner_reference: str = ""
) -> Dispatch:
    """Keep a new dispatch (revision 1), put it into the outbox, and return it with its dispatch_no.

    Raises NotFound if the organisation has no such portfolio, Conflict if the id or the reference is taken.
    """
    assert dispatch.revision == 1, "a new dispatch begins with revision 1"
    portfolio_no = _portfolio_no(connection, dispatch)
    head = {
        "dispatch_id": dispatch.dispatch_id,
        "organisation_id": dispatch.organisation_id,
        "portfolio_no": portfolio_no,
        "revision": 1,
        "start_ns": dispatch.start_ns,
        "end_ns": dispatch.end_ns,
        "partner_reference": partner_reference,
        "created_ns": dispatch.requested_ns,
    }
    dispatch_no = connection.execute(insert(DISPATCH).returning(DISPATCH.c.dispatch_no), head).scalar_one()
    kept = msgspec.structs.replace(dispatch, dispatch_no=dispatch_no, portfolio_no=portfolio_no)
    _keep_revision(connection, kept, requested_by)
    return kept


def revise(connection: Connection, dispatch: Dispatch, *, requested_by: str = "") -> Dispatch:
    """Keep the next revision of a dispatch, the whole of it, put it into the outbox, and return it.

    ``dispatch.revision`` is the present one plus 1; Conflict otherwise (someone else was faster), or when it is
    cancelled or completed; NotFound if the organisation has no such dispatch. The portfolio stays what it was.
    """
    before = _locked(connection, dispatch.organisation_id, dispatch.dispatch_id)
    if before.state in ("cancelled", "completed"):
        raise Conflict("dispatch", dispatch.dispatch_id, f"is {before.state} and can't be revised")
    if dispatch.revision != before.dispatch.revision + 1:
        rule = f"is at revision {before.dispatch.revision}: the next one is {before.dispatch.revision + 1}"
        raise Conflict("dispatch", dispatch.dispatch_id, f"{rule}, not {dispatch.revision}")
    known = before.dispatch
    kept = msgspec.structs.replace(
        dispatch,
        dispatch_no=known.dispatch_no,
        portfolio_id=known.portfolio_id,
        portfolio_no=known.portfolio_no,
    )
    _keep_revision(connection, kept, requested_by)
    _set_head(connection, kept)
    return kept


def cancel(
    connection: Connection,
    organisation_id: str,
    dispatch_id: str,
    now_ns: int,
    *,
    reason: str = "",
    requested_by: str = "",
) -> Dispatch:
    """Call a dispatch off: its next revision is the same but cancelled. Return it.

    Cancelling it again returns the same revision and announces nothing. Conflict if it is completed, NotFound if the
    organisation has no such dispatch.
    """
    before = _locked(connection, organisation_id, dispatch_id)
    if before.dispatch.is_cancelled:
        return before.dispatch
    if before.state == "completed":
        raise Conflict("dispatch", dispatch_id, "is completed and can't be cancelled")
    revision = before.dispatch.revision + 1
    kept = msgspec.structs.replace(
        before.dispatch, revision=revision, is_cancelled=True, reason=reason, requested_ns=now_ns
    )
    _keep_revision(connection, kept, requested_by)
    _set_head(connection, kept)
    return kept


def get(connection: Connection, organisation_id: str, dispatch_id: str) -> StoredDispatch:
    """Return a dispatch in its newest revision; NotFound if the organisation has none of that id."""
    which = (DISPATCH.c.organisation_id == organisation_id) & (DISPATCH.c.dispatch_id == dispatch_id)
    row = connection.execute(_ROWS.where(_IS_NEWEST & which)).first()
    if row is None:
        raise NotFound("dispatch", dispatch_id)
    return _stored(row)


def by_no(connection: Connection, dispatch_no: int) -> StoredDispatch:
    """Return a dispatch by its integer, whatever the organisation; NotFound if there is none."""
    row = connection.execute(_ROWS.where(_IS_NEWEST & (DISPATCH.c.dispatch_no == dispatch_no))).first()
    if row is None:
        raise NotFound("dispatch", str(dispatch_no))
    return _stored(row)


def revisions(connection: Connection, organisation_id: str, dispatch_id: str) -> list[Dispatch]:
    """Return all revisions of a dispatch, oldest first; NotFound if the organisation has none of that id."""
    which = (DISPATCH.c.organisation_id == organisation_id) & (DISPATCH.c.dispatch_id == dispatch_id)
    rows = connection.execute(_ROWS.where(which).order_by(DISPATCH_REVISION.c.revision)).all()
    if not rows:
        raise NotFound("dispatch", dispatch_id)
    return [_stored(row).dispatch for row in rows]


def open_ones(connection: Connection) -> list[Dispatch]:
    """Return every dispatch that is neither completed nor cancelled, oldest first: what a shard has to know."""
    rows = _ROWS.where(_IS_NEWEST & DISPATCH.c.state.in_(("scheduled", "active"))).order_by(DISPATCH.c.dispatch_no)
    return [_stored(row).dispatch for row in connection.execute(rows)]


# Fields of DispatchProgress that are columns of a cycle, in the record's order.
_PROGRESS: Final = tuple(
    name for name in DispatchProgress.__struct_fields__ if name not in ("dispatch_id", "portfolio_id", "part")
)


def record_progress(connection: Connection, progress: Sequence[DispatchProgress]) -> int:
    """Keep one row per dispatch, cycle and shard, and the state each dispatch is in; return how many rows are new.

    Repetitions change nothing. A dispatch that this database does not know is left out (and not counted).
    """
    ids = {row.dispatch_id for row in progress}
    numbers = select(DISPATCH.c.dispatch_id, DISPATCH.c.dispatch_no).where(DISPATCH.c.dispatch_id.in_(ids))
    no_of_id = {row.dispatch_id: row.dispatch_no for row in (connection.execute(numbers) if ids else ())}
    known = [row for row in progress if row.dispatch_id in no_of_id]
    if not known:
        return 0
    rows = [{"dispatch_no": no_of_id[row.dispatch_id], **_columns(row)} for row in known]
    kept = insert_or(DISPATCH_CYCLE).on_conflict_do_nothing().returning(DISPATCH_CYCLE.c.cycle)
    n_new = len(connection.execute(kept, rows).all())
    for row in known:
        _note_state(connection, no_of_id[row.dispatch_id], row)
    return n_new


def forget_outcomes(connection: Connection, before_ns: int, now_ns: int) -> int:
    """Remove the recorded cycles of some dispatches that ended before ``before_ns``; return how many cycles went.

    The dispatches themselves stay; an entry of the event log says what went. Bounded: call it again for the rest.
    """
    c, mine = DISPATCH.c, DISPATCH_CYCLE.c.dispatch_no == DISPATCH.c.dispatch_no
    old = (
        select(c.dispatch_no, c.dispatch_id, c.organisation_id, PORTFOLIO.c.portfolio_id)
        .join(PORTFOLIO, PORTFOLIO.c.portfolio_no == c.portfolio_no)
        .where((c.end_ns < before_ns) & exists().where(mine))
        .order_by(c.dispatch_no)
        .limit(_FORGOTTEN_AT_ONCE)
    )
    entries = []
    for row in connection.execute(old).all():
        n_cycles = connection.execute(
            delete(DISPATCH_CYCLE).where(DISPATCH_CYCLE.c.dispatch_no == row.dispatch_no)
        ).rowcount
        entries.append(
            LogEntry(
                at_ns=now_ns,
                kind=OUTCOME_EXPIRED,
                organisation_id=row.organisation_id,
                portfolio_id=row.portfolio_id,
                subject_id=row.dispatch_id,
                body={"n_cycles": n_cycles},
            )
        )
    if entries:
        event_log.append(connection, entries)
    return sum(int(str(entry.body["n_cycles"])) for entry in entries)


def _columns(row: DispatchProgress) -> dict[str, Any]:
    """Return the row's columns; what is unknown is NaN there."""
    values = {name: getattr(row, name) for name in _PROGRESS}
    return {name: math.nan if value is None else value for name, value in values.items()}


def _note_state(connection: Connection, dispatch_no: int, row: DispatchProgress) -> None:
    # A late message about an old revision, or a shard that has not heard of the cancellation, changes nothing.
    is_open = DISPATCH.c.state.in_(("scheduled", "active")) & (DISPATCH.c.state != row.state)
    this = (DISPATCH.c.dispatch_no == dispatch_no) & (DISPATCH.c.revision == row.revision) & is_open
    connection.execute(update(DISPATCH).where(this).values(state=row.state))


def _portfolio_no(connection: Connection, dispatch: Dispatch) -> int:
    c = PORTFOLIO.c
    mine = (c.organisation_id == dispatch.organisation_id) & (c.portfolio_id == dispatch.portfolio_id)
    found = connection.execute(select(c.portfolio_no).where(mine & c.retired_ns.is_(None))).scalar_one_or_none()
    if found is None:
        raise NotFound("portfolio", dispatch.portfolio_id)
    return int(found)


def _locked(connection: Connection, organisation_id: str, dispatch_id: str) -> StoredDispatch:
    """Return the dispatch with its row locked, so that revisions follow one another."""
    which = (DISPATCH.c.organisation_id == organisation_id) & (DISPATCH.c.dispatch_id == dispatch_id)
    connection.execute(select(DISPATCH.c.dispatch_no).where(which).with_for_update())
    return get(connection, organisation_id, dispatch_id)


def _keep_revision(connection: Connection, dispatch: Dispatch, requested_by: str) -> None:
    row = {
        **{name: getattr(dispatch, name) for name in _SAME},
        "dispatch_no": dispatch.dispatch_no,
        "targets": [[point.start_ns, point.power_w] for point in dispatch.targets],
        "requested_by": requested_by,
    }
    connection.execute(insert(DISPATCH_REVISION), row)
    outbox.put_request(connection, dispatch, dispatch.organisation_id, dispatch.requested_ns)


def _set_head(connection: Connection, dispatch: Dispatch) -> None:
    values: dict[str, Any] = {
        "revision": dispatch.revision,
        "start_ns": dispatch.start_ns,
        "end_ns": dispatch.end_ns,
    }
    values |= {"state": "cancelled"} if dispatch.is_cancelled else {}
    this: ColumnElement[bool] = DISPATCH.c.dispatch_no == dispatch.dispatch_no
    connection.execute(update(DISPATCH).where(this).values(**values))


def _stored(row: Any) -> StoredDispatch:
    values = row._asdict()
    dispatch = Dispatch(
        **{name: values[name] for name in _SAME},
        targets=tuple(TargetPoint(int(start_ns), float(power_w)) for start_ns, power_w in row.targets),
        dispatch_id=row.dispatch_id,
        dispatch_no=row.dispatch_no,
        portfolio_id=row.portfolio_id,
        portfolio_no=row.portfolio_no,
    )
    return StoredDispatch(
        dispatch=dispatch,
        state=row.state,
        partner_reference=row.partner_reference,
        requested_by=row.requested_by,
        created_ns=row.created_ns,
    )
