"""Into how many shards the plant is split: settled at the first start, for sites are placed by it."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from unisono.base.errors import InvalidInput
from unisono.store.tables.operations import PLANT_LAYOUT

_L = PLANT_LAYOUT.c


def n_shards(connection: Connection) -> int:
    """Return the number of shards; 1 as long as nobody has settled it."""
    return connection.execute(select(_L.n_shards)).scalar_one_or_none() or 1


def settle(connection: Connection, wanted: int) -> None:
    """Make it the plant's number of shards; InvalidInput if the plant has another one already."""
    connection.execute(insert(PLANT_LAYOUT).values(is_the_one=True, n_shards=wanted).on_conflict_do_nothing())
    have = n_shards(connection)
    if have != wanted:
        raise InvalidInput("shards", wanted, f"must be {have}, with which this plant began: its sites are placed by it")
