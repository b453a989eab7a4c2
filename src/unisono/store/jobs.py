"""Jobs: work that outlives its request, kept with all it needs, so that any process can go on with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, and_, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or

from unisono.base.errors import Conflict, NotFound
from unisono.base.instants import NS_PER_S
from unisono.store.identity import fresh_id
from unisono.store.tables.operations import JOB, JOB_ERROR

# A worker that has not been heard of for this long is gone; batches take about a second.
ABANDONED_S: Final = 60.0
_C = JOB.c


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its progress. ``state``: queued, running, completed, failed."""

    job_id: str
    organisation_id: str
    kind: str
    state: str
    n_total: int
    n_done: int
    n_failed: int
    result: dict[str, Any]
    problem: str
    worker: str
    created_ns: int
    heartbeat_ns: int | None
    finished_ns: int | None


class RowError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one row was refused; ``row`` is its place in the request, from 0; ``value`` is JSON, "" for none."""

    row: int
    field: str
    rule: str
    value: str = ""
    partner_reference: str = ""


_COLUMNS = tuple(_C[name] for name in Job.__struct_fields__)


def create(
    connection: Connection, organisation_id: str, kind: str, request: bytes, now_ns: int, *, n_total: int = 0
) -> Job:
    """Queue a job; ``request`` is all that its worker will need."""
    row = {
        "job_id": fresh_id("job", now_ns),
        "organisation_id": organisation_id,
        "kind": kind,
        "request": request,
        "n_total": n_total,
        "created_ns": now_ns,
    }
    return Job(**connection.execute(insert(JOB).returning(*_COLUMNS), row).one()._asdict())


def claim(connection: Connection, worker: str, now_ns: int, kind: str | None = None) -> tuple[Job, bytes] | None:
    """Take the oldest job that is queued, or running but left by its worker, and return it with its request.

    Left: not heard of for ABANDONED_S, or ``worker`` itself has it, which then was started again (so a worker does one
    job at a time). None if there is nothing to do. A job taken over goes on at ``n_done``: commit a batch together with
    ``advance``.
    """
    silent = _C.heartbeat_ns < now_ns - round(ABANDONED_S * NS_PER_S)
    waiting = or_(_C.state == "queued", and_(_C.state == "running", or_(silent, _C.worker == worker)))
    wanted = [waiting] if kind is None else [waiting, _C.kind == kind]
    oldest = select(_C.job_id).where(and_(*wanted)).order_by(_C.created_ns, _C.job_id).limit(1)
    job_id = connection.execute(oldest.with_for_update(skip_locked=True)).scalar_one_or_none()
    if job_id is None:
        return None
    taken = update(JOB).where(_C.job_id == job_id).values(state="running", worker=worker, heartbeat_ns=now_ns)
    row = connection.execute(taken.returning(*_COLUMNS, _C.request)).one()
    values = row._asdict()
    request = bytes(values.pop("request"))
    return Job(**values), request


def advance(
    connection: Connection,
    job: Job,
    now_ns: int,
    *,
    n_done: int,
    errors: Sequence[RowError] = (),
    n_total: int | None = None,
    result: Mapping[str, Any] | None = None,
) -> None:
    """Note that the first ``n_done`` rows are worked through, and what was refused among them; also the heartbeat.

    ``result`` takes the place of the one before.

    In the transaction of the rows' own work. Conflict if another worker has taken the job over: roll back and stop.
    """
    if errors:
        owner = {"job_id": job.job_id, "organisation_id": job.organisation_id}
        rows = [{**owner, **msgspec.structs.asdict(error)} for error in errors]
        connection.execute(insert_or(JOB_ERROR).on_conflict_do_nothing(), rows)
    n_failed = len({error.row for error in errors})
    values: dict[str, Any] = {"n_done": n_done, "n_failed": _C.n_failed + n_failed, "heartbeat_ns": now_ns}
    values |= {} if n_total is None else {"n_total": n_total}
    values |= {} if result is None else {"result": dict(result)}
    mine = (_C.job_id == job.job_id) & (_C.state == "running") & (_C.worker == job.worker)
    if connection.execute(update(JOB).where(mine).values(**values)).rowcount != 1:
        raise Conflict("job", job.job_id, f"is not run by {job.worker!r} any more")


def finish(
    connection: Connection,
    job: Job,
    now_ns: int,
    *,
    problem: str = "",
    result: Mapping[str, Any] | None = None,
) -> None:
    """End the job: completed, or failed if there is a ``problem`` with the whole of it. Conflict as in ``advance``.

    Without a ``result`` it keeps the one that it has.
    """
    state = "failed" if problem else "completed"
    values: dict[str, Any] = {"state": state, "problem": problem, "finished_ns": now_ns}
    values |= {} if result is None else {"result": dict(result)}
    mine = (_C.job_id == job.job_id) & (_C.state == "running") & (_C.worker == job.worker)
    if connection.execute(update(JOB).where(mine).values(**values)).rowcount != 1:
        raise Conflict("job", job.job_id, f"is not run by {job.worker!r} any more")


def get(connection: Connection, organisation_id: str, job_id: str) -> Job:
    """Return a job with its progress; NotFound if the organisation has none of that id."""
    mine = (_C.organisation_id == organisation_id) & (_C.job_id == job_id)
    row = connection.execute(select(*_COLUMNS).where(mine)).first()
    if row is None:
        raise NotFound("job", job_id)
    return Job(**row._asdict())


def request_of(connection: Connection, job_id: str) -> bytes:
    """Return what a job was asked to do."""
    return bytes(connection.execute(select(_C.request).where(_C.job_id == job_id)).scalar_one())
