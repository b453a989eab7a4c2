from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.store.fleets import NOW_NS, enrol_batteries

from unisono.base.errors import Unavailable
from unisono.engines import child
from unisono.engines.postgres import PostgresEngine
from unisono.store import organisations, outbox
from unisono.store.database import open_database
from unisono.store.migrate import migrate


def test_what_was_committed_outlives_kill_9_and_the_pool_finds_the_server_again(tmp_path: Path) -> None:
    engine = PostgresEngine(tmp_path)
    try:
        url = engine.start()
        migrate(url)
        with open_database(url) as database:
            with database.begin() as connection:
                owner = organisations.add(connection, "Rose City Power", NOW_NS).organisation_id
                enrol_batteries(connection, owner, 20)
            assert engine.pid is not None
            with pytest.raises(Unavailable, match="PostgreSQL"), database.begin() as connection:
                enrol_batteries(connection, owner, 30)
                os.kill(engine.pid, signal.SIGKILL)
                assert child.wait_until(lambda: not engine.is_alive(), 5)
                for pid in child.processes_in(tmp_path / "data", "postgres"):
                    os.kill(pid, signal.SIGQUIT)
                assert child.wait_until(lambda: not child.processes_in(tmp_path / "data", "postgres"), 5)
                enrol_batteries(connection, owner, 40)
            with pytest.raises(Unavailable):
                database.check()
            assert engine.start() == url
            with database.begin() as connection:
                assert organisations.get(connection, owner).name == "Rose City Power"
                assert len(enrol_batteries(connection, owner, 20)) == 20
                assert len(outbox.waiting(connection)) == 2, "one message of gateways, one of devices: those committed"
    finally:
        engine.stop()
