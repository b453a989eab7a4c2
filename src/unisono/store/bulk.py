"""Many rows at once, by COPY: ten times the speed of INSERT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Table

# The characters that COPY's text format gives a meaning to (postgresql.org/docs/current/sql-copy.html, "Text Format").
_ESCAPED: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_SPECIAL: Final = frozenset("\\\t\n\r")
_NULL: Final = r"\N"


def copy_columns(connection: Connection, table: Table, columns: Mapping[str, Sequence[Any]]) -> None:
    """Append rows given as one list a column, all of one length, within the transaction.

    Values are str, bool, int, float, None, or tuples of int. Columns that are left out get their default. Constraint
    violations are raised as ``Database.begin`` says.
    """
    texts = [_texts(values) for values in columns.values()]
    assert len({len(text) for text in texts}) == 1, "all columns have one length"
    if texts[0]:
        rows = "\n".join(map("\t".join, zip(*texts, strict=True)))
        with _copy(connection, table, list(columns)) as copy:
            copy.write(rows + "\n")


def copy_values(connection: Connection, table: Table, names: Sequence[str], values: Iterable[Sequence[Any]]) -> None:
    """Append rows given as sequences of values in the order of ``names``."""
    with _copy(connection, table, names) as copy:
        for row in values:
            copy.write_row(row)


@contextmanager
def _copy(connection: Connection, table: Table, names: Sequence[str]) -> Iterator[psycopg.Copy]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in names)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), columns)
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        yield copy


def _texts(values: Sequence[Any]) -> list[str]:
    """Return what COPY is told for each value; what comes often is put into words once, plain text is left alone."""
    if set(map(type, values)) == {str}:
        text = "".join(values)
        if not any(character in text for character in _SPECIAL):
            return list(values)
    text_of_value = {value: _text(value) for value in set(values)}
    return [text_of_value[value] for value in values]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.translate(_ESCAPED)
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, tuple):
        return "{" + ",".join(map(str, value)) + "}"
    return repr(value) if isinstance(value, float) else str(int(value))
