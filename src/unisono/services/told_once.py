"""Which entries of a shard say what the event log holds already: an owner that lost its checkpoint tells things again.

It replays its streams, and so accepts, begins and ends dispatches once more; what is over by then even looks refused to
it. So each request is answered once, each dispatch begins and ends once, and an opt-out or a suspicion is told once of
the same cause. Shortfalls have no cause that would tell them apart, but they begin and end in turn: one that begins
although it has not ended is the same. What a gate trims is told anew by each owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, text

from unisono.model.totals import LogEntry
from unisono.plant.events import ACTIVATED, COMPLETED_KIND, SHORTFALL_BEGINS, SHORTFALL_ENDS
from unisono.plant.requests import ACCEPTED, CANCELLED_KIND, OPT_OUT_WITHDRAWN, OPTED_OUT, REFUSED, REVISED, SHARED
from unisono.plant.step import SUSPECTED

_TURN: Final = "turn"
# What entries of a kind are about, and the fields of their bodies that tell one such thing from another.
_CAUSES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    **dict.fromkeys((ACCEPTED, REVISED, CANCELLED_KIND, REFUSED), ("answer", ("shard", "revision"))),
    ACTIVATED: (ACTIVATED, ("shard",)),
    SHARED: (SHARED, ("shard", "round")),
    COMPLETED_KIND: (COMPLETED_KIND, ("shard",)),
    **dict.fromkeys((SHORTFALL_BEGINS, SHORTFALL_ENDS), (_TURN, ("shard",))),
    OPTED_OUT: (OPTED_OUT, ("request_id", "end_ns")),
    OPT_OUT_WITHDRAWN: (OPT_OUT_WITHDRAWN, ("request_id", "end_ns")),
    SUSPECTED: (SUSPECTED, ("reason", "lease_seq", "measured_ns")),
}
_BEFORE: Final = text(
    "SELECT kind, subject_id, body FROM event_log"
    " WHERE subject_id = ANY(:subjects) AND subject_id <> '' AND kind = ANY(:kinds) ORDER BY seq"
)


def news(connection: Connection, entries: Sequence[LogEntry]) -> list[LogEntry]:
    """Return the entries that are no repetition of one on the log, nor of one before them."""
    subjects = sorted({entry.subject_id for entry in entries if entry.kind in _CAUSES})
    if not subjects:
        return list(entries)
    rows = connection.execute(_BEFORE, {"subjects": subjects, "kinds": list(_CAUSES)})
    # The newest kind of entry about each thing.
    told = {_cause(row.kind, row.subject_id, row.body): row.kind for row in rows}
    new = []
    for entry in entries:
        cause = _cause(entry.kind, entry.subject_id, entry.body) if entry.kind in _CAUSES else None
        if cause is not None and cause in told and (cause[0] != _TURN or told[cause] == entry.kind):
            continue
        if cause is not None:
            told[cause] = entry.kind
        new.append(entry)
    return new


def _cause(kind: str, subject_id: str, body: dict[str, Any]) -> tuple[object, ...]:
    about, fields = _CAUSES[kind]
    return about, subject_id, *(body.get(field) for field in fields)
