"""``unisono up``: engines, schema, first key, roles; then watch over them until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import SecretStr

from unisono.base.errors import InvalidInput, Unavailable
from unisono.base.instants import format_rfc3339
from unisono.bus.connection import connect
from unisono.engines import child, folder as folders
from unisono.engines.nats import NatsEngine
from unisono.engines.postgres import PostgresEngine
from unisono.main import bootstrap, endpoints, journal, warm
from unisono.main.clock import SystemClock
from unisono.main.config import PREFIX, Settings
from unisono.main.doctor import look_at_folder
from unisono.main.door import Door
from unisono.main.endpoints import ChildFacts, Endpoints
from unisono.main.supervisor import RoleProcess, Startable, Supervisor
from unisono.store import layout
from unisono.store.database import open_database
from unisono.store.migrate import migrate

# In starting order: who decides is there before who lets the outside in. They are stopped the other way round.
ROLES: Final = ("historian", "realtime", "web", "front")
# Processes of a platform that was killed a moment ago hold their ports until they have ended.
PORT_WAIT_S: Final = 10.0
# A hundred thousand gateways would want a front on each of several machines.
OPEN_FILES: Final = 65_536

Say = Callable[[str], None]


class _Stop:
    """Whether a signal asked us to stop; no threading.Event, for a handler may not wait for its lock."""

    def __init__(self) -> None:
        self.is_asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.is_asked = True


def run(settings: Settings, roles: tuple[str, ...], config_path: Path | None, say: Say) -> None:
    """Run the platform until SIGTERM or SIGINT; raises Conflict when another one holds the data folder."""
    place = look_at_folder(settings.folder)
    if place.verdict == "problem":
        raise InvalidInput("data_dir", str(settings.folder), f"{place.seen}: {place.advice}")
    lock = folders.FolderLock(settings.folder, "data")
    lock.acquire()
    endpoints.remove(settings)
    journal.start("supervisor", settings.folder, settings.log_level)
    _raise_open_files()
    roles = endpoints.roles_of([role for role in ROLES if role in roles], settings.shards)
    stop, door = _Stop(), Door()
    engines = _engines(settings)
    supervisor = Supervisor(engines | _role_processes(settings, roles, config_path), SystemClock())
    try:
        supervisor.start(engines)
        facts = _facts(settings, engines, roles)
        if "nats" in engines:
            door.keep(facts)
        _prepare(settings, facts, say)
        supervisor.start(roles)
        supervisor.on_change = lambda: endpoints.write(_with_children(facts, supervisor))
        supervisor.on_change()
        _say_where(settings, facts, roles, say)
        supervisor.watch(lambda: stop.is_asked)
        say("stopping")
    finally:
        door.leave()
        supervisor.stop()
        endpoints.remove(settings)
        lock.release()
    say("stopped")


def _raise_open_files() -> None:
    """Let our children open as many files as the system grants: a gateway takes two sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _engines(settings: Settings) -> dict[str, Startable]:
    """Return our own engines; where the operator has his, there is none."""
    found: dict[str, Startable] = {}
    if settings.database_url is None:
        found["postgres"] = PostgresEngine(settings.folder / "postgres")
    if settings.nats_url is None:
        folder, bytes_max = settings.folder / "nats", settings.stream_bytes_max
        found["nats"] = NatsEngine(folder, mqtt_port=settings.mqtt_port, file_bytes_max=bytes_max)
    return found


def _role_processes(settings: Settings, roles: tuple[str, ...], config_path: Path | None) -> dict[str, Startable]:
    """Return the roles as commands; they read the same settings and run.json."""
    os.environ[PREFIX + "DATA_DIR"] = str(settings.folder)
    if config_path is not None:
        os.environ[PREFIX + "CONFIG"] = str(config_path.absolute())
    warm.choose_cache(settings.folder)
    output = settings.folder / "log"
    return {
        role: RoleProcess([sys.executable, "-m", "unisono.main.roles", role], settings.folder, output / f"{role}.out")
        for role in roles
    }


def _facts(settings: Settings, engines: Mapping[str, Startable], roles: tuple[str, ...]) -> Endpoints:
    """Return where everything is; free ports are chosen here, once, so that a restarted role keeps its own."""
    wanted = {"http": settings.http_port, "telemetry": settings.telemetry_port}
    ports = _settled_ports(settings.folder / "run", wanted | {f"metrics_{role}": 0 for role in roles})
    postgres, nats = engines.get("postgres"), engines.get("nats")
    return Endpoints(
        data_dir=str(settings.folder),
        pid=os.getpid(),
        started=format_rfc3339(SystemClock().wall_ns()),
        api_url=endpoints.http_url(settings.http_host, ports["http"]),
        telemetry_url=endpoints.http_url(settings.telemetry_host, ports["telemetry"]),
        database_url=postgres.url if isinstance(postgres, PostgresEngine) else _plain(settings.database_url),
        metrics_port_of_role={role: ports[f"metrics_{role}"] for role in roles},
        **(_own_nats(nats) if isinstance(nats, NatsEngine) else _given_nats(settings)),
    )


def _own_nats(nats: NatsEngine) -> dict[str, Any]:
    own = nats.endpoints
    places = {"nats_url": own.nats_url, "monitor_url": own.monitor_url, "mqtt_host": own.mqtt_host}
    users = {"core_user": own.core_user, "core_password": own.core_password, "sys_user": own.sys_user}
    secrets = {"sys_password": own.sys_password, "account_seed_path": str(own.account_seed_path)}
    more = {"mqtt_port": own.mqtt_port, "account": own.account, "nats_log_path": str(own.log_path)}
    return {**places, **users, **secrets, **more}


def _given_nats(settings: Settings) -> dict[str, Any]:
    places = {"nats_url": _plain(settings.nats_url), "monitor_url": "", "mqtt_host": settings.mqtt_host}
    users = {"core_user": settings.nats_user, "core_password": _plain(settings.nats_password)}
    system = {"sys_user": settings.nats_sys_user, "sys_password": _plain(settings.nats_sys_password)}
    seed = {"account": settings.nats_account, "account_seed_path": str(settings.nats_account_seed or "")}
    return {**places, **users, **system, **seed, "mqtt_port": settings.mqtt_port}


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()


def _settled_ports(folder: Path, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return our ports; one held by what is just ending is waited for, one held by a stranger raises Unavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [port for port in wanted.values() if port]
    child.wait_until(lambda: all(folders.is_free(port) for port in asked), PORT_WAIT_S)
    try:
        return folders.settle_ports(folder, wanted)
    except Unavailable as taken:
        rule = f"{taken.why}; choose another in unisono.toml or UNISONO_HTTP_PORT / UNISONO_TELEMETRY_PORT, 0: any"
        raise Unavailable(taken.what, rule) from taken


def _prepare(settings: Settings, facts: Endpoints, say: Say) -> None:
    """Bring the schema, the streams and the first key to where the roles need them."""
    migrate(facts.database_url)
    with contextlib.closing(open_database(facts.database_url, name="unisono-up")) as database, database.begin() as one:
        layout.settle(one, settings.shards)
    asyncio.run(_ensure_streams(facts))
    endpoints.write(facts)
    first_key = bootstrap.first_key(facts.database_url, settings.folder, SystemClock())
    if first_key:
        say(f"first start: the admin key, shown once and kept in {bootstrap.key_path(settings.folder)}")
        say(f"    {first_key}")


async def _ensure_streams(facts: Endpoints) -> None:
    bus = await connect(facts.nats_url, facts.core_user, facts.core_password, "supervisor")
    try:
        await bus.ensure_streams()
    finally:
        await bus.close()


def _with_children(facts: Endpoints, supervisor: Supervisor) -> Endpoints:
    restarts = supervisor.restarts()
    ports = facts.metrics_port_of_role
    return msgspec.structs.replace(
        facts,
        children={
            name: ChildFacts(pid, restarts[name], endpoints.http_url("", ports[name]) if name in ports else "")
            for name, pid in supervisor.pids().items()
        },
    )


def _say_where(settings: Settings, facts: Endpoints, roles: tuple[str, ...], say: Say) -> None:
    say(f"data folder  {settings.folder}")
    say(f"roles        {', '.join(roles)}")
    if "web" in roles:
        say(f"API          {facts.api_url}/")
    if "front" in roles:
        say(f"telemetry    {facts.telemetry_url}/v1/telemetry, mqtt://{facts.mqtt_host}:{facts.mqtt_port}")
    say("stop with    Ctrl-C")
