"""``unisono doctor``: what is found on this machine, what is wrong, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from unisono.base.errors import Unavailable
from unisono.engines import folder as folders, nats, postgres
from unisono.engines.inspect import EngineStatus
from unisono.main import endpoints
from unisono.main.config import Settings

Verdict = Literal["ok", "warning", "problem"]

# Ten thousand devices take some 1 GB a day of history and streams; below this the first day does not fit.
DISK_GIB_WANTED: Final = 5.0
DISK_GIB_NEEDED: Final = 1.0
# A front holds one socket a gateway, NATS another.
OPEN_FILES_WANTED: Final = 4_096
# nats-server 2.10 is the first with auth callout for MQTT clients; PostgreSQL 17 the first with the built-in locale.
NATS_VERSION_MIN: Final = (2, 11)
POSTGRES_VERSION_MIN: Final = (17,)
_YEAR_MIN: Final = 2026


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; ``advice`` says what to do and is empty when nothing is wrong."""

    what: str
    verdict: Verdict
    seen: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Return what was found, in the order in which a start needs it."""
    place = look_at_folder(settings.folder)
    if place.verdict == "problem":
        rest = Finding("all else", "warning", "not looked at", "mend the data folder first, then ask again")
        return [*_python(), place, _open_files(), _clock(), rest]
    return [
        *_python(),
        place,
        _disk(settings.folder),
        _open_files(),
        _clock(),
        _engine("nats-server", settings, nats.inspect(settings.folder / "nats"), NATS_VERSION_MIN),
        _engine("postgres", settings, postgres.inspect(settings.folder / "postgres"), POSTGRES_VERSION_MIN),
        *_ports(settings),
        _platform(settings),
    ]


def _python() -> Iterator[Finding]:
    seen = f"{platform.python_version()} at {sys.executable}"
    is_new = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if is_new else "problem", seen, "" if is_new else "install Python 3.11 or newer")
    if importlib.util.find_spec("pvlib") is None:
        advice = "only `unisono demo` needs it, for its weather file: pip install --no-deps pvlib"
        yield Finding("weather", "warning", "the package pvlib is not installed", advice)


def look_at_folder(folder: Path) -> Finding:
    """Return whether the data folder can be used by us."""
    nearest = _nearest_existing(folder)
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Finding("data folder", "ok", f"{folder} ({'there' if nearest == folder else 'will be made'})")
    what = "can't be written to by this user" if nearest.is_dir() else "is no folder"
    return Finding("data folder", "problem", f"{nearest} {what}", "set data_dir (UNISONO_DATA_DIR) to one that can")


def _nearest_existing(folder: Path) -> Path:
    """Return the folder or the nearest above it that is there; one that may not be looked into is."""
    return next(place for place in (folder, *folder.parents) if _is_there(place))


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except PermissionError:
        return False


def _disk(folder: Path) -> Finding:
    free_gib = shutil.disk_usage(_nearest_existing(folder)).free / 2**30
    seen = f"{free_gib:.1f} GiB free"
    if free_gib >= DISK_GIB_WANTED:
        return Finding("disk", "ok", seen)
    advice = f"free some space, or set data_dir to a larger disk (10,000 devices take {DISK_GIB_NEEDED:g} GiB a day)"
    return Finding("disk", "warning" if free_gib >= DISK_GIB_NEEDED else "problem", seen, advice)


def _open_files() -> Finding:
    try:
        import resource
    except ImportError:
        return Finding("open files", "ok", "no limit known on this system")
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = f"{limit:,} at once (may be raised to {most:,})"
    if limit >= OPEN_FILES_WANTED or most >= OPEN_FILES_WANTED or most == resource.RLIM_INFINITY:
        # `unisono up` raises its own as far as it may.
        return Finding("open files", "ok", seen)
    advice = f"ulimit -n {OPEN_FILES_WANTED} before `unisono up`, or LimitNOFILE in its unit; one gateway takes two"
    return Finding("open files", "warning", seen, advice)


def _clock() -> Finding:
    now = datetime.fromtimestamp(time.time(), UTC)
    if now.year >= _YEAR_MIN:
        return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")
    return Finding("clock", "problem", f"{now:%Y-%m-%d}", "set the clock (NTP): readings would count as future-dated")


def _engine(name: str, settings: Settings, status: EngineStatus, version_min: tuple[int, ...]) -> Finding:
    given = settings.nats_url if name == "nats-server" else settings.database_url
    if given is not None:
        field = "nats_url" if name == "nats-server" else "database_url"
        return Finding(name, "ok", f"not started here: {field} is set")
    binary = status.binary
    if binary.path is None or binary.problem:
        return Finding(name, "problem", f"{binary.path or 'absent'}", binary.problem)
    running = f", runs as {', '.join(map(str, status.pids))} on {status.ports}" if status.pids else ""
    seen = f"{binary.version} at {binary.path}{running}"
    if status.pids and status.owner_pid is None:
        return Finding(name, "warning", seen, "left over from a platform that was killed; `unisono up` ends it")
    if _version(binary.version) < version_min:
        wanted = ".".join(map(str, version_min))
        return Finding(name, "problem", seen, f"{wanted} or newer is needed: pip install --upgrade unisono")
    return Finding(name, "ok", seen)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _ports(settings: Settings) -> Iterator[Finding]:
    if folders.owner_of(settings.folder) is not None:
        return
    ports = {"http": settings.http_port, "telemetry": settings.telemetry_port, "mqtt": settings.mqtt_port}
    for name, port in ports.items():
        if name == "mqtt" and settings.nats_url is not None:
            # It is that NATS's port, and on this machine that NATS may well listen on it.
            yield Finding("mqtt port", "ok", f"{port} is not opened here: nats_url is set")
        elif port == 0:
            yield Finding(f"{name} port", "ok", "0: a free one is taken")
        elif _is_free(port):
            yield Finding(f"{name} port", "ok", f"{port} is free")
        else:
            advice = f"another program listens on {port}: stop it, or set {name}_port (0 takes a free one)"
            yield Finding(f"{name} port", "problem", f"{port} is taken", advice)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _platform(settings: Settings) -> Finding:
    owner = folders.owner_of(settings.folder)
    if owner is None:
        return Finding("platform", "ok", "none runs on this data folder")
    try:
        facts = endpoints.read(settings)
    except Unavailable as absent:
        return Finding("platform", "warning", f"process {owner} holds the data folder", f"it is starting? {absent.why}")
    return Finding("platform", "ok", f"process {facts.pid} runs since {facts.started}; API {facts.api_url}")
