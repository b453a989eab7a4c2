"""A real PostgreSQL with a migrated database for each test, and a real nats-server, in folders of the test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.engines.postgres import PostgresEngine
from unisono.store.database import Database, open_database
from unisono.store.migrate import migrate

_NUMBERS = itertools.count(1)


class Records:
    """A running PostgreSQL that gives out fresh databases."""

    def __init__(self, engine: PostgresEngine) -> None:
        self.engine = engine
        self._url = engine.start()
        migrate(self._fresh("template1", "migrated"))

    def empty(self) -> str:
        """Return the URL of a database without tables."""
        return self._fresh("template1", f"empty_{next(_NUMBERS)}")

    def migrated(self) -> str:
        """Return the URL of a database with the newest schema."""
        return self._fresh("migrated", f"test_{next(_NUMBERS)}")

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Give a database with the newest schema."""
        with open_database(self.migrated(), pool_size=4) as database:
            yield database

    def _fresh(self, template: str, name: str) -> str:
        with psycopg.connect(self._url, autocommit=True) as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            connection.execute(statement)
        return self._url.rsplit("/", 1)[0] + "/" + name


@contextmanager
def running_records(folder: Path) -> Iterator[Records]:
    """Run PostgreSQL in a folder."""
    engine = PostgresEngine(folder)
    try:
        yield Records(engine)
    finally:
        engine.stop()


@contextmanager
def running_nats(folder: Path) -> Iterator[tuple[NatsEngine, NatsEndpoints]]:
    """Run a nats-server in a folder."""
    engine = NatsEngine(folder)
    endpoints = engine.start()
    try:
        yield engine, endpoints
    finally:
        engine.stop()
