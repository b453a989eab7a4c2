"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from unisono.store.database import Database, open_database

# Any number, the same for all: two platforms that start at once migrate one after the other.
_MIGRATION_LOCK: Final = 7_233_001


def migrate(url: str) -> str:
    """Run every migration that ``url`` lacks, in one transaction (all or none), and return the revision it is at.

    Safe to call at each start and from several processes at once. Raises Unavailable when the database is away.
    """
    with open_database(url, pool_size=1) as database:
        return migrate_database(database)


def migrate_database(database: Database) -> str:
    """Do what ``migrate`` does on an open database."""
    config = _config()
    with database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return MigrationContext.configure(connection).get_current_revision() or ""


def newest_revision() -> str:
    """Return the revision that this version of the package wants."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
