from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from unisono.base.errors import Conflict, Unavailable
from unisono.engines import child, postgres
from unisono.engines.postgres import PostgresEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the module: initialising takes most of the time."""
    return tmp_path_factory.mktemp("engines") / "post gres"


@pytest.fixture
def engine(folder: Path) -> Iterator[PostgresEngine]:
    one = PostgresEngine(folder)
    try:
        yield one
    finally:
        one.stop()


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_it_keeps_rows_over_stop_kill_and_restart_on_one_port(engine: PostgresEngine) -> None:
    url = engine.start()
    assert engine.start() == url
    rows(url, "CREATE TABLE IF NOT EXISTS kept (n int)")
    rows(url, "INSERT INTO kept VALUES (1)")
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    assert child.wait_until(lambda: not engine.is_alive(), 5)
    begun = time.perf_counter()
    assert engine.start() == url
    print(f"PostgreSQL is back {time.perf_counter() - begun:.2f} s after kill -9")  # noqa: T201 - a figure, not a verdict
    rows(url, "INSERT INTO kept VALUES (2)")
    engine.stop()
    assert not engine.is_alive()
    assert engine.start() == url, "the port is remembered in the folder"
    assert rows(url, "SELECT n FROM kept ORDER BY n") == [(1,), (2,)]


def test_a_busy_backend_that_outlives_its_server_does_not_block_the_restart(engine: PostgresEngine) -> None:
    url = engine.start()
    assert engine.pid is not None
    with closing(psycopg.connect(url, autocommit=True)) as busy:
        busy.execute("SET statement_timeout = 0")
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")
        busy.pgconn.flush()
        os.kill(engine.pid, signal.SIGKILL)
        assert child.wait_until(lambda: not engine.is_alive(), 5)
        begun = time.perf_counter()
        assert engine.start() == url
    print(f"PostgreSQL is back {time.perf_counter() - begun:.2f} s after kill -9 with a busy backend")  # noqa: T201 - a figure, not a verdict


def test_it_listens_on_the_loopback_interface_only_and_asks_for_the_password(engine: PostgresEngine) -> None:
    url = engine.start()
    assert rows(url, "SHOW listen_addresses") == [("127.0.0.1",)]
    assert rows(url, "SHOW unix_socket_directories") == [("",)]
    assert rows(url, "SHOW fsync") == [("on",)]
    user, _, address = url.partition("@")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"{user.rpartition(':')[0]}:wrong@{address}", connect_timeout=5)
    password = engine.folder / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert not (engine.folder / "initial-password").exists()


def test_two_platforms_on_one_folder_are_told_so(engine: PostgresEngine, folder: Path) -> None:
    engine.start()
    second = PostgresEngine(folder)
    with pytest.raises(Conflict, match=f"in use by process {os.getpid()}: another platform runs on it"):
        second.start()
    assert engine.is_alive()
    found = postgres.inspect(folder)
    assert (found.owner_pid, found.is_running, found.binary.version.split(".")[0]) == (os.getpid(), True, "18")
    engine.stop()
    assert second.start()
    second.stop()
    assert (postgres.inspect(folder).owner_pid, postgres.inspect(folder).is_running) == (None, False)


def test_it_dies_with_a_platform_that_is_killed_and_the_next_one_takes_over(folder: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from unisono.engines.postgres import PostgresEngine\n"
        "engine = PostgresEngine(pathlib.Path(sys.argv[1]))\n"
        "print(engine.start(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    source = Path(postgres.__file__).parents[2]
    platform = subprocess.Popen(
        [sys.executable, "-c", script, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    with platform:
        assert platform.stdout is not None
        url = platform.stdout.readline().strip()
        assert rows(url, "SELECT 1") == [(1,)]
        platform.kill()
    with_new_owner = PostgresEngine(folder)
    try:
        assert with_new_owner.start() == url
        assert rows(url, "SELECT 1") == [(1,)]
    finally:
        with_new_owner.stop()


def test_a_server_that_can_not_start_says_why(tmp_path: Path, engine: PostgresEngine) -> None:
    engine.start()
    port = int(engine.url.rpartition(":")[2].partition("/")[0])
    other = PostgresEngine(tmp_path / "other", port=port)
    with pytest.raises(Unavailable, match=f"postgres port {port}"):
        other.start()
    assert postgres.inspect(tmp_path / "other").owner_pid is None, "the folder is given back"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give itself up")
def test_root_drops_to_an_ordinary_user(folder: Path) -> None:
    code, said = child.run([sys.executable, "-c", "import os; print(os.geteuid())"], folder, drop="namespace")
    if code == 0:
        assert said.strip() == "65534"
    else:
        assert "unshare" in said, "a container that forbids user namespaces; then it is setuid"
