"""Everything that streams tell of the records, told anew: for a platform whose streams are new."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from unisono.store import device_records, dispatches, gateways, outbox, portfolios
from unisono.store.tables.devices import DEVICE, GATEWAY
from unisono.store.tables.portfolios import PORTFOLIO

# A statement takes 65,535 parameters at most, and a message some 1.3 kB a device.
_DEVICES_AT_ONCE: Final = 5000


def announce_everything(connection: Connection, now_ns: int) -> None:
    """Put the present registry and every open dispatch into the outbox: gateways, devices, portfolios, requests."""
    gateway_nos = list(connection.execute(select(GATEWAY.c.gateway_no)).scalars())
    for record in gateways.records(connection, gateway_nos):
        outbox.put_records(connection, 0, [record], record.organisation_id, now_ns)
    of_organisation: dict[str, list[int]] = {}
    for device_no, organisation_id in connection.execute(select(DEVICE.c.device_no, DEVICE.c.organisation_id)):
        of_organisation.setdefault(organisation_id, []).append(device_no)
    for organisation_id, device_nos in of_organisation.items():
        for first in range(0, len(device_nos), _DEVICES_AT_ONCE):
            some = device_nos[first : first + _DEVICES_AT_ONCE]
            device_records.announce(connection, organisation_id, some, now_ns)
    for portfolio_no in connection.execute(select(PORTFOLIO.c.portfolio_no)).scalars().all():
        for shard, portfolio in portfolios.records(connection, portfolio_no).items():
            outbox.put_records(connection, shard, [portfolio], portfolio.organisation_id, now_ns)
    for dispatch in dispatches.open_ones(connection):
        outbox.put_request(connection, dispatch, dispatch.organisation_id, now_ns)
