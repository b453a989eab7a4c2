"""What callers decide goes onto the event log, in the transaction of the decision itself."""

from __future__ import annotations

from sqlalchemy import Connection

from unisono.api.auth import Caller
from unisono.model.totals import LogEntry
from unisono.store import event_log


def note(
    connection: Connection,
    caller: Caller,
    now_ns: int,
    kind: str,
    *,
    portfolio_id: str = "",
    subject_id: str = "",
    **body: object,
) -> None:
    """Append one entry; call it last in a transaction, for other writers wait until it ends."""
    entry = LogEntry(
        at_ns=now_ns,
        kind=kind,
        organisation_id=caller.organisation_id,
        portfolio_id=portfolio_id,
        subject_id=subject_id,
        body={"key_id": caller.key_id, "key_name": caller.name, **body},
    )
    event_log.append(connection, [entry])
