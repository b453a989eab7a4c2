"""Bulk enrolment and the jobs behind it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from unisono.api import present
from unisono.api.auth import Enroller, Reader
from unisono.api.context import ApiContext, Context
from unisono.api.enrolment.job import NEW_ROWS, queue
from unisono.api.enrolment.line import LINE_EXAMPLE
from unisono.api.enrolment.rows import Row, places_in, reference_of, rows_of
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
        "description": "One line for each row that was not refused, in their order; is_new: this row made the device.",
        "content": {
            NDJSON: {
                "example": '{"row":0,"partner_reference":"home-17","device_id":"dev_01KK79P8RC0000000000000000",'
                '"device_no":1,"gateway_reference":"gw-3","gateway_id":"gwy_01KK79P8RC0000000000000000",'
                '"gateway_secret":"(43 characters of base 64)","is_new":true}\n'
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

    Each line ends as an error or in the result. A refused line does not hold the others up. A line whose
    partner_reference is enrolled already changes nothing: it is answered with that device, ``is_new`` false. One that
    says something else than an earlier line of the body is refused.
    """
    body = await request.body()
    if not rows_of(body):
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
    """Each with its row (the line's place in the body, from 0, blank lines counted), the field, its value, the rule."""
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
            value=_value_of(row["value"]),
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

    def work(connection: Connection) -> tuple[jobs.Job, bytes | None, list[Row]]:
        job = jobs.get(connection, caller.organisation_id, job_id)
        if job.state != "completed":
            raise Conflict("job", job_id, f"is {job.state}: its result comes when it is completed")
        rows = rows_of(jobs.request_of(connection, job_id)[SEED_BYTES:])
        seed = job_secrets.seed_of(connection, job_id)
        if seed is not None:
            # On record before the first of them leaves, for a download that breaks has shown some, too.
            note(connection, caller, context.clock.wall_ns(), "gateway.secrets_shown", subject_id=job_id)
        return job, seed, rows

    job, seed, rows = await context.run(work)
    lines = _result_lines(context, job, seed=seed, rows=rows)
    return StreamingResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-store"})


async def _result_lines(
    context: ApiContext, job: jobs.Job, *, seed: bytes | None, rows: Sequence[Row]
) -> AsyncIterator[bytes]:
    """Yield the result; the seed is spent behind the last line, so that a broken download can be repeated."""
    new_rows = places_in(job.result.get(NEW_ROWS, []))

    def chunk(connection: Connection, part: Sequence[Row]) -> bytes:
        refused = views.rows_with_errors(connection, job.job_id, part[0].at, part[-1].at)
        reference_of_row = {row.at: reference_of(row.line) for row in part if row.at not in refused}
        found = views.enrolled_of_references(connection, job.organisation_id, list(set(reference_of_row.values())))
        device_of_reference = {device["partner_reference"]: device for device in found}
        return b"".join(
            present.json_of(_result(at, device_of_reference[reference], seed, is_new=at in new_rows)) + b"\n"
            for at, reference in reference_of_row.items()
            if reference in device_of_reference
        )

    for first in range(0, len(rows), RESULT_ROWS_PER_CHUNK):
        yield await context.run(partial(chunk, part=rows[first : first + RESULT_ROWS_PER_CHUNK]))
    if seed is not None:
        await context.run(lambda connection: job_secrets.spend(connection, job.job_id))


def _value_of(kept: str) -> Any:
    """Return a refused value, which is kept as JSON; None for none, text that is no JSON as it is."""
    try:
        return json.loads(kept) if kept else None
    except ValueError:
        return kept


def _result(number: int, row: present.Row, seed: bytes | None, *, is_new: bool) -> dict[str, Any]:
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
        "is_new": is_new,
    }
