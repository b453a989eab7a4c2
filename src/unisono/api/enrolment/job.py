"""The bulk enrolment job: works through its lines in chunks, each one transaction; goes on where it stopped.

Rows are idempotent by partner_reference, and a chunk is committed together with the job's progress: whoever takes the
job over after a crash repeats nothing and leaves nothing out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, text

from unisono.api.context import ApiContext
from unisono.api.enrolment.new_devices import NewDevices
from unisono.api.enrolment.rows import Row, fields_of, reference_of, rows_of, spans_with
from unisono.base.errors import CallerError, Conflict, InvalidInput, Unavailable
from unisono.base.rule_words import plain_value
from unisono.model.totals import LogEntry
from unisono.store import enrolment, event_log, jobs, keys
from unisono.store.enrolment import Enrolled, NewDevice
from unisono.store.job_secrets import SEED_BYTES
from unisono.store.jobs import Job, RowError

log = logging.getLogger(__name__)

KIND: Final = "enrolment"
# One worker in the whole platform, whatever its process: so a new one goes on at once where a dead one stopped.
WORKER: Final = "enrolment"
# Any number, the same for all; held for as long as a job is worked on.
WORKER_LOCK: Final = 7_233_004
# About half a second of work: progress is seen, a crash repeats little, other requests get their turn.
ROWS_PER_CHUNK: Final = 5000
# A job that another process queued, or left, is found within this time.
LOOK_EVERY_S: Final = 5.0
# In a job's result: the rows whose device it made, as half-open spans.
NEW_ROWS: Final = "new_rows"
# What the tables call in watts, as a line calls it.
_FIELD_OF_STORE: Final = {"export_limit_w": "site_export_limit_kw", "import_limit_w": "site_import_limit_kw"}


class EnrolmentWorker:
    """Takes queued enrolments one after the other. Blocking methods run in a thread."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    def work_through_next(self) -> bool:
        """Do the oldest waiting job to its end and return True; False when none waits, or another process works.

        Raises Unavailable midway.
        """
        with self._context.database.begin() as guard:
            # The guard stands idle while chunks are committed beside it.
            guard.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            lock = text("SELECT pg_try_advisory_xact_lock(:key)")
            if not guard.execute(lock, {"key": WORKER_LOCK}).scalar_one():
                return False
            with self._context.database.begin() as connection:
                claimed = jobs.claim(connection, WORKER, self._context.clock.wall_ns(), KIND)
            if claimed is None:
                return False
            log.info("enrolling", extra={"job_id": claimed[0].job_id, "instance": self._context.instance})
            self._work_through(*claimed)
        return True

    def _work_through(self, job: Job, request: bytes) -> None:
        try:
            _Run(self._context, job, request).work_through()
        except Conflict as taken_over:
            log.warning("the job goes on elsewhere", extra={"job_id": job.job_id, "why": str(taken_over)})


@dataclass(slots=True)
class _Chunk:
    """Rows from ``first`` up to ``last``, read."""

    first: int
    last: int
    good: list[tuple[Row, NewDevice]] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)


class _Run:
    """One job on its way, from where the last worker stopped."""

    def __init__(self, context: ApiContext, job: Job, request: bytes) -> None:
        self._context = context
        self._job = job
        self._devices = NewDevices(request[:SEED_BYTES])
        self._rows = rows_of(request[SEED_BYTES:])
        # Rows whose device this job made, in whichever attempt; the others found theirs enrolled.
        self._new_rows: list[list[int]] = job.result.get(NEW_ROWS, [])

    def work_through(self) -> None:
        """Enrol what is left; raises Conflict if another worker has taken the job over."""
        for row in self._rows[: self._job.n_done]:
            with contextlib.suppress(InvalidInput):
                self._devices.of(row)
        for chunk in self._chunks():
            self._enrol(chunk)
        self._finish()

    def _chunks(self) -> Iterator[_Chunk]:
        """Yield the chunks that are left; while one is worked on, the next is read."""
        with ThreadPoolExecutor(1, thread_name_prefix="enrolment-lines") as reader:
            ahead: deque[Future[_Chunk]] = deque()
            for first in range(self._job.n_done, len(self._rows), ROWS_PER_CHUNK):
                ahead.append(reader.submit(self._read, first))
                if len(ahead) > 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _read(self, first: int) -> _Chunk:
        """Return what to enrol of a chunk, and why the others are refused."""
        chunk = _Chunk(first, min(first + ROWS_PER_CHUNK, len(self._rows)))
        for row in self._rows[first : chunk.last]:
            try:
                chunk.good.append((row, self._devices.of(row)))
            except InvalidInput as wrong:
                chunk.errors.append(_row_error(row, wrong))
        return chunk

    def _enrol(self, chunk: _Chunk) -> None:
        """Enrol one chunk; a row that is refused is told of and does not hold the others up."""
        try:
            self._commit(chunk.good, chunk.errors, chunk.last)
        except Conflict:
            raise
        except CallerError as refused:
            # The tables refuse something that the line's own rules let pass: find the rows in ever smaller parts.
            log.warning("a chunk is tried in parts", extra={"job_id": self._job.job_id, "why": str(refused)})
            self._commit([], [*chunk.errors, *self._refused(chunk.good, chunk.first)], chunk.last)

    def _refused(self, good: Sequence[tuple[Row, NewDevice]], n_done: int) -> list[RowError]:
        """Enrol what can be of rows that can't be all together; return why the others are refused."""
        half = len(good) // 2
        errors: list[RowError] = []
        for part in (good[:half], good[half:]):
            try:
                self._commit(part, [], n_done)
            except InvalidInput as wrong:
                errors += [_row_error(part[0][0], wrong)] if len(part) == 1 else self._refused(part, n_done)
        return errors

    def _commit(self, good: Sequence[tuple[Row, NewDevice]], errors: Sequence[RowError], n_done: int) -> None:
        job, now_ns = self._job, self._context.clock.wall_ns()
        with self._context.database.begin() as connection:
            devices = [device for _, device in good]
            made = enrolment.enrol(connection, job.organisation_id, devices, now_ns) if devices else []
            new = [row.at for (row, _), one in zip(good, made, strict=True) if one.is_new]
            new_rows = spans_with(self._new_rows, new)
            jobs.advance(connection, job, now_ns, n_done=n_done, errors=errors, result={NEW_ROWS: new_rows})
            event_log.append(connection, _entries_of(job, made, now_ns))
        self._new_rows = new_rows

    def _finish(self) -> None:
        job, now_ns = self._job, self._context.clock.wall_ns()
        with self._context.database.begin() as connection:
            jobs.finish(connection, job, now_ns)
            n_failed = jobs.get(connection, job.organisation_id, job.job_id).n_failed
            entry = LogEntry(
                at_ns=now_ns,
                kind="enrolment.completed",
                organisation_id=job.organisation_id,
                subject_id=job.job_id,
                body={"n_rows": len(self._rows), "n_failed": n_failed},
            )
            event_log.append(connection, [entry])


async def run_enrolments(context: ApiContext) -> None:
    """Work through enrolment jobs until cancelled; also those that a process left when it died."""
    worker = EnrolmentWorker(context)
    while True:
        try:
            context.job_news.clear()
            if await asyncio.to_thread(worker.work_through_next):
                continue
        except Unavailable as away:
            log.warning("enrolment waits", extra={"why": str(away)})
            await asyncio.sleep(1.0)
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await context.job_news.wait()


def queue(connection: Connection, organisation_id: str, seed: bytes, body: bytes, now_ns: int) -> Job:
    """Queue the job for a body of NDJSON."""
    assert len(seed) == SEED_BYTES, "the seed stands in front of the lines"
    return jobs.create(connection, organisation_id, KIND, seed + body, now_ns, n_total=len(rows_of(body)))


def _entries_of(job: Job, made: Sequence[Enrolled], now_ns: int) -> list[LogEntry]:
    """Return the entry for what one transaction has made, with the digest of its ids; none if that is nothing."""
    device_ids = [one.device_id for one in made if one.is_new]
    gateway_ids = sorted({one.gateway_id for one in made if one.is_new_gateway})
    if not device_ids:
        return []
    body: dict[str, object] = {
        "n_devices": len(device_ids),
        "device_ids_sha256": keys.digest("\n".join(device_ids)),
        "n_gateways": len(gateway_ids),
        "gateway_ids_sha256": keys.digest("\n".join(gateway_ids)),
    }
    return [
        LogEntry(
            at_ns=now_ns,
            kind="enrolment.committed",
            organisation_id=job.organisation_id,
            subject_id=job.job_id,
            body=body,
        )
    ]


def _row_error(row: Row, wrong: InvalidInput) -> RowError:
    """Return why a row was refused, with the partner's reference if it can be read; its value is kept as JSON."""
    field, value = wrong.field, wrong.value
    if field in _FIELD_OF_STORE:
        field = _FIELD_OF_STORE[field]
        value = fields_of(row.line).get(field)
    return RowError(
        row=row.at,
        field=field,
        value="" if value is None else json.dumps(plain_value(value)),
        rule=wrong.rule,
        partner_reference=_printable(reference_of(row.line)),
    )


def _printable(text: str) -> str:
    return "".join(character for character in text[:200] if character.isprintable())
