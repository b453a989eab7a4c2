r"""The front: links in, ``readings.<shard>`` out, with text ids made integers; publishes its counters.

    registry.* ----> Identity ----\
    links ----bytes----> Reception ----> StreamIntake ----> readings.<shard>
                             \----> Tally ----> counters.front.<instance>, every 2 s
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from unisono.base.clock import Clock
from unisono.base.errors import Unavailable
from unisono.base.instants import NS_PER_S
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.bus.consumers import KeptMessage
from unisono.links.allowance import Allowances, RateSettings
from unisono.links.contract import Link
from unisono.links.http_push import HeldCommands, HttpPushLink, TelemetryApp
from unisono.links.identity import Identity
from unisono.links.mqtt_broker.link import MqttBrokerLink, MqttBrokerSettings
from unisono.links.mqtt_client.link import MqttClientLink, MqttClientSettings
from unisono.links.reception import Reception
from unisono.links.tally import Tally
from unisono.model.registry import decode_registry
from unisono.services.front_intake import Shards, StreamIntake

log = logging.getLogger(__name__)

ROLE: Final = "front"
COUNTERS_S: Final = 2.0
# What the broker still has of a closed connection comes after it.
CUT_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """One front process. ``mqtt_broker`` None: no embedded broker; ``mqtt_clients``: foreign brokers by link name."""

    instance: str
    mqtt_broker: MqttBrokerSettings | None = None
    mqtt_clients: tuple[tuple[str, MqttClientSettings], ...] = ()
    n_shards: int = 1
    rates: RateSettings = field(default_factory=RateSettings)
    # Says why nothing more can be kept; "": it can.
    full: Callable[[], str] = str


class Front:
    """All parts of one front, wired. ``telemetry_app`` is for a web server; ``links`` by name are for delivery."""

    def __init__(self, bus: Bus, clock: Clock, settings: FrontSettings) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self.identity = Identity()
        self.tally = Tally()
        self._began_ns = clock.wall_ns()
        self.held = HeldCommands()
        # Set when the registry as it stood at the start is folded; then when gateways may be let in.
        self.knows_registry = self.identity.is_complete
        self.may_admit = asyncio.Event()
        # Gateways that were revoked or given another secret since; the gatekeeper closes their connections.
        self.to_disconnect: asyncio.Queue[str] = asyncio.Queue()
        reception = Reception(self.identity, self.tally, Allowances(self.identity, clock.monotonic_ns, settings.rates))
        reception.on_flood = self._cut
        self._cut_ns_of_gateway: dict[int, int] = {}
        self.intake = StreamIntake(bus, reception.overflow, self._shards_of(), full=settings.full)
        self.telemetry_app = TelemetryApp(reception, self.intake, self.held, clock)
        self.links: dict[str, Link] = {"http": HttpPushLink(self.held)}
        self._broker: MqttBrokerLink | None = None
        if settings.mqtt_broker is not None:
            self._broker = MqttBrokerLink(
                settings.mqtt_broker, reception, self.intake, streams=bus, send=bus.publish_all, clock=clock
            )
            self.links["mqtt"] = self._broker
        for name, client in settings.mqtt_clients:
            self.links[name] = MqttClientLink(client, reception, self.intake, clock=clock, name=name)

    async def run(self) -> None:
        """Work until cancelled; raises Unavailable only when the login at NATS was withdrawn."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_registry(), name="registry")
            await self.knows_registry.wait()
            tasks.create_task(self.intake.run(), name="intake")
            tasks.create_task(self._publish_counters(), name="counters")
            for name, link in self.links.items():
                tasks.create_task(link.run(), name=f"link {name}")
            if self._broker is not None:
                await self._broker.may_admit.wait()
            self.may_admit.set()

    def _shards_of(self) -> Shards | None:
        """Return how a batch is split over the shards; None: there is one."""
        return Shards(self._settings.n_shards, self.identity.shards_of) if self._settings.n_shards > 1 else None

    def _cut(self, gateway_no: int) -> None:
        """Have a gateway's connection closed that floods us with what the broker acknowledges before we see it."""
        entry, now_ns = self.identity.gateway_of_no(gateway_no), self._clock.monotonic_ns()
        cut_ns = self._cut_ns_of_gateway.get(gateway_no)
        if entry is None or entry.link != "mqtt" or (cut_ns is not None and now_ns - cut_ns < CUT_EVERY_S * NS_PER_S):
            return
        self._cut_ns_of_gateway[gateway_no] = now_ns
        self.tally.add_message(gateway_no, "rate_limited")
        log.warning("gateway %s sends more than it may at QoS 1: its connection is closed", entry.gateway_id)
        self.to_disconnect.put_nowait(entry.gateway_id)

    async def _follow_registry(self) -> None:
        last_seq = await self._last_registry_seq()
        reader = self._bus.reader("REGISTRY", "registry.*", 1)
        if last_seq == 0:
            self.knows_registry.set()
        while True:
            messages = await reader.take(500, 1.0)
            for message in messages:
                self._fold(message)
            if messages and messages[-1].seq >= last_seq:
                self.knows_registry.set()

    async def _last_registry_seq(self) -> int:
        while True:
            try:
                return await self._bus.last_seq("REGISTRY")
            except Unavailable:
                if self._bus.is_closed:
                    raise
                await asyncio.sleep(0.5)

    def _fold(self, message: KeptMessage) -> None:
        try:
            batch = decode_registry(message.payload)
        except msgspec.DecodeError as wrong:
            log.warning("registry message %d can't be read: %s", message.seq, wrong)
            return
        for gateway_id in self.identity.fold(batch, subjects.shard_of(message.subject)):
            self.to_disconnect.put_nowait(gateway_id)

    async def _publish_counters(self) -> None:
        subject = subjects.counters(ROLE, self._settings.instance)
        while True:
            await asyncio.sleep(COUNTERS_S)
            counters = self.tally.due(ROLE, self._settings.instance, self._began_ns, self._clock.wall_ns())
            try:
                await self._bus.publish(subject, msgspec.msgpack.encode(counters))
            except Unavailable:
                # Its loss was logged by the bus; counters are sums since the start, and each is told again in its turn.
                continue


def names_of_links(front: Front) -> Sequence[str]:
    """Return the names that a GatewayRecord's ``link`` may have at this front."""
    return tuple(front.links)


async def run(bus: Bus, clock: Clock, settings: FrontSettings) -> None:
    """Run a front alone, without a web server, gatekeeper or delivery (those are given the parts of a ``Front``)."""
    await Front(bus, clock, settings).run()
