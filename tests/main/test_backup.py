"""Backup and restore over a real PostgreSQL: everything comes back, into an empty platform only, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from tests.store.history.make import DAY_NS, readings, rows
from tests.store.history.running import Records, running_records

from unisono.base.errors import Conflict, DamagedRecord, InvalidInput
from unisono.main.backup import backup, restore
from unisono.main.config import Settings
from unisono.model.dispatch import Dispatch, TargetPoint
from unisono.model.totals import LogEntry
from unisono.store import dispatches, event_log, gateways, leases, organisations, outbox, portfolios
from unisono.store.database import Database, open_database
from unisono.store.history import evidence, intake, manifest
from unisono.store.history.files import read_all
from unisono.store.history.kinds import READINGS
from unisono.store.history.objects import open_store
from unisono.store.history.writer import Segment, commit_segment, write_segment
from unisono.store.identity import fresh_id

# Changed on purpose by a restore.
ANEW = ("outbox", "stream_position", "shard_lease")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    with running_records(tmp_path_factory.mktemp("postgres")) as running:
        yield running


def settings_of(folder: Path, url: str) -> Settings:
    return Settings(data_dir=folder, database_url=SecretStr(url))


def contents(url: str) -> dict[str, list[Any]]:
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for (name,) in names}  # type: ignore[arg-type]


def fill(database: Database, settings: Settings) -> None:
    store = open_store(settings.history_folder_url)
    with database.begin() as connection:
        owner = organisations.add(connection, "owner of\ttabs and \\ slashes \u2713", DAY_NS).organisation_id
        gateways.add(connection, owner, DAY_NS)
        portfolio = portfolios.create(connection, owner, "all", DAY_NS)
        dispatches.create(
            connection,
            Dispatch(
                dispatch_id=fresh_id("dispatch", DAY_NS),
                revision=1,
                organisation_id=owner,
                portfolio_id=portfolio.portfolio_id,
                portfolio_no=portfolio.portfolio_no,
                kind="change_w",
                start_ns=DAY_NS,
                end_ns=DAY_NS + 3600 * 10**9,
                targets=(TargetPoint(DAY_NS, 5000.0),),
            ),
        )
        connection.execute(text("INSERT INTO shard_lease VALUES (0, 41, 'one', 0)"))
        event_log.append(connection, [LogEntry(at_ns=DAY_NS, kind="test", organisation_id=owner, body={"figure": 1e2})])
        waiting = outbox.waiting(connection)
        outbox.mark_published(connection, [row.outbox_id for row in waiting], DAY_NS)
    segment = Segment("historian", "mark", 1, 1, ((0, readings(np.random.default_rng(1), 500)),))
    files = write_segment(store, segment)
    with database.begin() as connection:
        commit_segment(connection, segment, files, DAY_NS)


@pytest.fixture
def filled(records: Records, tmp_path: Path) -> Settings:
    settings = settings_of(tmp_path / "first", records.migrated())
    assert settings.database_url is not None
    with open_database(settings.database_url.get_secret_value()) as database:
        fill(database, settings)
    return settings


def test_everything_comes_back_and_is_announced_anew(records: Records, filled: Settings, tmp_path: Path) -> None:
    facts = backup(filled, tmp_path / "backup")
    assert facts.log_seq == 1
    url = records.empty()
    second = settings_of(tmp_path / "second", url)
    restore(second, tmp_path / "backup")

    assert filled.database_url is not None
    before, after = contents(filled.database_url.get_secret_value()), contents(url)
    assert before.keys() == after.keys()
    assert {name: some for name, some in after.items() if name not in ANEW} == {
        name: some for name, some in before.items() if name not in ANEW
    }
    store = open_store(second.history_folder_url)
    with open_database(url) as database, database.begin() as connection:
        [file] = manifest.live(connection, READINGS)
        expected = intake.readings_table([readings(np.random.default_rng(1), 500)])
        assert rows(read_all(store, READINGS, file.path)) == rows(expected)
        assert evidence.verify_log(connection, store, event_log.Head(facts.log_seq, facts.log_head)).is_sound
        # Gateways remember the epochs that came after the backup, and streams are new.
        assert connection.execute(text("SELECT epoch FROM shard_lease")).scalar_one() > 41 + 1000
        assert after["stream_position"] == []
        assert [row.subject for row in outbox.waiting(connection)] == ["registry.0", "registry.0", "requests.0"]
        # Numbers for life go on where they were.
        assert gateways.add(connection, after["organisation"][0][0], DAY_NS).gateway_no == 2
        assert leases is not None


def test_a_backup_goes_into_an_empty_platform_only(records: Records, filled: Settings, tmp_path: Path) -> None:
    backup(filled, tmp_path / "backup")
    with pytest.raises(Conflict, match="has rows"):
        restore(filled, tmp_path / "backup")
    with pytest.raises(InvalidInput, match="target"):
        backup(filled, tmp_path / "backup")
    occupied = settings_of(tmp_path / "second", records.empty())
    (tmp_path / "second/history/readings").mkdir(parents=True)
    (tmp_path / "second/history/readings/x.parquet").write_bytes(b"x")
    with pytest.raises(Conflict, match="history"):
        restore(occupied, tmp_path / "backup")


def test_damage_is_named_before_anything_is_restored(records: Records, filled: Settings, tmp_path: Path) -> None:
    facts = backup(filled, tmp_path / "backup")
    url = records.empty()
    victim = tmp_path / "backup/history" / facts.files[0].path
    content = bytearray(victim.read_bytes())
    content[100] ^= 1
    victim.write_bytes(content)
    with pytest.raises(DamagedRecord, match=facts.files[0].path):
        restore(settings_of(tmp_path / "second", url), tmp_path / "backup")
    assert contents(url) == {}
    (tmp_path / "backup/backup.json").unlink()
    with pytest.raises(InvalidInput, match="no finished backup"):
        restore(settings_of(tmp_path / "second", url), tmp_path / "backup")
