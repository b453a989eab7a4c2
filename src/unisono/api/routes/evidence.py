"""What can be checked from outside: the event log's chain, and what became of every reading."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from sqlalchemy import Connection

from unisono.api import present
from unisono.api.auth import OPERATOR_NAME, OPERATOR_READS, Reader
from unisono.api.context import Context
from unisono.api.paging import LIMIT_DEFAULT, Cursor, Limit, decode_cursor, encode_cursor, link_next
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.admin import GatewayIngest, IngestCounts, IngestSource, LogVerification
from unisono.api.schemas.portfolios import EventEntry
from unisono.api.schemas.types import Page, Text
from unisono.base.errors import DamagedRecord
from unisono.store import event_log, gateways, listings, organisations, views

router = APIRouter(prefix="/v1", tags=["evidence"], responses=PROBLEM_RESPONSES)


@router.get("/log/verification", dependencies=[OPERATOR_READS], summary="Hash the event log again")
async def verify_log(context: Context) -> LogVerification:
    """The whole chain, all organisations' entries (some 100,000 a second): for keys of the operator's organisation."""

    def work(connection: Connection) -> LogVerification:
        head = event_log.head(connection)
        try:
            found = event_log.verify(connection)
        except DamagedRecord as damaged:
            return LogVerification(is_whole=False, n_entries=head.seq, head=head.hash, problem=damaged.why)
        return LogVerification(is_whole=True, n_entries=found.seq, head=found.hash)

    return await context.run(work)


@router.get("/events", summary="The organisation's event log")
async def list_events(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    subject_id: Annotated[Text | None, Query(description="Only what is told of this one, by its id")] = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[EventEntry]:
    """Everything decided and noticed of what is the organisation's, oldest first.

    ``seq`` has gaps: the chain is the whole plant's, and another organisation's entries are not shown. That none is
    missing is what GET /v1/log/verification says. The last page gives no cursor: ask it again.
    """
    after = decode_cursor(cursor, int)
    rows = await context.run(
        lambda connection: views.events(
            connection, caller.organisation_id, subject_id=subject_id or "", after=after, limit=limit + 1
        )
    )
    more = encode_cursor(rows[limit - 1]["seq"]) if len(rows) > limit else None
    return Page(items=[present.event(row) for row in rows[:limit]], next_cursor=link_next(request, response, more))


@router.get("/ingest/counters", summary="What became of every reading")
async def ingest_counters(caller: Reader, context: Context) -> IngestCounts:
    """Fronts count what came in and was refused, realtime the fate of the rest.

    So ``totals`` takes ``accepted`` from the fronts alone, and every other count from both. A restart of realtime or
    of a front loses nothing of it but a killed front's last 2 s; one of web forgets what fronts counted that have
    ended since. ``accepted`` is then taken for no less than the other counts together. The operator sees all gateways
    (and what no known one sent), others their own; GET /v1/ingest/gateways has them one by one.
    """
    gateway_nos = await context.run(lambda connection: _own_gateways(connection, caller.organisation_id))
    sources = [
        IngestSource(role=role, instance=instance, counts=counts)
        for (role, instance), counts in sorted(context.picture.ingest_counts(gateway_nos).items())
    ]
    totals = context.picture.ingest_totals(gateway_nos)
    return IngestCounts(totals=totals, sources=sources, missing=context.picture.ingest_missing())


@router.get("/ingest/gateways", summary="What became of every reading, gateway by gateway")
async def ingest_of_gateways(
    request: Request,
    response: Response,
    caller: Reader,
    context: Context,
    gateway_id: Text | None = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Page[GatewayIngest]:
    """Gateways of the organisation in the order of their enrolment, with counts as in ``totals`` of the sums.

    A reading is put down to the gateway that sent it: one of a device before its enrolment is there an unknown device.
    """
    after = decode_cursor(cursor, int)
    found = await context.run(
        lambda connection: listings.gateways(
            connection, caller.organisation_id, gateway_id=gateway_id, after=after, limit=limit + 1
        )
    )
    more = encode_cursor(found[limit - 1].record.gateway_no) if len(found) > limit else None
    shown = found[:limit]
    numbers = np.array([one.record.gateway_no for one in shown], np.int32)
    items = [
        present.gateway_ingest(one, counts)
        for one, counts in zip(shown, context.picture.ingest_of_gateways(numbers), strict=True)
    ]
    return Page(items=items, next_cursor=link_next(request, response, more))


def _own_gateways(connection: Connection, organisation_id: str) -> NDArray[np.int32] | None:
    """Return the gateways whose counts an organisation may see; None: all."""
    if organisations.get(connection, organisation_id).name == OPERATOR_NAME:
        return None
    return np.array(sorted(gateways.numbers(connection, organisation_id)), np.int32)
