"""Bulk enrolment and the jobs behind it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from functools import partial
from operator import itemgetter
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from unisono.api import present
from unisono.api.auth import Enroller, Reader
from unisono.api.context import ApiContext, Context
from unisono.api.enrolment.job import lines_of, queue
from unisono.api.enrolment.line import LINE_EXAMPLE, parse_line
from unisono.api.event_notes import note
from unisono.api.idempotency import Once, RequiredIdempotencyKey
from unisono.api.paging import LIMIT_DEFAULT, Cursor, Limit, decode_cursor, encode_cursor, link_next
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.admin import Job, RowError
from unisono.api.schemas.types import Page
from unisono.base.errors import Conflict, InvalidInput
from unisono.base.ids import check_id
from unisono.store import job_secrets, jobs, keys, views
from unisono.store.job_secrets import SEED_BYTES

router = APIRouter(prefix="/v1", tags=["enrolment"], responses=PROBLEM_RESPONSES)

NDJSON: Final = "application/x-ndjson"
RESULT_ROWS_PER_CHUNK: Final = 2000

_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "One EnrolmentLine a line; at most 64 MiB (some 100,000 lines). Larger fleets: several jobs.",
        "content": {
            NDJSON: {
                "schema": {"type": "string", "contentMediaType": NDJSON},
                "example": present.json_of(LINE_EXAMPLE).decode() + "\n",
            },
            "application/json": {"schema": {"$ref": "#/components/schemas/EnrolmentLine"}, "example": LINE_EXAMPLE},
        },
    }
}
_RESULT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One line a row that was enrolled, in the order sent.",
        "content": {
            NDJSON: {
                "example": '{"row":0,"partner_reference":"home-17","device_id":"dev_01KK79P8RC0000000000000000",'
                '"device_no":1,"gateway_reference":"gw-3","gateway_id":"gwy_01KK79P8RC0000000000000000",'
                '"gateway_secret":"(43 characters of base 64)"}\n'
            }
        },
    }
}


@router.post(
    "/vpp/enrolments", status_code=202, response_model=Job, openapi_extra=_BODY, summary="Enrol many devices (a job)"
)
async def enrol(
    request: Request, caller: Enroller, context: Context, idempotency_key: RequiredIdempotencyKey
) -> Response:
    """NDJSON, one device a line (schema EnrolmentLine): partner_reference, asset_type, zip, what its technology needs.

    A line whose partner_reference is enrolled already changes nothing. A refused line does not hold the others up.
    """
    body = await request.body()
    if not lines_of(body):
        raise InvalidInput("body", "", "must hold at least one line of JSON")

    def work(connection: Connection) -> Job:
        now_ns = context.clock.wall_ns()
        queued = queue(connection, caller.organisation_id, secrets.token_bytes(SEED_BYTES), body, now_ns)
        digest = hashlib.sha256(body).hexdigest()
        note(
            connection,
            caller,
            now_ns,
            "enrolment.requested",
            subject_id=queued.job_id,
            n_rows=queued.n_total,
            body_sha256=digest,
        )
        return present.job(queued)

    answer = await Once(context, caller, request, idempotency_key).answer(work, status=202)
    context.job_news.set()
    return answer


@router.get("/jobs/{job_id}", summary="A job's progress")
async def get_job(job_id: str, caller: Reader, context: Context) -> Job:
    """queued, running, completed or failed, with counts of rows."""
    check_id("job", job_id, "job_id")
    return present.job(await context.run(lambda connection: jobs.get(connection, caller.organisation_id, job_id)))


@router.get("/jobs/{job_id}/errors", summary="Rows that a job refused")
async def list_job_errors(
    job_id: str,
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[RowError]:
    """Each with its row (from 0), the field, its value and the rule."""
    check_id("job", job_id, "job_id")
    after = decode_cursor(cursor, int) - (cursor is None)

    def work(connection: Connection) -> list[present.Row]:
        jobs.get(connection, caller.organisation_id, job_id)
        return list(views.job_errors(connection, job_id, after=after, limit=limit + 1))

    rows = await context.run(work)
    more = encode_cursor(rows[limit - 1]["row"]) if len(rows) > limit else None
    items = [
        RowError(
            row=row["row"],
            partner_reference=row["partner_reference"] or None,
            field=row["field"],
            value=row["value"] or None,
            rule=row["rule"],
        )
        for row in rows[:limit]
    ]
    return Page(items=items, next_cursor=link_next(request, response, more))


@router.get(
    "/jobs/{job_id}/result",
    response_class=StreamingResponse,
    responses=_RESULT,
    summary="What a finished enrolment made, with its gateways' secrets, once",
)
async def get_job_result(job_id: str, caller: Enroller, context: Context) -> StreamingResponse:
    """NDJSON. ``gateway_secret`` is in the first complete answer only, and only for gateways that this job made."""
    check_id("job", job_id, "job_id")

    def work(connection: Connection) -> tuple[jobs.Job, bytes | None, list[bytes]]:
        job = jobs.get(connection, caller.organisation_id, job_id)
        if job.state != "completed":
            raise Conflict("job", job_id, f"is {job.state}: its result comes when it is completed")
        lines = lines_of(jobs.request_of(connection, job_id)[SEED_BYTES:])
        seed = job_secrets.seed_of(connection, job_id)
        if seed is not None:
            # On record before the first of them leaves, for a download that breaks has shown some, too.
            note(connection, caller, context.clock.wall_ns(), "gateway.secrets_shown", subject_id=job_id)
        return job, seed, lines

    _, seed, lines = await context.run(work)
    rows = _result_lines(context, caller.organisation_id, job_id, seed=seed, lines=lines)
    return StreamingResponse(rows, media_type=NDJSON, headers={"Cache-Control": "no-store"})


async def _result_lines(
    context: ApiContext, organisation_id: str, job_id: str, *, seed: bytes | None, lines: list[bytes]
) -> AsyncIterator[bytes]:
    """Yield the result; the seed is spent behind the last line, so that a broken download can be repeated."""

    def chunk(connection: Connection, first: int) -> bytes:
        references: dict[str, int] = {}
        for row, line in enumerate(lines[first : first + RESULT_ROWS_PER_CHUNK], first):
            reference = _reference(line)
            if reference:
                references.setdefault(reference, row)
        found = views.enrolled_of_references(connection, organisation_id, list(references))
        shown = sorted(((references[row["partner_reference"]], row) for row in found), key=itemgetter(0))
        return b"".join(present.json_of(_result(number, row, seed)) + b"\n" for number, row in shown)

    for first in range(0, len(lines), RESULT_ROWS_PER_CHUNK):
        yield await context.run(partial(chunk, first=first))
    if seed is not None:
        await context.run(lambda connection: job_secrets.spend(connection, job_id))


def _reference(line: bytes) -> str:
    try:
        return parse_line(line).partner_reference
    except InvalidInput:
        # A refused line; it is among the job's errors.
        return ""


def _result(number: int, row: present.Row, seed: bytes | None) -> dict[str, Any]:
    reference, secret = row["gateway_reference"], None
    if seed is not None and reference:
        derived = job_secrets.gateway_secret(seed, reference)
        # Another job made it, or its secret was rotated since: then it is not ours to show.
        secret = derived if keys.digest(derived) == row["secret_sha256"] else None
    return {
        "row": number,
        "partner_reference": row["partner_reference"],
        "device_id": row["device_id"],
        "device_no": row["device_no"],
        "gateway_reference": reference or None,
        "gateway_id": row["gateway_id"],
        "gateway_secret": secret,
    }
