"""Organisations, the tenants."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, insert, select

from unisono.base.errors import NotFound
from unisono.store.identity import fresh_id
from unisono.store.tables.parties import ORGANISATION


class Organisation(msgspec.Struct, frozen=True):
    """A tenant; ``currency`` is the default of its programmes."""

    organisation_id: str
    name: str
    currency: str
    created_ns: int


_COLUMNS = tuple(ORGANISATION.c[name] for name in Organisation.__struct_fields__)


def add(connection: Connection, name: str, now_ns: int, currency: str = "USD") -> Organisation:
    """Add an organisation; Conflict if one has that name."""
    new = Organisation(fresh_id("organisation", now_ns), name, currency, now_ns)
    connection.execute(insert(ORGANISATION), msgspec.structs.asdict(new))
    return new


def get(connection: Connection, organisation_id: str) -> Organisation:
    """Return the organisation or raise NotFound."""
    row = connection.execute(select(*_COLUMNS).where(ORGANISATION.c.organisation_id == organisation_id)).first()
    if row is None:
        raise NotFound("organisation", organisation_id)
    return Organisation(*row)


def named(connection: Connection, name: str) -> Organisation | None:
    """Return the organisation of that name, or None."""
    row = connection.execute(select(*_COLUMNS).where(ORGANISATION.c.name == name)).first()
    return Organisation(*row) if row else None


def listed(connection: Connection, after: str = "", limit: int = 100) -> list[Organisation]:
    """Return up to ``limit`` organisations with an id beyond ``after``, in the order of their creation."""
    page = select(*_COLUMNS).where(ORGANISATION.c.organisation_id > after).order_by(ORGANISATION.c.organisation_id)
    return [Organisation(*row) for row in connection.execute(page.limit(limit))]
