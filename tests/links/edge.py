"""What tests of the edge share: an enrolled fleet of a few devices, a NATS to run against, a gateway on MQTT."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import gmqtt
from gmqtt.mqtt.constants import MQTTv311

from unisono.base.clock import MovableClock
from unisono.bus import subjects
from unisono.bus.connection import Bus, connect
from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.links.mqtt_broker.link import MqttBrokerSettings
from unisono.links.mqtt_broker.socket import NatsLogin
from unisono.links.tally import Tally
from unisono.model.batches import AckBatch, ReadingBatch, decode_incoming
from unisono.model.ratings import Ratings
from unisono.model.registry import DeviceRecord, GatewayRecord, RegistryBatch, encode_registry

NOW_MS = 1_763_679_841_123
NOW_NS = NOW_MS * 1_000_000
SECRET = "s3cret-of-{}"
# One of some 200 servers loses the question about the first who comes, milliseconds after its start. In operation the
# doorkeeper sends such a gateway away, and it comes again.
ATTEMPTS = 3
ANSWER_S = 5.0


def gateway_id(no: int) -> str:
    return f"gwy_{no:026d}"


def device_id(no: int) -> str:
    return f"dev_{no:026d}"


def secret(no: int) -> str:
    return SECRET.format(no)


def gateway_record(no: int, link: str = "mqtt", *, revision: int = 1, is_revoked: bool = False) -> GatewayRecord:
    return GatewayRecord(
        revision=revision,
        organisation_id="org_1",
        gateway_id=gateway_id(no),
        gateway_no=no,
        link=link,
        secret_sha256=hashlib.sha256(secret(no).encode()).hexdigest(),
        is_revoked=is_revoked,
    )


def device_record(no: int, gateway_no: int, *, revision: int = 1, lifecycle: int = 2) -> DeviceRecord:
    return DeviceRecord(
        revision=revision,
        organisation_id="org_1",
        device_id=device_id(no),
        device_no=no,
        site_id=f"sit_{no}",
        site_no=no,
        gateway_id=gateway_id(gateway_no),
        gateway_no=gateway_no,
        lifecycle=lifecycle,
        ratings=Ratings(power_max_w=5000.0, power_min_w=-5000.0),
    )


def fleet() -> RegistryBatch:
    """Gateways 1 and 2 on MQTT, 3 on HTTP; devices 11, 12 behind 1; 21 behind 2; 31, 32 behind 3."""
    gateways = (gateway_record(1), gateway_record(2), gateway_record(3, "http"))
    devices = [device_record(no, no // 10) for no in (11, 12, 21, 31, 32)]
    return RegistryBatch((*gateways, *devices))


@contextmanager
def nats_engine(folder: Path) -> Iterator[NatsEngine]:
    engine = NatsEngine(folder)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@asynccontextmanager
async def bus_of(endpoints: NatsEndpoints, *, system: bool = False) -> AsyncIterator[Bus]:
    user, password = endpoints.core_user, endpoints.core_password
    if system:
        user, password = endpoints.sys_user, endpoints.sys_password
    bus = await connect(endpoints.nats_url, user, password, "test")
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def enrolled(endpoints: NatsEndpoints) -> AsyncIterator[Bus]:
    """A bus with its streams and the fleet in the registry."""
    async with bus_of(endpoints) as bus:
        await bus.ensure_streams()
        await bus.publish_kept(subjects.registry(0), encode_registry(fleet()))
        yield bus


def broker_settings(endpoints: NatsEndpoints) -> MqttBrokerSettings:
    login = NatsLogin(endpoints.nats_url, endpoints.core_user, endpoints.core_password)
    return MqttBrokerSettings(login, endpoints.mqtt_host, endpoints.mqtt_port, server_log=endpoints.log_path)


def clock() -> MovableClock:
    return MovableClock(NOW_NS)


async def arrived(bus: Bus, n_rows: int, timeout_s: float = 15.0) -> list[ReadingBatch | AckBatch]:
    """Return the batches on ``readings.0`` from its beginning, once they hold ``n_rows`` rows."""
    reader = bus.reader("READINGS", "readings.0", 1)
    batches: list[ReadingBatch | AckBatch] = []
    try:
        async with asyncio.timeout(timeout_s):
            while sum(len(batch) for batch in batches) < n_rows:
                batches += [decode_incoming(message.payload) for message in await reader.take(100, 0.5)]
    finally:
        await reader.close()
    return batches


async def counted(bus: Bus, tally: Tally, gateway_no: int, cause: str, n: int) -> None:
    """Return once a gateway's counter stands at ``n`` or more."""
    async with asyncio.timeout(10):
        while tally.count(gateway_no, cause) < n:
            await bus.flush()


async def until(is_so: Callable[[], bool]) -> None:
    """Let the loops run until it is so; the scene's own timeout ends the wait."""
    pace = asyncio.Event()
    while not is_so():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pace.wait(), 0.02)


@asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    """Run coroutines beside the test; they are cancelled at its end, and their failure fails it."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome


@dataclass
class MqttGateway:
    """A gateway on a real MQTT client; ``inbox`` gets (topic, payload)."""

    port: int
    user: str
    password: str
    subscribe: str = ""
    client_id: str = ""
    reconnect_retries: int = 0
    inbox: asyncio.Queue[tuple[str, bytes]] = field(default_factory=asyncio.Queue)

    async def __aenter__(self) -> Self:
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._connect()
                return self
            except TimeoutError:
                continue
        raise TimeoutError(f"{self.user} was not let in, {ATTEMPTS} times")

    async def _connect(self) -> None:
        self._subscribed = asyncio.Event()
        self.client = gmqtt.Client(self.client_id or self.user, clean_session=True)
        self.client.set_auth_credentials(self.user, self.password)
        self.client.set_config({"reconnect_retries": 0})
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        await self.client.connect("127.0.0.1", self.port, version=MQTTv311, keepalive=30)
        if self.subscribe:
            self.client.subscribe(self.subscribe, qos=0)
            await self._subscribed.wait()

    async def __aexit__(self, *_: object) -> None:
        await self.client.disconnect()

    def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        self.client.publish(topic, payload, qos=qos)

    async def received(self, timeout_s: float = 10.0) -> tuple[str, bytes]:
        return await asyncio.wait_for(self.inbox.get(), timeout_s)

    def _on_message(self, client: Any, topic: str, payload: bytes, qos: int, properties: Any) -> int:
        self.inbox.put_nowait((topic, bytes(payload)))
        return 0


def mqtt_gateway(endpoints: NatsEndpoints, no: int, *, subscribe: bool = False) -> MqttGateway:
    topic = f"c/{gateway_id(no)}/#" if subscribe else ""
    return MqttGateway(endpoints.mqtt_port, gateway_id(no), secret(no), topic)
