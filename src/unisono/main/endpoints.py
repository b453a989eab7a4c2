"""Where the parts of a running platform are: made by the supervisor, kept in ``run.json``, read by roles and commands.

The file holds the passwords of our own engines, so only its owner may read it. It is there while the platform runs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from unisono.base.errors import InvalidInput, Unavailable
from unisono.engines.folder import write_private
from unisono.engines.postgres import PostgresEngine
from unisono.main.config import Settings

FILE_NAME: Final = "run.json"


class ChildFacts(msgspec.Struct, frozen=True):
    """One process under the supervisor; ``metrics_url`` is "" for an engine."""

    pid: int | None
    n_restarts: int
    metrics_url: str = ""


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a role or a client needs in order to reach the others."""

    data_dir: str
    pid: int
    started: str
    api_url: str
    telemetry_url: str
    mqtt_host: str
    mqtt_port: int
    nats_url: str
    monitor_url: str
    core_user: str
    core_password: str
    sys_user: str
    sys_password: str
    account: str
    account_seed_path: str
    # "" for a server of the operator's own.
    nats_log_path: str = ""
    database_url: str
    metrics_port_of_role: dict[str, int]
    children: dict[str, ChildFacts] = {}


def write(endpoints: Endpoints) -> None:
    """Replace the run file of the data folder."""
    text = msgspec.json.format(msgspec.json.encode(endpoints), indent=2).decode()
    write_private(Path(endpoints.data_dir) / FILE_NAME, text)


def read(settings: Settings) -> Endpoints:
    """Return the facts of the platform that runs on the data folder; raises Unavailable when none does."""
    path = settings.folder / FILE_NAME
    try:
        endpoints = msgspec.json.decode(path.read_bytes(), type=Endpoints)
    except FileNotFoundError:
        raise Unavailable("the platform", f"none runs on {settings.folder}; start it with: unisono up") from None
    except (msgspec.DecodeError, OSError) as wrong:
        raise Unavailable("the platform", f"{path} is not readable: {wrong}") from wrong
    if not is_running(endpoints.pid):
        why = f"process {endpoints.pid} of {path} is gone; start it again with: unisono up"
        raise Unavailable("the platform", why)
    return endpoints


@contextlib.contextmanager
def records_url(settings: Settings) -> Iterator[str]:
    """Yield the operator's database, that of the running platform, or our own engine's, started for the time being."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    running = ""
    with contextlib.suppress(Unavailable):
        running = read(settings).database_url
    if running:
        yield running
        return
    engine = PostgresEngine(settings.folder / "postgres")
    url = engine.start()
    try:
        yield url
    finally:
        engine.stop()


def remove(settings: Settings) -> None:
    """Take the run file away."""
    (settings.folder / FILE_NAME).unlink(missing_ok=True)


def of_settings(settings: Settings, metrics_port_of_role: dict[str, int]) -> Endpoints:
    """Return the facts for a role that runs as a unit of its own: all engines are the operator's."""
    if settings.nats_url is None or settings.database_url is None:
        field = "nats_url" if settings.nats_url is None else "database_url"
        raise InvalidInput(field, None, "must be set when no `unisono up` runs on the data folder")
    return Endpoints(
        data_dir=str(settings.folder),
        pid=os.getpid(),
        started="",
        api_url=http_url(settings.http_host, settings.http_port),
        telemetry_url=http_url(settings.telemetry_host, settings.telemetry_port),
        mqtt_host=settings.mqtt_host,
        mqtt_port=settings.mqtt_port,
        nats_url=settings.nats_url.get_secret_value(),
        monitor_url="",
        core_user=settings.nats_user,
        core_password=settings.nats_password.get_secret_value(),
        sys_user=settings.nats_sys_user,
        sys_password=settings.nats_sys_password.get_secret_value(),
        account=settings.nats_account,
        account_seed_path=str(settings.nats_account_seed or ""),
        database_url=settings.database_url.get_secret_value(),
        metrics_port_of_role=metrics_port_of_role,
    )


def http_url(host: str, port: int) -> str:
    """Return the URL under which this machine reaches a listener on ``host``."""
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::', '') else host}:{port}"  # noqa: S104  # compared, not bound


def port_of(url: str) -> int:
    """Return the port of an URL."""
    return urlsplit(url).port or 0


def is_running(pid: int) -> bool:
    """Say whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kind_of(role: str) -> str:
    """Return what a role does: ``realtime-2``, which owns shard 2, does what ``realtime`` does."""
    return "realtime" if role == f"realtime-{shard_of(role)}" else role


def shard_of(role: str) -> int:
    """Return the shard that a role's name ends in; 0 for one that names none."""
    number = role.removeprefix("realtime-")
    return int(number) if number != role and number.isdecimal() else 0


def roles_of(roles: Iterable[str], n_shards: int) -> tuple[str, ...]:
    """Return the processes that roles are run as: one realtime a shard, and with several the coordinator of them."""
    several = (*(f"realtime-{shard}" for shard in range(1, n_shards)), "coordinator")
    return tuple(one for role in roles for one in (role, *(several if role == "realtime" and n_shards > 1 else ())))
