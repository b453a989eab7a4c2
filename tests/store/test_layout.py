"""Several shards in the records: where things are announced, and whose epoch is whose."""

from __future__ import annotations

from collections import defaultdict

import pytest
from tests.store.fleets import NOW_NS, enrol_batteries

from unisono.base.errors import InvalidInput
from unisono.base.ids import shard_of_site
from unisono.model.registry import DeviceRecord, GatewayRecord, PortfolioRecord, RegistryRecord, decode_registry
from unisono.store import announce, layout, leases, outbox, portfolios
from unisono.store.database import Database


def told_by_shard(database: Database) -> dict[int, list[RegistryRecord]]:
    found = defaultdict(list)
    with database.begin() as connection:
        for row in outbox.waiting(connection, 1000):
            kind, shard = row.subject.split(".")
            if kind == "registry":
                found[int(shard)] += decode_registry(row.payload).everything()
    return found


def test_the_number_of_shards_is_settled_once(database: Database) -> None:
    with database.begin() as connection:
        assert layout.n_shards(connection) == 1
        layout.settle(connection, 4)
        layout.settle(connection, 4)
        assert layout.n_shards(connection) == 4
        with pytest.raises(InvalidInput, match="must be 4, with which this plant began"):
            layout.settle(connection, 2)


def test_devices_are_told_to_their_shard_and_gateways_to_all(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        layout.settle(connection, 3)
        made = enrol_batteries(connection, organisation_id, 200)
        portfolios.create(connection, organisation_id, "all", NOW_NS, device_nos=[one.device_no for one in made])
    first = told_by_shard(database)
    with database.begin() as connection:
        outbox.mark_published(connection, [row.outbox_id for row in outbox.waiting(connection, 1000)], NOW_NS)
        announce.announce_everything(connection, NOW_NS)
    for told in (first, told_by_shard(database)):
        assert set(told) == {0, 1, 2}
        for shard, records in told.items():
            devices = [record for record in records if isinstance(record, DeviceRecord)]
            assert devices
            assert {shard_of_site(device.site_id, 3) for device in devices} == {shard}
            assert len([record for record in records if isinstance(record, GatewayRecord)]) == 4
            [portfolio] = [record for record in records if isinstance(record, PortfolioRecord)]
            assert set(portfolio.device_nos) == {device.device_no for device in devices}


def test_epochs_differ_over_all_shards_and_grow(database: Database) -> None:
    with database.begin() as connection:
        epochs = [leases.acquire(connection, shard, "here", 30.0) for shard in (0, 1, 2, 1, 0)]
    assert epochs == [1, 2, 3, 4, 5]
