"""One role as a process: ``python -m unisono.main.roles ROLE``. Here settings and facts become running services."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

import unisono
from unisono.base.errors import Unavailable, UnisonoError
from unisono.bus.connection import Bus, connect
from unisono.engines.room import room_of
from unisono.links.contract import Link
from unisono.main import config, endpoints, health, journal, warm
from unisono.main.clock import SystemClock
from unisono.main.config import Settings
from unisono.main.endpoints import Endpoints
from unisono.store.database import Database, open_database

if TYPE_CHECKING:
    from unisono.links.mqtt_client.link import MqttClientSettings

log = logging.getLogger(__name__)

# An engine that restarts is back within 2 s; after this the supervisor's pauses take over.
CONNECT_TIMEOUT_S: Final = 20.0
# A thread that waits for a hanging PostgreSQL can't be ended; a role that has nothing more to do ends without it.
END_GRACE_S: Final = 4.0


@dataclass(slots=True)
class Wiring:
    """What every role is made from; services add their counters and checks."""

    role: str
    settings: Settings
    facts: Endpoints
    bus: Bus
    database: Database
    clock: SystemClock = field(default_factory=SystemClock)
    record_of_name: dict[str, Any] = field(default_factory=dict)
    checks: health.Checks = field(default_factory=dict)

    @property
    def shard(self) -> int:
        """The shard that the role's name ends in; 0 for one that is not of a shard."""
        return endpoints.shard_of(self.role)

    @property
    def instance(self) -> str:
        """A name for this process among all of its role."""
        return f"{self.role}-{os.uname().nodename}-{os.getpid()}"


async def _historian(wiring: Wiring, tasks: asyncio.TaskGroup) -> None:
    from unisono.services import historian, recorder
    from unisono.store.history.objects import open_store

    kept, recorded = historian.HistorianCounters(), recorder.RecorderCounters()
    wiring.record_of_name |= {"historian": kept, "recorder": recorded}
    store = open_store(wiring.settings.history_folder_url)
    settings = historian.HistorianSettings(
        retention_days=retention_days(wiring.settings), outcomes_days=wiring.settings.retention_outcomes_days
    )
    bus, database, clock = wiring.bus, wiring.database, wiring.clock
    tasks.create_task(historian.run(bus, database, store, clock, settings=settings, counters=kept))
    tasks.create_task(recorder.run(bus, database, clock, counters=recorded))


def retention_days(settings: Settings) -> dict[str, int]:
    """Return the days for which each kind of history is kept."""
    return {
        "readings": settings.retention_readings_days,
        "rollup_15min": settings.retention_rollups_days,
        "commands": settings.retention_commands_days,
        "acks": settings.retention_commands_days,
    }


async def _realtime(wiring: Wiring, tasks: asyncio.TaskGroup) -> None:
    from unisono.plant.state import PlantConfig
    from unisono.services import realtime

    settings = wiring.settings
    shard = realtime.RealtimeSettings(
        shard=wiring.shard,
        # The place, not the process: started again after a crash it need not wait for its own lease.
        owner=f"{os.uname().nodename}:{settings.folder}",
        checkpoint_path=settings.folder / "checkpoints" / f"shard-{wiring.shard}.bin",
        plant=PlantConfig(
            n_shards=settings.shards,
            cycle_s=settings.cycle_s,
            dispatchable_hold_s=settings.hold_s,
            season_month=settings.season_month,
        ),
        checkpoint_every_s=settings.checkpoint_s,
        lease_s=settings.lease_s,
    )
    tasks.create_task(realtime.run(shard, wiring.bus, wiring.database, wiring.clock))


async def _coordinator(wiring: Wiring, tasks: asyncio.TaskGroup) -> None:
    from unisono.services import coordinator

    counted = coordinator.CoordinatorCounters()
    wiring.record_of_name["coordinator"] = counted
    settings = wiring.settings
    tasks.create_task(coordinator.run(wiring.bus, wiring.clock, settings.shards, settings.cycle_s, counted))


async def _web(wiring: Wiring, tasks: asyncio.TaskGroup) -> None:
    from unisono.api import loops
    from unisono.api.app import create_app
    from unisono.api.context import ApiContext
    from unisono.services import outbox_relay, picture
    from unisono.services.history_tail import HistoryTail
    from unisono.store.history.objects import open_store
    from unisono.store.history.reader import HistoryReader

    tail = HistoryTail(wiring.bus, wiring.database)
    store = open_store(wiring.settings.history_folder_url)
    relay = outbox_relay.RelayState()
    wiring.record_of_name["outbox_relay"] = relay
    wiring.checks["outbox"] = lambda: relay.problem
    seen = picture.Picture(wiring.clock, wiring.settings.shards)
    wiring.checks["picture"] = seen.stale_reason
    context = ApiContext(
        database=wiring.database,
        bus=wiring.bus,
        picture=seen,
        clock=wiring.clock,
        version=unisono.__version__,
        history=HistoryReader(wiring.database, store, tail),
        instance=wiring.instance,
        room=partial(room_of, wiring.settings.folder) if wiring.facts.monitor_url else None,
    )
    tasks.create_task(tail.run())
    tasks.create_task(picture.run(wiring.bus, seen))
    tasks.create_task(loops.run(context))
    tasks.create_task(outbox_relay.run(wiring.database, wiring.bus, wiring.clock, relay))
    port = endpoints.port_of(wiring.facts.api_url)
    tasks.create_task(health.serve(create_app(context), wiring.settings.http_host, port))


async def _front(wiring: Wiring, tasks: asyncio.TaskGroup) -> None:
    from unisono.links.allowance import RateSettings
    from unisono.links.mqtt_broker.link import MqttBrokerSettings
    from unisono.links.mqtt_broker.socket import NatsLogin
    from unisono.services import delivery, front, gatekeeper

    facts, bus, clock = wiring.facts, wiring.bus, wiring.clock
    login = NatsLogin(facts.nats_url, facts.core_user, facts.core_password)
    server_log = Path(facts.nats_log_path) if facts.nats_log_path else None
    broker = MqttBrokerSettings(login, facts.mqtt_host, facts.mqtt_port, server_log=server_log)
    rates = RateSettings(wiring.settings.gateway_rate_factor, wiring.settings.gateway_rate_floor_per_s)
    full = partial(_full, wiring.settings.folder) if server_log is not None else str
    foreign, n_shards = _foreign_brokers(wiring.settings), wiring.settings.shards
    kept = front.FrontSettings(wiring.instance, broker, foreign, n_shards=n_shards, rates=rates, full=full)
    one = front.Front(bus, clock, kept)
    wiring.record_of_name |= {"front_intake": one.intake, "held_commands": one.held}
    wiring.record_of_name |= {f"link_{name}": link for name, link in one.links.items()}
    wiring.checks["registry"] = lambda: "" if one.knows_registry.is_set() else "the registry is being read"
    wiring.checks |= {name: _link_check(name, link) for name, link in one.links.items()}
    system = await connect(facts.nats_url, facts.sys_user, facts.sys_password, "front-system", CONNECT_TIMEOUT_S)
    signer = gatekeeper.GatekeeperSettings(Path(facts.account_seed_path), facts.account)
    tasks.create_task(one.run())
    tasks.create_task(
        gatekeeper.run(
            bus,
            one.identity,
            clock,
            signer,
            may_admit=one.may_admit,
            system=system,
            to_disconnect=one.to_disconnect,
        )
    )
    tasks.create_task(delivery.run(bus, clock, one.identity, one.links, one.held))
    port = endpoints.port_of(facts.telemetry_url)
    tasks.create_task(health.serve(one.telemetry_app, wiring.settings.telemetry_host, port, proxy_headers=False))


def _foreign_brokers(settings: Settings) -> tuple[tuple[str, MqttClientSettings], ...]:
    """Return the operator's own broker, if one is set, under the name that gateways' ``link`` has."""
    from unisono.links.mqtt_client.link import MqttClientSettings

    if settings.mqtt_client_host is None:
        return ()
    login = MqttClientSettings(
        host=settings.mqtt_client_host,
        port=settings.mqtt_client_port,
        client_id="unisono-front",
        user=settings.mqtt_client_user,
        password=settings.mqtt_client_password.get_secret_value(),
        version=settings.mqtt_client_version,
        is_tls=settings.mqtt_client_tls,
    )
    return (("mqtt_client", login),)


def _full(folder: Path) -> str:
    """Say that the disk of our own engines is full; "": it is not."""
    room = room_of(folder)
    return f"is full: {room.words()}; make room, nothing new is kept until then" if room.is_full else ""


def _link_check(name: str, link: Link) -> Callable[[], str]:
    return lambda: "" if link.is_up else f"the link {name} is down"


WAY_OF_ROLE: Final[dict[str, Callable[[Wiring, asyncio.TaskGroup], Awaitable[None]]]] = {
    "historian": _historian,
    "realtime": _realtime,
    "coordinator": _coordinator,
    "web": _web,
    "front": _front,
}


async def run(role: str, settings: Settings, facts: Endpoints) -> None:
    """Run a role until cancelled; a service that fails ends the role, and the supervisor starts it again."""
    async with _wired(role, settings, facts) as wiring, asyncio.TaskGroup() as tasks:
        await WAY_OF_ROLE[endpoints.kind_of(role)](wiring, tasks)
        # What is loaded now lives as long as we do: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        app = health.HealthApp(role, wiring.checks, wiring.record_of_name)
        tasks.create_task(health.serve(app, settings.metrics_host, facts.metrics_port_of_role[role]))
        log.info("role runs", extra={"instance": wiring.instance})


@contextlib.asynccontextmanager
async def _wired(role: str, settings: Settings, facts: Endpoints) -> AsyncIterator[Wiring]:
    bus = await connect(facts.nats_url, facts.core_user, facts.core_password, role, CONNECT_TIMEOUT_S)
    database = open_database(facts.database_url, name=f"unisono-{role}")
    wiring = Wiring(role, settings, facts, bus, database)
    wiring.checks["nats"] = lambda: "" if bus.is_connected else "NATS is away"
    try:
        yield wiring
    finally:
        database.close()
        with contextlib.suppress(Unavailable):  # it is away already
            await bus.close()


async def _until_told(role: str, settings: Settings, facts: Endpoints) -> int:
    """Run the role and return its exit code; SIGTERM and SIGINT cancel it."""
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(run(role, settings, facts))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    code = 0
    try:
        with contextlib.suppress(asyncio.CancelledError):  # told to stop: that is how a role ends
            await work
    except* UnisonoError as failed:
        code = 3
        for error in _each(failed):
            log.exception("role fails", extra={"why": str(error)})
            print(error, file=sys.stderr, flush=True)
    _end_soon(code)
    return code


def _end_soon(code: int) -> None:
    """End the process after the grace, should one of its threads hang."""
    ending = threading.Timer(END_GRACE_S, os._exit, (code,))
    ending.daemon = True
    ending.start()


def _facts(settings: Settings, role: str) -> Endpoints:
    """Return the supervisor's facts, or, for a role that is a unit of its own, those of the settings."""
    if settings.nats_url is not None and not (settings.folder / endpoints.FILE_NAME).exists():
        return endpoints.of_settings(settings, {role: settings.metrics_port})
    return endpoints.read(settings)


def main(arguments: list[str]) -> int:
    """Run the role that ``arguments`` name."""
    if len(arguments) != 1 or endpoints.kind_of(arguments[0]) not in WAY_OF_ROLE:
        print(f"usage: python -m unisono.main.roles {{{','.join(WAY_OF_ROLE)}}}", file=sys.stderr)
        return 2
    role = arguments[0]
    settings = config.load()
    warm.choose_cache(Path(settings.folder))
    journal.start(role, settings.folder, settings.log_level)
    try:
        facts = _facts(settings, role)
    except UnisonoError as missing:
        log.exception("role fails", extra={"why": str(missing)})
        print(missing, file=sys.stderr)
        return 3
    code = uvloop.run(_until_told(role, settings, facts))
    log.info("role ends", extra={"code": code})
    return code


def _each(group: BaseExceptionGroup[UnisonoError]) -> Iterator[UnisonoError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
