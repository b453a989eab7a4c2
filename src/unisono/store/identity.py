"""New ids, numbers for life: what makes a row itself."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, Table, text

from unisono.base.ids import RANDOM_BYTES, new_id, new_ids


def fresh_id(kind: str, now_ns: int) -> str:
    """Return an id of that kind that nobody else has."""
    return new_id(kind, now_ns, secrets.token_bytes(RANDOM_BYTES))


def fresh_ids(kind: str, now_ns: int, n: int) -> list[str]:
    """Return ``n`` ids of that kind that nobody else has."""
    return new_ids(kind, now_ns, secrets.token_bytes(RANDOM_BYTES * n))


def take_numbers(connection: Connection, table: Table, n: int) -> list[int]:
    """Return ``n`` new numbers of the table's identity column, growing; unused ones are simply left out."""
    column = next(iter(table.primary_key.columns)).name
    statement = text("SELECT nextval(pg_get_serial_sequence(:table, :column)) FROM generate_series(1, :n)")
    return list(connection.execute(statement, {"table": table.name, "column": column, "n": n}).scalars())
