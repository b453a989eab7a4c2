"""Many rows at once, by COPY: ten times the speed of INSERT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Table


def copy_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Append ``rows`` (all with the same keys) to ``table`` within the transaction and return their number.

    Columns that are left out get their default. Constraint violations are raised as ``Database.begin`` says.
    """
    if not rows:
        return 0
    names = list(rows[0])
    copy_values(connection, table, names, ([row[name] for name in names] for row in rows))
    return len(rows)


def copy_values(connection: Connection, table: Table, names: Sequence[str], values: Iterable[Sequence[Any]]) -> None:
    """Append rows given as sequences of values in the order of ``names``."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in names)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), columns)
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in values:
            copy.write_row(row)
