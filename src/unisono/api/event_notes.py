"""What callers decide goes onto the event log, in the transaction of the decision itself. Never a secret."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from unisono.api.auth import Caller
from unisono.model.registry import DeviceRecord
from unisono.model.totals import LogEntry
from unisono.store import event_log, listings


def note(
    connection: Connection,
    caller: Caller,
    now_ns: int,
    kind: str,
    *,
    organisation_id: str = "",
    portfolio_id: str = "",
    subject_id: str = "",
    **body: object,
) -> None:
    """Append one entry, to the caller's own organisation unless told otherwise.

    Call it last in a transaction, for other writers wait until it ends.
    """
    entry = LogEntry(
        at_ns=now_ns,
        kind=kind,
        organisation_id=organisation_id or caller.organisation_id,
        portfolio_id=portfolio_id,
        subject_id=subject_id,
        body={"key_id": caller.key_id, "key_name": caller.name, **body},
    )
    event_log.append(connection, [entry])


def note_of_device(
    connection: Connection, caller: Caller, now_ns: int, kind: str, device: DeviceRecord, **body: Any
) -> None:
    """Append one entry for each portfolio that the device is in, so that each one's log tells it; one if in none."""
    portfolio_ids = listings.portfolio_ids_of_device(connection, device.organisation_id, device.device_no)
    for portfolio_id in portfolio_ids or [""]:
        note(connection, caller, now_ns, kind, portfolio_id=portfolio_id, subject_id=device.device_id, **body)
