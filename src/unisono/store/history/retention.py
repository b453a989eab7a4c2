"""What is too old leaves history, and what no row of the manifest names leaves the disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection

from unisono.base.instants import NS_PER_S
from unisono.store.history import evidence, manifest
from unisono.store.history.kinds import KINDS, day_of
from unisono.store.history.objects import ObjectStore

# A query that began before a file was retired may read it this long.
_READERS_S: Final = 3600
# A file without a row may still be on its way into the manifest; after a day nobody is coming for it.
_ORPHAN_S: Final = 86_400
# Bounds one sweep.
_FILES_PER_SWEEP: Final = 1000


def expire(connection: Connection, now_ns: int, retention_days: Mapping[str, int] | None = None) -> int:
    """Retire the files of days past their kind's retention (``retention_days`` by name goes first); return how many."""
    n_retired = 0
    for kind in KINDS.values():
        days = (retention_days or {}).get(kind.derived_from or kind.name, kind.retention_days)
        if days > 0:
            old = manifest.older_than(connection, kind, day_of(now_ns) - days)
            n_retired += manifest.retire(connection, [file.file_no for file in old], now_ns)
            evidence.log_expiry(connection, old, now_ns)
    return n_retired


def sweep(connection: Connection, store: ObjectStore, now_ns: int) -> int:
    """Delete the bytes of files retired a while ago, and of files that never came into the manifest; return how many.

    Do it in no transaction that others wait for: it takes as long as the deleting.
    """
    gone = manifest.retired_before(connection, now_ns - _READERS_S * NS_PER_S, _FILES_PER_SWEEP)
    for file in gone:
        store.delete(file.path)
    manifest.forget(connection, [file.file_no for file in gone])
    known = manifest.known_paths(connection)
    orphans = [
        path
        for path, changed_ns in store.paths()
        if path.split("/")[0] in KINDS and path not in known and changed_ns < now_ns - _ORPHAN_S * NS_PER_S
    ]
    for path in orphans[:_FILES_PER_SWEEP]:
        store.delete(path)
    return len(gone) + len(orphans[:_FILES_PER_SWEEP])
