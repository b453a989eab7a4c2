from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from unisono.engines.postgres import PostgresEngine
from unisono.main import cli
from unisono.model.totals import LogEntry
from unisono.store import event_log
from unisono.store.database import Database, open_database
from unisono.store.migrate import migrate


def with_records(folder: Path, change: str = "") -> str:
    """Start the data folder's PostgreSQL, put three entries on record or change what is there, and stop it."""
    engine = PostgresEngine(folder / "postgres")
    url = engine.start()
    try:
        migrate(url)
        with open_database(url, pool_size=1) as database:
            return tampered(database, change) if change else filled(database)
    finally:
        engine.stop()


def filled(database: Database) -> str:
    with database.begin() as connection:
        entries = [LogEntry(at_ns=at, kind="test", organisation_id="org_1", body={"at": at}) for at in (1, 2, 3)]
        head = event_log.append(connection, entries)
    return f"{head.seq}:{head.hash}"


def tampered(database: Database, change: str) -> str:
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE event_log DISABLE TRIGGER event_log_append_only"))
        connection.execute(text(change))
    return ""


def verify(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(["log", "verify", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_log_of_a_stopped_platform_is_verified_and_a_cut_end_is_found_by_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNISONO_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("UNISONO_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    head = with_records(tmp_path)
    assert verify("--head", head) == 0
    assert f"sound: 3 entries, 0 files with 0 command rows\nhead: {head}" in capsys.readouterr().out
    with_records(tmp_path, "DELETE FROM event_log WHERE seq = 3")
    assert verify() == 0
    assert verify("--head", head) == 1
    assert "DAMAGED: event log is damaged: entry 3 is not there any more" in capsys.readouterr().out
    with_records(tmp_path, "UPDATE event_log SET kind = 'tesu' WHERE seq = 2")
    assert verify() == 1
    assert "DAMAGED: event log is damaged: entry 2: kind is not what was hashed" in capsys.readouterr().out
