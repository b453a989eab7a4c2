"""Backup and restore: every record, every history file, each with its digest; into an empty platform and nowhere else.

What is in it
-------------
``backup.json`` (what, how many, digests), ``records/<table>.copy.zst`` (PostgreSQL's COPY text, all tables as of one
instant), ``history/...`` (the Parquet files that the manifest of that instant names). It is complete when
``backup.json`` is there, and it is made while the platform runs.

What is not
-----------
*Streams.* Requests, the registry and everything decided are records, and a restored platform announces them anew.
Readings, answers and commands of the last seconds that were not yet in history files stay behind: at most
``readings_age_s`` (30 s) of telemetry. *Checkpoints and secrets of engines*: a restored platform makes new ones.
The admin key's file: the key itself is a record, so whoever holds it can go on using it.

A restored platform raises the epoch of every shard far beyond what the lost one can have reached, so that gateways
obey it, and begins new streams at their first message.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, Final, LiteralString

import msgspec
import psycopg
import pyarrow as pa
from psycopg import sql
from sqlalchemy import Connection, text

from unisono.base.clock import Clock
from unisono.base.errors import Conflict, DamagedRecord, InvalidInput
from unisono.main import endpoints
from unisono.main.clock import SystemClock
from unisono.main.config import Settings
from unisono.store import event_log
from unisono.store.announce import announce_everything
from unisono.store.database import Database, open_database
from unisono.store.history import manifest
from unisono.store.history.objects import ObjectStore, open_store
from unisono.store.migrate import migrate
from unisono.store.tables.all import ALL_TABLES

FORMAT: Final = 1
FACTS: Final = "backup.json"
_VERSION_TABLE: Final = "alembic_version"
_VERSION: Final = text("SELECT version_num FROM alembic_version")
# More owners than a shard can have had between the backup and its loss.
_EPOCHS_AHEAD: Final = 1_000_000
_BLOCK: Final = 1 << 20


class TableFacts(msgspec.Struct, frozen=True):
    """One table: its columns in the order of the file, its rows, the digest of its compressed file."""

    name: str
    columns: tuple[str, ...]
    n_rows: int
    sha256: str


class FileFacts(msgspec.Struct, frozen=True):
    """One history file."""

    path: str
    n_bytes: int
    sha256: str


class BackupFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What ``backup.json`` says."""

    format: int
    made_ns: int
    revision: str
    log_seq: int
    log_head: str
    tables: tuple[TableFacts, ...]
    sequences: dict[str, int]
    files: tuple[FileFacts, ...]


def backup(settings: Settings, target: Path) -> BackupFacts:
    """Write a backup of the platform to a new folder. Raises InvalidInput when the folder is there already."""
    if target.exists():
        raise InvalidInput("target", str(target), "must not be there yet")
    fresh = target.with_name(target.name + ".part")
    if fresh.exists():
        shutil.rmtree(fresh)
    with endpoints.records_url(settings) as url, open_database(url, pool_size=1, name="unisono backup") as database:
        facts = write_backup(database, open_store(settings.history_folder_url), fresh, SystemClock())
    fresh.replace(target)
    _sync(target.parent)
    return facts


def restore(settings: Settings, source: Path) -> BackupFacts:
    """Fill an empty platform from a backup.

    Raises Conflict when there is something already, DamagedRecord when the backup is not what was written.
    """
    facts = read_facts(source)
    _check_files(source, facts)
    with endpoints.records_url(settings) as url, open_database(url, pool_size=2, name="unisono restore") as database:
        migrate(url)
        load_backup(database, open_store(settings.history_folder_url), source, SystemClock())
    return facts


def write_backup(database: Database, store: ObjectStore, folder: Path, clock: Clock) -> BackupFacts:
    """Write records as of one instant and the history files that belong to them into a new folder."""
    (folder / "records").mkdir(parents=True)
    with database.begin() as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        _unhurried(connection)
        tables = tuple(_dump(connection, name, folder) for name in _table_names(connection))
        sequences = _sequences(connection)
        revision = str(connection.execute(_VERSION).scalar_one())
        files = manifest.all_live(connection)
        head = event_log.head(connection)
    for file in files:
        _copy_out(store, file, folder / "history" / file.path)
    facts = BackupFacts(
        format=FORMAT,
        made_ns=clock.wall_ns(),
        revision=revision,
        log_seq=head.seq,
        log_head=head.hash,
        tables=tables,
        sequences=sequences,
        files=tuple(FileFacts(file.path, file.n_bytes, file.sha256) for file in files),
    )
    with (folder / FACTS).open("wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(facts), indent=1))
        out.flush()
        os.fsync(out.fileno())
    _sync(folder)
    return facts


def load_backup(database: Database, store: ObjectStore, source: Path, clock: Clock) -> None:
    """Put a checked backup into a migrated, empty database and an empty store; all records or none."""
    facts = read_facts(source)
    with database.begin() as connection:
        _unhurried(connection)
        _check_empty(connection, facts)
        if present := [path for path, _ in store.paths()]:
            raise Conflict("history", present[0], "is there already: a backup is restored into an empty folder only")
        of_name = {table.name: table for table in facts.tables}
        for name in _restore_order(facts):
            _load(connection, of_name[name], source)
        for sequence, value in facts.sequences.items():
            values = {"name": sequence, "value": value}
            connection.execute(text("SELECT setval(CAST(:name AS regclass), :value)"), values)
        _begin_anew(connection, clock.wall_ns())
        try:
            for file in facts.files:
                _copy_in(store, file, source / "history" / file.path)
        except BaseException:
            # The records are rolled back; what came without them would stand in the way of the next attempt.
            for file in facts.files:
                store.delete(file.path)
            raise


def read_facts(source: Path) -> BackupFacts:
    """Return what a backup says of itself. Raises InvalidInput when it is none, DamagedRecord when it is broken."""
    try:
        facts = msgspec.json.decode((source / FACTS).read_bytes(), type=BackupFacts)
    except FileNotFoundError as absent:
        raise InvalidInput("source", str(source), f"is no finished backup: there is no {FACTS}") from absent
    except (msgspec.DecodeError, OSError) as wrong:
        raise DamagedRecord(str(source / FACTS), str(wrong)) from wrong
    if facts.format != FORMAT:
        raise InvalidInput("format", facts.format, f"this version restores backups of format {FORMAT}")
    return facts


def _check_files(source: Path, facts: BackupFacts) -> None:
    wanted = {f"records/{table.name}.copy.zst": table.sha256 for table in facts.tables}
    wanted |= {f"history/{file.path}": file.sha256 for file in facts.files}
    for path, sha256 in wanted.items():
        try:
            with (source / path).open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError as absent:
            raise DamagedRecord(f"backup file {path}", "is missing") from absent
        if found != sha256:
            raise DamagedRecord(f"backup file {path}", f"its digest is {found[:12]}, {FACTS} says {sha256[:12]}")


def _check_empty(connection: Connection, facts: BackupFacts) -> None:
    revision = connection.execute(_VERSION).scalar_one()
    if revision != facts.revision:
        rule = f"this version's records have revision {revision}: restore with the version that made the backup"
        raise Conflict("backup of revision", facts.revision, rule)
    for name in _table_names(connection):
        if _cursor(connection).execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(name))).rowcount:
            raise Conflict("database table", name, "has rows: a backup is restored into an empty database only")


def _begin_anew(connection: Connection, now_ns: int) -> None:
    """Fit the records to streams that are new and to gateways that remember later epochs."""
    connection.execute(text("UPDATE shard_lease SET epoch = epoch + :ahead"), {"ahead": _EPOCHS_AHEAD})
    connection.execute(text("DELETE FROM stream_position"))
    announce_everything(connection, now_ns)


def _dump(connection: Connection, name: str, folder: Path) -> TableFacts:
    columns = tuple(
        connection.execute(
            text(
                "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:name AS regclass) AND attnum > 0 "
                "AND NOT attisdropped ORDER BY attnum"
            ),
            {"name": f'"{name}"'},
        ).scalars()
    )
    path = folder / "records" / f"{name}.copy.zst"
    cursor = _cursor(connection)
    statement = _copy("COPY {} ({}) TO STDOUT", name, columns)
    with pa.output_stream(str(path), compression="zstd") as out, cursor.copy(statement) as rows:
        for block in rows:
            out.write(block)
    with path.open("rb") as written:
        os.fsync(written.fileno())
        sha256 = hashlib.file_digest(written, "sha256").hexdigest()
    return TableFacts(name, columns, cursor.rowcount, sha256)


def _load(connection: Connection, table: TableFacts, source: Path) -> None:
    cursor = _cursor(connection)
    path = source / "records" / f"{table.name}.copy.zst"
    with (
        pa.input_stream(str(path), compression="zstd") as content,
        cursor.copy(_copy("COPY {} ({}) FROM STDIN", table.name, table.columns)) as rows,
    ):
        while block := content.read(_BLOCK):
            rows.write(block)
    if cursor.rowcount != table.n_rows:
        raise DamagedRecord(f"table {table.name}", f"{cursor.rowcount} rows came back of {table.n_rows}")


def _copy_out(store: ObjectStore, file: manifest.ManifestFile, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for block in store.blocks(file.path):
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != file.sha256:
        raise DamagedRecord(f"history file {file.path}", "its digest is not the manifest's (see `unisono log verify`)")


def _copy_in(store: ObjectStore, file: FileFacts, source: Path) -> None:
    with source.open("rb") as content:
        if store.copy_in(file.path, content) != (file.sha256, file.n_bytes):
            raise DamagedRecord(f"history file {file.path}", "changed on its way")


def _restore_order(facts: BackupFacts) -> list[str]:
    """Return the tables so that each comes after those it refers to."""
    known = {table.name for table in facts.tables}
    ordered = [table.name for table in ALL_TABLES.sorted_tables if table.name in known]
    if missing := known - set(ordered):
        raise InvalidInput("table", min(missing), "is unknown to this version")
    return ordered


def _table_names(connection: Connection) -> list[str]:
    names = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"))
    return [name for name in names.scalars() if name != _VERSION_TABLE]


def _sequences(connection: Connection) -> dict[str, int]:
    rows = connection.execute(
        text("SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL")
    )
    return {name: int(value) for name, value in rows}


def _unhurried(connection: Connection) -> None:
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def _cursor(connection: Connection) -> psycopg.Cursor[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver.cursor()


def _copy(statement: LiteralString, name: str, columns: tuple[str, ...]) -> sql.Composed:
    listed = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
    return sql.SQL(statement).format(sql.Identifier(name), listed)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
