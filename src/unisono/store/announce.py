"""Announce everything again: for streams that were lost or are new, while PostgreSQL has it all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Column, Connection, select

from unisono.store import device_records, dispatches, gateways, outbox, portfolios
from unisono.store.tables.devices import DEVICE, GATEWAY
from unisono.store.tables.portfolios import PORTFOLIO

_ROWS_PER_READ: Final = 1000


def announce_everything(connection: Connection, now_ns: int) -> int:
    """Put the present record of every gateway, device and portfolio and every open dispatch into the outbox.

    Whoever knows them already drops them, for no revision is new. Returns how many records and requests that is.
    """
    n = 0
    for organisation_id, gateway_nos in _numbers(connection, GATEWAY.c.gateway_no, GATEWAY.c.organisation_id):
        outbox.put_records(connection, 0, gateways.records(connection, gateway_nos), organisation_id, now_ns)
        n += len(gateway_nos)
    for organisation_id, device_nos in _numbers(connection, DEVICE.c.device_no, DEVICE.c.organisation_id):
        n += len(device_records.announce(connection, organisation_id, device_nos, now_ns))
    for organisation_id, portfolio_nos in _numbers(connection, PORTFOLIO.c.portfolio_no, PORTFOLIO.c.organisation_id):
        for portfolio_no in portfolio_nos:
            portfolios.announce(connection, organisation_id, portfolio_no, now_ns)
        n += len(portfolio_nos)
    for dispatch in dispatches.open_ones(connection):
        outbox.put_request(connection, dispatch, dispatch.organisation_id, now_ns)
        n += 1
    return n


def _numbers(connection: Connection, number: Column[int], organisation: Column[str]) -> Iterator[tuple[str, list[int]]]:
    """Yield the numbers of a table, growing, in lots of one organisation each and at most _ROWS_PER_READ."""
    lot: list[int] = []
    owner = ""
    for at, organisation_id in connection.execute(select(number, organisation).order_by(organisation, number)).all():
        if lot and (organisation_id != owner or len(lot) == _ROWS_PER_READ):
            yield owner, lot
            lot = []
        owner = organisation_id
        lot.append(at)
    if lot:
        yield owner, lot
