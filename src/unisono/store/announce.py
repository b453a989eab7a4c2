"""Everything that is enrolled, told again: for streams that were lost, are new, or have grown long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Column, Connection, select

from unisono.model.registry import RegistryBatch, encode_registry
from unisono.store import device_records, dispatches, gateways, layout, outbox, portfolios
from unisono.store.tables.devices import DEVICE, GATEWAY
from unisono.store.tables.portfolios import PORTFOLIO

Message = tuple[str, bytes]


class Page(msgspec.Struct, frozen=True):
    """Messages for ``registry.<shard>`` with the records of some things, and the number of the last of them."""

    messages: Sequence[Message]
    last: int
    n_records: int


Pager = Callable[[Connection, int, int], Page]


def announce_everything(connection: Connection, now_ns: int) -> int:
    """Put the present record of every gateway, device and portfolio and every open dispatch into the outbox.

    Whoever knows them already drops them, for no revision is new. Returns how many records and requests that is.
    """
    n = 0
    for pager in PAGES:
        page = pager(connection, 0, now_ns)
        while page.n_records:
            for subject, payload in page.messages:
                outbox.put(connection, subject, payload, "", now_ns)
            n += page.n_records
            page = pager(connection, page.last, now_ns)
    for dispatch in dispatches.open_ones(connection):
        outbox.put_request(connection, dispatch, dispatch.organisation_id, now_ns)
        n += 1
    return n


def _gateways(connection: Connection, after: int, _now_ns: int) -> Page:
    numbers = _numbers(connection, GATEWAY.c.gateway_no, after, outbox.RECORDS_PER_MESSAGE)
    records = tuple(gateways.records(connection, numbers)) if numbers else ()
    shards = range(layout.n_shards(connection)) if records else ()
    messages = [(f"registry.{shard}", encode_registry(RegistryBatch(records))) for shard in shards]
    return Page(messages, numbers[-1] if numbers else after, len(records))


def _devices(connection: Connection, after: int, now_ns: int) -> Page:
    numbers = _numbers(connection, DEVICE.c.device_no, after, outbox.DEVICES_PER_MESSAGE)
    columns = device_records.columns_of_shards(connection, numbers, now_ns)
    messages = [
        (f"registry.{shard}", encode_registry(RegistryBatch(devices=devices))) for shard, devices in columns.items()
    ]
    return Page(messages, numbers[-1] if numbers else after, len(numbers))


def _portfolios(connection: Connection, after: int, _now_ns: int) -> Page:
    # One at a time: a portfolio may name every device.
    numbers = _numbers(connection, PORTFOLIO.c.portfolio_no, after, 1)
    records = portfolios.records(connection, numbers[0]) if numbers else {}
    messages = [(f"registry.{shard}", encode_registry(RegistryBatch((record,)))) for shard, record in records.items()]
    return Page(messages, numbers[-1] if numbers else after, len(numbers))


def _numbers(connection: Connection, number: Column[Any], after: int, limit: int) -> list[int]:
    return list(connection.execute(select(number).where(number > after).order_by(number).limit(limit)).scalars())


# In the order in which things refer to each other. Each gives the records behind a number, no records at the end.
PAGES: Final[tuple[Pager, ...]] = (_gateways, _devices, _portfolios)
