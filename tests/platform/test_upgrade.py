"""A data folder of an earlier release: `unisono up` migrates its records, refuses its checkpoint, reads its streams.

The folder is made by hand: the schema as of the first migration, rows in it, streams with a registry and readings, and
a checkpoint that is whole but of other columns, as every change of the columns leaves one.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from tests.links.edge import bus_of, device_record, gateway_record
from tests.platform.scene import START_TIMEOUT_S

from unisono.base.instants import NS_PER_S
from unisono.engines.nats import NatsEngine
from unisono.engines.postgres import PostgresEngine
from unisono.main.client import ApiClient
from unisono.main.demo.children import PlantProcess, wait_until
from unisono.model.batches import ReadingBatch
from unisono.model.registry import RegistryBatch, encode_registry
from unisono.plant.checkpoint import SCHEMA_DIGEST, Carried, checkpoint, restore
from unisono.plant.state import PlantConfig, new_state
from unisono.store import migrate
from unisono.store.database import open_database

EPOCH = 41
DEVICE_NOS = (11, 12, 21)
POWER_W = 1234.0
SEVENTH_OF_MAY_NS = 1_778_112_000 * NS_PER_S


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PlantProcess, ApiClient]]:
    folder = tmp_path_factory.mktemp("upgrade") / "plant"
    make_folder(folder)
    plant = PlantProcess(folder)
    try:
        facts = wait_until(lambda: plant.run_facts() and key_is_new(plant) and plant.run_facts(), START_TIMEOUT_S, "up")
        with ApiClient(facts["api_url"], plant.admin_key()) as client:
            wait_until(client.is_ready, START_TIMEOUT_S, "the platform")
            yield plant, client
    finally:
        plant.stop()


def test_records_are_kept_and_the_schema_is_the_newest(upgraded: tuple[PlantProcess, ApiClient]) -> None:
    plant, client = upgraded
    [gateway] = client.pages("/v1/gateways")
    assert gateway["gateway_id"] == gateway_record(1).gateway_id
    facts = plant.run_facts()
    assert facts is not None
    with psycopg.connect(facts["database_url"]) as connection:
        [(revision,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        [(epoch,)] = connection.execute("SELECT epoch FROM shard_lease").fetchall()
        organisations = connection.execute("SELECT name, created_ns FROM organisation").fetchall()
    assert revision == migrate.newest_revision()
    assert epoch == EPOCH + 1, "gateways remember the epochs of before"
    assert organisations == [("the former one", SEVENTH_OF_MAY_NS)]


def test_the_checkpoint_of_other_columns_is_refused_and_the_streams_are_read(
    upgraded: tuple[PlantProcess, ApiClient],
) -> None:
    plant, _ = upgraded
    path = plant.data_dir / "checkpoints/shard-0.bin"

    def is_new() -> bool:
        return path.read_bytes()[8 : 8 + len(SCHEMA_DIGEST)] == SCHEMA_DIGEST

    wait_until(is_new, 60, "a checkpoint of this release")
    lines = [json.loads(line) for line in (plant.data_dir / "log/realtime.log").read_text().splitlines()]
    [refused] = [line for line in lines if line["message"].startswith("checkpoint refused")]
    assert "was written with other columns" in refused["why"]
    state, carried = restore(path.read_bytes(), PlantConfig(), EPOCH + 2, 0, 0)
    assert state.epoch == EPOCH + 2
    rows = [state.fleet.row(no) for no in DEVICE_NOS]
    assert min(rows) >= 0, "who was on the registry's stream is known"
    assert state.fleet.picture.power_w[rows].tolist() == [POWER_W] * len(DEVICE_NOS)
    assert carried.positions["READINGS"] == 1


def make_folder(folder: Path) -> None:
    postgres, nats = PostgresEngine(folder / "postgres"), NatsEngine(folder / "nats")
    try:
        fill_records(postgres.start())
        asyncio.run(fill_streams(nats))
    finally:
        nats.stop()
        postgres.stop()
    payload = checkpoint(new_state(0, EPOCH), Carried({"REGISTRY": 1, "READINGS": 1}), time.time_ns(), 0)
    body = bytes(len(SCHEMA_DIGEST)) + payload[8 + len(SCHEMA_DIGEST) :]
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/shard-0.bin").write_bytes(payload[:4] + zlib.crc32(body).to_bytes(4, "little") + body)
    # A key that this database does not know, so that the start makes another one.
    (folder / "admin.key").write_text("usk_of_before")


def key_is_new(plant: PlantProcess) -> bool:
    return plant.admin_key() != "usk_of_before"


def fill_records(url: str) -> None:
    """Bring the schema to where the first release had it, and use it."""
    config = migrate._config()
    [first] = ScriptDirectory.from_config(config).get_bases()
    with open_database(url, pool_size=1) as database, database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, first)
    gateway = gateway_record(1)
    with psycopg.connect(url) as plain:
        plain.execute(
            "INSERT INTO organisation (organisation_id, name, created_ns) VALUES (%s, 'the former one', %s)",
            (gateway.organisation_id, SEVENTH_OF_MAY_NS),
        )
        plain.execute(
            "INSERT INTO gateway (gateway_id, organisation_id, secret_sha256, created_ns) VALUES (%s, %s, %s, %s)",
            (gateway.gateway_id, gateway.organisation_id, gateway.secret_sha256, SEVENTH_OF_MAY_NS),
        )
        plain.execute("INSERT INTO shard_lease VALUES (0, %s, 'the former one', 0)", (EPOCH,))


async def fill_streams(nats: NatsEngine) -> None:
    records = (gateway_record(1), *(device_record(no, 1) for no in DEVICE_NOS))
    now_ns = time.time_ns()
    n = len(DEVICE_NOS)
    columns: dict[str, Any] = {
        "device_no": DEVICE_NOS,
        "source_kind": [1] * n,
        "measured_ns": [now_ns - NS_PER_S] * n,
        "power_w": [POWER_W] * n,
    }
    batch = ReadingBatch.of_columns({"gateway_no": 1, "batch_seq": 1, "known_ns": now_ns}, columns)
    async with bus_of(nats.start()) as bus:
        await bus.ensure_streams()
        await bus.publish_kept("registry.0", encode_registry(RegistryBatch(records)))
        await bus.publish_kept("readings.0", batch.encode())
