"""An engine's folder: one owner at a time, its remembered ports, its secrets readable by nobody else."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from unisono.base.errors import Conflict, InvalidInput, Unavailable

HOST: Final = "127.0.0.1"
# Below the range from which Linux takes ports for outgoing connections (32768 up), so that nobody takes ours by chance
# between an engine's death and its restart.
_PORTS: Final = range(21_000, 32_000)
_TRIES: Final = 200


class FolderLock:
    """A lock on a folder that the operating system takes away with the process that holds it."""

    def __init__(self, folder: Path, what: str) -> None:
        self._folder = folder
        self._what = what
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock (again: nothing happens); raises Conflict naming who has it."""
        if self._fd >= 0:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as wrong:
            rule = f"must be a folder that this user can write to: {wrong.strerror}"
            raise InvalidInput(f"{self._what}_dir", str(self._folder), rule) from wrong
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise Conflict(
                f"{self._what} folder",
                str(self._folder),
                f"is in use by process {owner}: another platform runs on it; stop that one or choose another folder",
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def owner_of(folder: Path) -> int | None:
    """Return the pid of the platform that holds ``folder``, or None; takes nothing."""
    try:
        with (folder / "lock").open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0)
    except FileNotFoundError:
        return None
    return None


def secret(path: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> str:
    """Return the secret kept in ``path``; the first call makes it (mode 0600, whole or not at all)."""
    if not path.exists():
        write_private(path, make())
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` at once by a file that only its owner may read."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(fd)
    fresh.replace(path)


def settle_ports(folder: Path, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return a port for each name: the wanted one (if not 0), else the remembered one if it is free, else a new one.

    The answer is remembered in ``folder/ports.json``. Raises Unavailable if a wanted port is taken.
    """
    remembered = remembered_ports(folder)
    ports: dict[str, int] = {}
    for name, asked in wanted.items():
        if asked and not is_free(asked):
            raise Unavailable(f"{name} port {asked}", "another program listens there")
        before = remembered.get(name, 0)
        ports[name] = asked or (before if before and is_free(before) else free_port(set(ports.values())))
    write_private(folder / "ports.json", json.dumps(ports))
    return ports


def remembered_ports(folder: Path) -> dict[str, int]:
    """Return the ports that ``settle_ports`` last chose; empty before the first start."""
    try:
        return {str(name): int(port) for name, port in json.loads((folder / "ports.json").read_text()).items()}
    except (OSError, ValueError):
        return {}


def is_free(port: int) -> bool:
    """Say whether we could listen on ``port`` of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # What a server does: connections that linger from an earlier one do not matter, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(taken: set[int]) -> int:
    """Return a loopback port that is free now and not in ``taken``."""
    for _ in range(_TRIES):
        port = secrets.choice(_PORTS)
        if port not in taken and is_free(port):
            return port
    raise Unavailable("a free port", f"none found between {_PORTS.start} and {_PORTS.stop} in {_TRIES} tries")
