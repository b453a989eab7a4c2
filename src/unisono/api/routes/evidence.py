"""What can be checked from outside: the event log's chain, and what became of every reading."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import Connection

from unisono.api.auth import OPERATOR_NAME, READS, Reader
from unisono.api.context import Context
from unisono.api.responses import PROBLEM_RESPONSES
from unisono.api.schemas.admin import IngestCounts, IngestSource, LogVerification
from unisono.base.errors import DamagedRecord
from unisono.model.totals import COUNTER_NAMES
from unisono.store import event_log, gateways, organisations

router = APIRouter(prefix="/v1", tags=["evidence"], responses=PROBLEM_RESPONSES)


@router.get("/log/verification", dependencies=[READS], summary="Hash the event log again")
async def verify_log(context: Context) -> LogVerification:
    """The whole chain, all organisations' entries (some 100,000 a second); tells nothing of what they say."""

    def work(connection: Connection) -> LogVerification:
        head = event_log.head(connection)
        try:
            found = event_log.verify(connection)
        except DamagedRecord as damaged:
            return LogVerification(is_whole=False, n_entries=head.seq, head=head.hash, problem=damaged.why)
        return LogVerification(is_whole=True, n_entries=found.seq, head=found.hash)

    return await context.run(work)


@router.get("/ingest/counters", summary="What became of every reading")
async def ingest_counters(caller: Reader, context: Context) -> IngestCounts:
    """Counted since each process's start: fronts count what came in and was refused, realtime the fate of the rest.

    So ``totals`` takes ``accepted`` from the fronts alone, and every other count from both. The operator sees all
    gateways (and what no known one sent), others their own.
    """
    gateway_nos = await context.run(lambda connection: _own_gateways(connection, caller.organisation_id))
    sources = [
        IngestSource(role=role, instance=instance, counts=counts)
        for (role, instance), counts in sorted(context.picture.ingest_counts(gateway_nos).items())
    ]
    totals = dict.fromkeys(COUNTER_NAMES, 0)
    for source in sources:
        for name, count in source.counts.items():
            is_seen_again = name == "accepted" and source.role == "realtime"
            totals[name] += 0 if is_seen_again else count
    return IngestCounts(totals=totals, sources=sources)


def _own_gateways(connection: Connection, organisation_id: str) -> set[int] | None:
    """Return the gateways whose counts an organisation may see; None: all."""
    if organisations.get(connection, organisation_id).name == OPERATOR_NAME:
        return None
    return gateways.numbers(connection, organisation_id)
