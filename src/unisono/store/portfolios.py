"""Portfolios and their members: overlapping, effective-dated, announced whole with each change."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or
from sqlalchemy.sql.elements import ColumnElement

from unisono.base.errors import NotFound
from unisono.model.registry import PortfolioRecord
from unisono.store import layout, outbox
from unisono.store.identity import fresh_id
from unisono.store.tables.devices import DEVICE
from unisono.store.tables.places import SITE
from unisono.store.tables.portfolios import PORTFOLIO, PORTFOLIO_MEMBER

_P = PORTFOLIO.c
_M = PORTFOLIO_MEMBER.c


class Portfolio(msgspec.Struct, frozen=True, kw_only=True):
    """A portfolio as it is enrolled, without its members' numbers."""

    portfolio_id: str
    portfolio_no: int
    organisation_id: str
    name: str
    purpose: str
    partner_reference: str
    revision: int
    created_ns: int
    retired_ns: int | None
    n_devices: int


def create(
    connection: Connection,
    organisation_id: str,
    name: str,
    now_ns: int,
    *,
    purpose: str = "trading",
    partner_reference: str = "",
    device_nos: Collection[int] = (),
) -> Portfolio:
    """Make a portfolio, with members if given, and announce it.

    Raises Conflict if the name or the reference is taken, NotFound if a device is not the organisation's.
    """
    row = {
        "portfolio_id": fresh_id("portfolio", now_ns),
        "organisation_id": organisation_id,
        "name": name,
        "purpose": purpose,
        "partner_reference": partner_reference,
        "created_ns": now_ns,
    }
    portfolio_no = connection.execute(insert(PORTFOLIO).returning(_P.portfolio_no), row).scalar_one()
    _let_in(connection, organisation_id, portfolio_no, device_nos, now_ns)
    announce(connection, organisation_id, portfolio_no, now_ns)
    return get(connection, organisation_id, row["portfolio_id"])  # type: ignore[arg-type]


def change(
    connection: Connection,
    organisation_id: str,
    portfolio_id: str,
    now_ns: int,
    *,
    name: str | None = None,
    add: Collection[int] = (),
    remove: Collection[int] = (),
) -> Portfolio:
    """Rename a portfolio, let devices in and out (by device_no), announce it, and return it.

    Who is in already stays in, who is not leaves unnoticed. NotFound for a portfolio or a device of somebody else.
    """
    portfolio_no = _next_revision(connection, organisation_id, portfolio_id)
    if name is not None:
        connection.execute(update(PORTFOLIO).where(_P.portfolio_no == portfolio_no).values(name=name))
    if remove:
        leaving = (_M.portfolio_no == portfolio_no) & _M.valid_to_ns.is_(None) & _M.device_no.in_(remove)
        connection.execute(update(PORTFOLIO_MEMBER).where(leaving).values(valid_to_ns=now_ns))
    _let_in(connection, organisation_id, portfolio_no, add, now_ns)
    announce(connection, organisation_id, portfolio_no, now_ns)
    return get(connection, organisation_id, portfolio_id)


def retire(connection: Connection, organisation_id: str, portfolio_id: str, now_ns: int) -> Portfolio:
    """End a portfolio: its members leave, its name is free again, its past stays."""
    portfolio_no = _next_revision(connection, organisation_id, portfolio_id)
    members = (_M.portfolio_no == portfolio_no) & _M.valid_to_ns.is_(None)
    connection.execute(update(PORTFOLIO_MEMBER).where(members).values(valid_to_ns=now_ns))
    connection.execute(update(PORTFOLIO).where(_P.portfolio_no == portfolio_no).values(retired_ns=now_ns))
    announce(connection, organisation_id, portfolio_no, now_ns)
    return get(connection, organisation_id, portfolio_id)


def get(connection: Connection, organisation_id: str, portfolio_id: str) -> Portfolio:
    """Return a portfolio, retired or not; NotFound if the organisation has none of that id."""
    found = _listed(connection, (_P.organisation_id == organisation_id) & (_P.portfolio_id == portfolio_id), 1)
    if not found:
        raise NotFound("portfolio", portfolio_id)
    return found[0]


def members(connection: Connection, portfolio_no: int, at_ns: int | None = None) -> list[int]:
    """Return the device_nos of the members now, or as they were at ``at_ns`` (half-open), growing."""
    if at_ns is None:
        was_in: ColumnElement[bool] = _M.valid_to_ns.is_(None)
    else:
        was_in = (_M.valid_from_ns <= at_ns) & (_M.valid_to_ns.is_(None) | (_M.valid_to_ns > at_ns))
    found = select(_M.device_no).where((_M.portfolio_no == portfolio_no) & was_in).order_by(_M.device_no)
    return list(connection.execute(found).scalars())


def records(connection: Connection, portfolio_no: int) -> dict[int, PortfolioRecord]:
    """Return the portfolio's registry record for each shard, with the members that live there."""
    row = connection.execute(select(*PORTFOLIO.c).where(_P.portfolio_no == portfolio_no)).one()
    found = (
        select(SITE.c.shard, _M.device_no)
        .join_from(PORTFOLIO_MEMBER, DEVICE, DEVICE.c.device_no == _M.device_no)
        .join(SITE, SITE.c.site_no == DEVICE.c.site_no)
        .where((_M.portfolio_no == portfolio_no) & _M.valid_to_ns.is_(None))
        .order_by(_M.device_no)
    )
    device_nos: dict[int, list[int]] = {shard: [] for shard in range(layout.n_shards(connection))}
    for shard, device_no in connection.execute(found):
        device_nos[shard].append(device_no)
    return {
        shard: PortfolioRecord(
            revision=row.revision,
            organisation_id=row.organisation_id,
            portfolio_id=row.portfolio_id,
            portfolio_no=portfolio_no,
            purpose=row.purpose,
            device_nos=tuple(some),
            is_retired=row.retired_ns is not None,
        )
        for shard, some in device_nos.items()
    }


def announce(connection: Connection, organisation_id: str, portfolio_no: int, now_ns: int) -> None:
    """Put the portfolio's present record into the outbox, each shard's own; whoever changes it raises its revision."""
    for shard, record in records(connection, portfolio_no).items():
        outbox.put_records(connection, shard, [record], organisation_id, now_ns)


def _next_revision(connection: Connection, organisation_id: str, portfolio_id: str) -> int:
    """Raise the revision, which locks the row to the transaction's end, and return the portfolio_no."""
    mine = (_P.organisation_id == organisation_id) & (_P.portfolio_id == portfolio_id) & _P.retired_ns.is_(None)
    raised = update(PORTFOLIO).where(mine).values(revision=_P.revision + 1).returning(_P.portfolio_no)
    portfolio_no = connection.execute(raised).scalar_one_or_none()
    if portfolio_no is None:
        raise NotFound("portfolio", portfolio_id)
    return int(portfolio_no)


def _let_in(
    connection: Connection, organisation_id: str, portfolio_no: int, device_nos: Collection[int], now_ns: int
) -> None:
    wanted = sorted(set(device_nos))
    if not wanted:
        return
    c = DEVICE.c
    mine = select(c.device_no).where((c.organisation_id == organisation_id) & c.device_no.in_(wanted))
    strangers = set(wanted) - set(connection.execute(mine).scalars())
    if strangers:
        raise NotFound("device", str(min(strangers)))
    since = {"organisation_id": organisation_id, "valid_from_ns": now_ns, "known_at_ns": now_ns}
    rows = [{"portfolio_no": portfolio_no, "device_no": device_no, **since} for device_no in wanted]
    connection.execute(insert_or(PORTFOLIO_MEMBER).on_conflict_do_nothing(), rows)


def _listed(connection: Connection, which: ColumnElement[bool], limit: int) -> list[Portfolio]:
    inside = (_M.portfolio_no == _P.portfolio_no) & _M.valid_to_ns.is_(None)
    count = select(func.count()).select_from(PORTFOLIO_MEMBER).where(inside).scalar_subquery().label("n_devices")
    fields = [_P[name] for name in Portfolio.__struct_fields__ if name != "n_devices"]
    page = select(*fields, count).where(which).order_by(_P.portfolio_no).limit(limit)
    return [_portfolio(row) for row in connection.execute(page)]


def _portfolio(row: Any) -> Portfolio:
    return Portfolio(**row._asdict())
