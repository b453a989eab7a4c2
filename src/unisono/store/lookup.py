"""Many rows by their keys, each found along its index whatever the planner believes of a table that grows quickly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ARRAY, Column, Connection, Row, Select, Text, func, literal, select, text, true


def rows_by(connection: Connection, query: Select[Any], key: Column[Any], values: Collection[str]) -> list[Row[Any]]:
    """Return the row of ``query`` for each of ``values`` that has one: first the value, then the query's columns.

    One index probe a value: a list in a WHERE would be answered, while statistics are old, by reading the whole table.
    """
    if not values:
        return []
    # A plan that was made while the tables were small would be kept, and read them whole.
    connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
    connection.execute(text("SET LOCAL enable_seqscan = off"))
    wanted = func.unnest(literal(list(values), ARRAY(Text))).table_valued("value").render_derived(name="wanted")
    one = query.where(key == wanted.c.value).limit(1).lateral("one")
    rows = list(connection.execute(select(wanted.c.value, one).select_from(wanted.join(one, true()))))
    # Not for what comes after it: each check of a foreign key of each row would be planned anew.
    connection.execute(text("SET LOCAL plan_cache_mode = auto"))
    return rows
