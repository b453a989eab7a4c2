"""The proof that commands are kept as they were sent: every commands file's digest stands in the event log.

Three kinds of entries: ``history.commands_file`` (a file came), ``history.commands_merged`` (one came instead of
others), ``history.commands_expired`` (retention let files go). Together they say which bytes must be there now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, func, literal, select, union_all

from unisono.base.errors import DamagedRecord
from unisono.base.instants import NS_PER_S
from unisono.model.batches import COMMANDS_PER_MESSAGE_MAX
from unisono.model.totals import LogEntry
from unisono.store import event_log
from unisono.store.history.files import WrittenFile, read_all
from unisono.store.history.intake import frame_of_rows
from unisono.store.history.kinds import COMMANDS
from unisono.store.history.manifest import ManifestFile
from unisono.store.history.objects import ObjectStore
from unisono.store.tables.dispatches import DISPATCH_CYCLE
from unisono.store.tables.records import EVENT_LOG, HISTORY_FILE

CAME: Final = "history.commands_file"
MERGED: Final = "history.commands_merged"
EXPIRED: Final = "history.commands_expired"

# A wall clock that is set back puts a later frame at an earlier instant; the historian is far closer than this.
_LAG_NS: Final = 600 * NS_PER_S

# Shard, epoch and cycle.
_Message = tuple[int, int, int, int]
# The number of the log's entry, and what it says of a file.
_Promise = tuple[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class LogReport:
    """What ``verify_log`` found; ``first_damage`` is "" when everything is as it was written."""

    head: event_log.Head
    n_files: int
    n_rows: int
    # Cycles whose frame, put together again from its rows, has the digest that the cycle's record names.
    n_frames: int
    first_damage: str

    @property
    def is_sound(self) -> bool:
        """Whether chain and frames are as they were written."""
        return self.first_damage == ""


def log_files(connection: Connection, files: Sequence[WrittenFile], now_ns: int) -> None:
    """Put new commands files on record; do it last in the transaction, for other writers of the log wait."""
    event_log.append(connection, [_entry(CAME, now_ns, _facts(file)) for file in files if file.kind == COMMANDS.name])


def log_merge(connection: Connection, sources: Sequence[ManifestFile], merged: WrittenFile, now_ns: int) -> None:
    """Put on record that one commands file stands for others."""
    if merged.kind == COMMANDS.name:
        facts = {**_facts(merged), "replaces": [file.path for file in sources]}
        event_log.append(connection, [_entry(MERGED, now_ns, facts)])


def log_expiry(connection: Connection, files: Sequence[ManifestFile], now_ns: int) -> None:
    """Put on record that retention let commands files go."""
    paths = [file.path for file in files if file.kind == COMMANDS.name]
    if paths:
        event_log.append(connection, [_entry(EXPIRED, now_ns, {"paths": paths})])


def verify_log(connection: Connection, store: ObjectStore, expected: event_log.Head | None = None) -> LogReport:
    """Hash the chain and then every commands file again; name the first entry or file that is not as it was written.

    ``expected`` is a head known from elsewhere (a printed report): with it, a cut-off end is found too.
    """
    try:
        head = event_log.verify(connection, expected)
    except DamagedRecord as damage:
        return LogReport(event_log.head(connection), 0, 0, 0, str(damage))
    n_files = n_rows = n_frames = 0
    digests = _digests_of_cycles(connection)
    promised, listed = _promised_and_listed(connection)
    for path, (seq, facts) in promised.items():
        damage_found = _damage(store, path, facts, listed.pop(path, None))
        if damage_found:
            return LogReport(head, n_files, n_rows, n_frames, f"event log entry {seq}: {damage_found}")
        for cycle, sha256 in _frames_of(store, path):
            wanted = digests.pop(cycle, None)
            if wanted is not None and wanted[0] != sha256:
                words = f"cycle {cycle[:3]} has other frames in {path} than its record says"
                return LogReport(head, n_files, n_rows, n_frames, words)
            n_frames += wanted is not None
        n_files += 1
        n_rows += int(facts["n_rows"])
    for path in listed:
        return LogReport(head, n_files, n_rows, n_frames, f"history file {path} is not in the event log")
    return LogReport(head, n_files, n_rows, n_frames, _missing_frames(connection, digests))


def _promised_and_listed(connection: Connection) -> tuple[dict[str, _Promise], dict[str, str]]:
    """Return path -> (entry, facts) of what the log says is there, and path -> digest of what the manifest lists.

    Both are read by one statement: a merge between two would look like damage.
    """
    log, file = EVENT_LOG.c, HISTORY_FILE.c
    entries = select(log.seq, log.kind, log.body).where(log.kind.in_((CAME, MERGED, EXPIRED)))
    facts = func.jsonb_build_object("path", file.path, "sha256", file.sha256)
    files = select(literal(0), literal(""), facts).where(file.kind == COMMANDS.name, file.retired_at_ns.is_(None))
    both = union_all(entries, files).subquery()
    promised: dict[str, _Promise] = {}
    listed: dict[str, str] = {}
    for seq, kind, body in connection.execute(select(both).order_by(both.c.seq)):
        if not kind:
            listed[body["path"]] = body["sha256"]
            continue
        for path in (*body.get("replaces", ()), *body.get("paths", ())):
            promised.pop(path, None)
        if kind != EXPIRED:
            promised[body["path"]] = (seq, body)
    return promised, listed


def _digests_of_cycles(connection: Connection) -> dict[_Message, tuple[str, int]]:
    """Return (digest, instant) of each message of frames of every recorded cycle that sent any."""
    c = DISPATCH_CYCLE.c
    cycles = select(c.shard, c.epoch, c.cycle, c.frames_digest, c.at_ns).where(c.frames_digest != "").distinct()
    return {
        (shard, epoch, cycle, part): (sha256, at_ns)
        for shard, epoch, cycle, digests, at_ns in connection.execute(cycles)
        for part, sha256 in enumerate(digests.split())
    }


def _frames_of(store: ObjectStore, path: str) -> Iterator[tuple[_Message, str]]:
    """Yield (shard, epoch, cycle, which of its messages) and the digest of each frame in a commands file."""
    shard = int(path.split("shard=")[1].split("/")[0])
    order = [("epoch", "ascending"), ("cycle", "ascending"), ("frame_row", "ascending")]
    table = read_all(store, COMMANDS, path).sort_by(order)
    epoch, cycle = (table.column(name).to_numpy() for name in ("epoch", "cycle"))
    part = table.column("frame_row").to_numpy() // COMMANDS_PER_MESSAGE_MAX
    begins = np.flatnonzero(np.r_[True, (np.diff(epoch) != 0) | (np.diff(cycle) != 0) | (np.diff(part) != 0)])
    for first, end in pairwise([*begins.tolist(), len(cycle)]):
        frame = frame_of_rows(shard, table.slice(first, end - first))
        yield (shard, frame.epoch, frame.cycle, int(part[first])), hashlib.sha256(frame.encode()).hexdigest()


def _missing_frames(connection: Connection, left: dict[_Message, tuple[str, int]]) -> str:
    """Name the oldest recorded cycle whose frames should be in history by now and are in no file, or return ""."""
    file = HISTORY_FILE.c
    ours = select(func.min(file.at_first_ns), func.max(file.at_last_ns)).where(
        file.kind == COMMANDS.name, file.retired_at_ns.is_(None)
    )
    first_ns, last_ns = connection.execute(ours).one()
    if first_ns is None:
        return ""
    # What retention let go of is before, what the historian has not written yet is after.
    due = [(at_ns, cycle) for cycle, (_, at_ns) in left.items() if first_ns <= at_ns < last_ns - _LAG_NS]
    return f"the frames of cycle {min(due)[1][:3]} are in no file" if due else ""


def _damage(store: ObjectStore, path: str, facts: dict[str, Any], listed_sha256: str | None) -> str:
    if listed_sha256 is None:
        return f"history file {path} is not in the manifest any more"
    if listed_sha256 != facts["sha256"]:
        return f"history file {path} has another digest in the manifest"
    try:
        sha256, n_bytes = store.digest(path)
    except DamagedRecord as damage:
        return str(damage)
    if (sha256, n_bytes) != (facts["sha256"], facts["n_bytes"]):
        return f"history file {path} was changed: its digest is {sha256[:16]}, it was {facts['sha256'][:16]}"
    return ""


def _facts(file: WrittenFile) -> dict[str, object]:
    return {"path": file.path, "sha256": file.sha256, "n_bytes": file.n_bytes, "n_rows": file.n_rows}


def _entry(kind: str, now_ns: int, body: dict[str, object]) -> LogEntry:
    return LogEntry(at_ns=now_ns, kind=kind, organisation_id="", body=body)
