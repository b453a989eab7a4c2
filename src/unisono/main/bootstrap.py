"""The first organisation and its admin key, made once, on the first start of a platform."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from unisono.base.clock import Clock
from unisono.engines.folder import write_private
from unisono.model.totals import LogEntry
from unisono.store import event_log, keys, organisations
from unisono.store.database import open_database

KEY_FILE: Final = "admin.key"
ORGANISATION: Final = "default"
SCOPES: Final = ("read", "enrol", "dispatch", "admin")


def key_path(folder: Path) -> Path:
    """Return where the admin key of a data folder lies."""
    return folder / KEY_FILE


def first_key(database_url: str, folder: Path, clock: Clock) -> str:
    """Make an organisation with an admin key if the database has none; return the key, "" when nothing was made.

    The file is written before the commit: a crash in between leaves a key that nobody knows, and the next start makes
    another one. An operator who moved the file away keeps his key: it is not made again.
    """
    path = key_path(folder)
    with open_database(database_url, pool_size=1) as database, database.begin() as connection:
        known = organisations.listed(connection, limit=1)
        is_lost = path.exists() and keys.find(connection, path.read_text("utf-8").strip()) is None
        if known and not is_lost:
            return ""
        now_ns = clock.wall_ns()
        owner = known[0] if known else organisations.add(connection, ORGANISATION, now_ns)
        key, token = keys.make(connection, owner.organisation_id, "first admin", SCOPES, now_ns)
        entry = LogEntry(
            at_ns=now_ns,
            kind="key.created",
            organisation_id=owner.organisation_id,
            subject_id=key.key_id,
            body={"name": key.name, "scopes": list(key.scopes), "reason": "start of the platform"},
        )
        event_log.append(connection, [entry])
        folder.mkdir(parents=True, exist_ok=True)
        write_private(path, token)
    return token
