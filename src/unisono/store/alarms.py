"""Alarms: one open alarm per organisation, kind and subject, however often it is raised."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from unisono.base.errors import NotFound
from unisono.store.identity import fresh_id
from unisono.store.tables.operations import ALARM

_C = ALARM.c


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Something an operator should know; open until it is cleared, acknowledged when somebody has seen it."""

    alarm_id: str
    organisation_id: str
    kind: str
    subject_id: str
    severity: str
    detail: str
    n_raised: int
    raised_ns: int
    last_raised_ns: int
    acknowledged_ns: int | None
    acknowledged_by: str
    note: str
    cleared_ns: int | None

    @property
    def state(self) -> str:
        """cleared, acknowledged or raised."""
        if self.cleared_ns is not None:
            return "cleared"
        return "raised" if self.acknowledged_ns is None else "acknowledged"


_COLUMNS = tuple(_C[name] for name in Alarm.__struct_fields__)


def raise_alarm(
    connection: Connection,
    organisation_id: str,
    kind: str,
    subject_id: str,
    now_ns: int,
    *,
    severity: str = "warning",
    detail: str = "",
) -> Alarm:
    """Raise an alarm, or count the open one of this kind and subject once more (with the new detail and severity).

    ``n_raised`` is 1 exactly for a new one. An acknowledgement stays.
    """
    new = insert(ALARM).values(
        alarm_id=fresh_id("alarm", now_ns),
        organisation_id=organisation_id,
        kind=kind,
        subject_id=subject_id,
        severity=severity,
        detail=detail,
        raised_ns=now_ns,
        last_raised_ns=now_ns,
    )
    again = {
        "n_raised": _C.n_raised + 1,
        "last_raised_ns": now_ns,
        "severity": new.excluded.severity,
        "detail": new.excluded.detail,
    }
    keys = [_C.organisation_id, _C.kind, _C.subject_id]
    raised = new.on_conflict_do_update(index_elements=keys, index_where=_C.cleared_ns.is_(None), set_=again)
    return Alarm(**connection.execute(raised.returning(*_COLUMNS)).one()._asdict())


def acknowledge(
    connection: Connection, organisation_id: str, alarm_id: str, now_ns: int, *, by: str, note: str = ""
) -> Alarm:
    """Note that ``by`` has seen the alarm (the first one stays) and return it; NotFound if it is somebody else's."""
    mine = (_C.organisation_id == organisation_id) & (_C.alarm_id == alarm_id)
    seen = update(ALARM).where(mine & _C.acknowledged_ns.is_(None))
    connection.execute(seen.values(acknowledged_ns=now_ns, acknowledged_by=by, note=note))
    row = connection.execute(select(*_COLUMNS).where(mine)).first()
    if row is None:
        raise NotFound("alarm", alarm_id)
    return Alarm(**row._asdict())


def clear(connection: Connection, organisation_id: str, kind: str, subject_id: str, now_ns: int) -> Alarm | None:
    """End the open alarm of this kind and subject and return it; None, and nothing happens, if there is none."""
    open_one = (_C.organisation_id == organisation_id) & (_C.kind == kind) & (_C.subject_id == subject_id)
    ended_ns = func.greatest(now_ns, _C.raised_ns)
    ended = update(ALARM).where(open_one & _C.cleared_ns.is_(None)).values(cleared_ns=ended_ns)
    row = connection.execute(ended.returning(*_COLUMNS)).first()
    return Alarm(**row._asdict()) if row else None


def refresh(connection: Connection, organisation_id: str, kind: str, subject_id: str, detail: str) -> None:
    """Let the open alarm of this kind and subject, if there is one, say what is so now."""
    open_one = (_C.organisation_id == organisation_id) & (_C.kind == kind) & (_C.subject_id == subject_id)
    connection.execute(update(ALARM).where(open_one & _C.cleared_ns.is_(None)).values(detail=detail))


def open_ones(connection: Connection, organisation_id: str | None = None) -> list[Alarm]:
    """Return all open alarms (of one organisation, or of all), oldest first."""
    which = select(*_COLUMNS).where(_C.cleared_ns.is_(None))
    which = which if organisation_id is None else which.where(_C.organisation_id == organisation_id)
    return [Alarm(**row._asdict()) for row in connection.execute(which.order_by(_C.raised_ns, _C.alarm_id))]
