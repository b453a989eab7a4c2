"""What COPY is told comes back as it was, whatever characters are in it."""

from __future__ import annotations

from math import inf, nan

import pytest
from sqlalchemy import Column, Double, Integer, MetaData, SmallInteger, Table, Text, select
from sqlalchemy.dialects.postgresql import ARRAY, BOOLEAN

from unisono.store.bulk import copy_columns
from unisono.store.database import Database

THINGS = Table(
    "bulk_things",
    MetaData(),
    Column("no", Integer, primary_key=True),
    Column("name", Text),
    Column("power_w", Double),
    Column("is_on", BOOLEAN),
    Column("kinds", ARRAY(SmallInteger)),
)


@pytest.mark.parametrize("odd", ["plain", "back\\slash", "tab\tnew\nline\rend", "\\N", "", None, "ænder 🔌"])
def test_values_come_back_as_they_went_in(database: Database, odd: str | None) -> None:
    columns = {
        "no": [1, 2, 3],
        "name": ["plain", odd, "\\."],
        "power_w": [inf, -0.1, nan],
        "is_on": [True, None, False],
        "kinds": [(0,), (), (1, 2)],
    }
    with database.begin() as connection:
        THINGS.create(connection)
        copy_columns(connection, THINGS, columns)
        copy_columns(connection, THINGS, {"no": [], "name": []})
        rows = connection.execute(select(THINGS).order_by(THINGS.c.no)).all()
        THINGS.drop(connection)
    assert [row.name for row in rows] == columns["name"]
    assert [row.is_on for row in rows] == columns["is_on"]
    assert [tuple(row.kinds) for row in rows] == columns["kinds"]
    assert [str(row.power_w) for row in rows] == ["inf", "-0.1", "nan"]
