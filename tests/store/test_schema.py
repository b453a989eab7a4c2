from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from tests.store.fleets import NOW_NS, enrol_batteries

from unisono.base.errors import Conflict, InvalidInput, Unavailable
from unisono.bus import subjects
from unisono.model.registry import RegistryBatch, decode_registry
from unisono.store import organisations, outbox
from unisono.store.database import Database, open_database
from unisono.store.migrate import migrate, migrate_database, newest_revision
from unisono.store.tables.all import ALL_TABLES

# Tables of the platform itself, and the tenants' own table.
WITHOUT_TENANT = {"shard_lease", "stream_position", "history_file", "plant_layout"}


def test_the_migrations_make_exactly_the_tables_that_the_code_speaks_of(database: Database) -> None:
    with database.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), ALL_TABLES) == []


def test_migrating_twice_changes_nothing_and_two_at_once_do_not_collide(postgres: str) -> None:
    with open_database(postgres) as admin, admin.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    reached: list[str] = []
    threads = [threading.Thread(target=lambda: reached.append(migrate(postgres))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reached == [newest_revision()] * 3


def test_every_row_belongs_to_an_organisation(database: Database) -> None:
    without = {table.name for table in ALL_TABLES.sorted_tables if "organisation_id" not in table.c}
    assert without == WITHOUT_TENANT
    assert migrate_database(database) == newest_revision()


def test_errors_of_the_database_come_in_our_words(database: Database, organisation_id: str) -> None:
    with pytest.raises(Conflict, match="organisation name 'Rose City Power': exists already"), database.begin() as one:
        organisations.add(one, "Rose City Power", NOW_NS)
    with pytest.raises(InvalidInput, match="site_latitude_check"), database.begin() as one:
        one.execute(
            text(
                "INSERT INTO site (site_id, organisation_id, shard, created_ns, latitude_deg)"
                " VALUES ('sit_x', :organisation_id, 0, 1, 91)"
            ),
            {"organisation_id": organisation_id},
        )
    with pytest.raises(Unavailable, match="statement timeout"), database.begin() as one:
        one.execute(text("SET LOCAL statement_timeout = 20"))
        one.execute(text("SELECT pg_sleep(5)"))
    with pytest.raises(Unavailable, match="PostgreSQL is unavailable"):
        open_database("postgresql://nobody:x@127.0.0.1:9/none").check()
    with pytest.raises(InvalidInput, match="database_url"):
        open_database("not a url")
    with open_database("sqlite://") as strange, pytest.raises(Unavailable):
        strange.check()


def test_the_outbox_speaks_of_the_subjects_that_the_bus_knows(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        enrol_batteries(connection, organisation_id, 1)
        rows = outbox.waiting(connection)
    assert {row.subject for row in rows} == {subjects.registry(0)}
    assert isinstance(decode_registry(rows[0].payload), RegistryBatch)


def test_the_outbox_is_read_in_order_and_forgets_what_is_published(database: Database) -> None:
    with database.begin() as connection:
        for number in range(5):
            outbox.put(connection, subjects.requests(0), bytes([number]), "", NOW_NS)
        rows = outbox.waiting(connection, limit=3)
        assert [row.payload for row in rows] == [b"\x00", b"\x01", b"\x02"]
        assert rows[0].message_id == f"outbox-{rows[0].outbox_id}"
        outbox.mark_published(connection, [row.outbox_id for row in rows], NOW_NS + 1)
        assert [row.payload for row in outbox.waiting(connection)] == [b"\x03", b"\x04"]
        assert outbox.prune(connection, NOW_NS + 2) == 3
        assert len(outbox.waiting(connection)) == 2
