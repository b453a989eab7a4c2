"""All links under the one contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.links import contract
from tests.links.contract import MemoryIntake, Rig
from tests.links.edge import (
    NOW_MS,
    MqttGateway,
    broker_settings,
    bus_of,
    clock,
    counted,
    fleet,
    gateway_id,
    nats_engine,
    running,
    secret,
)

from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.links.http_push import HeldCommands, HttpPushLink, TelemetryApp
from unisono.links.http_push.app import MANIFEST as HTTP
from unisono.links.identity import GatewayEntry, Identity
from unisono.links.mqtt_broker.link import MANIFEST as BROKER, MqttBrokerLink
from unisono.links.mqtt_client.link import MANIFEST as CLIENT, MqttClientLink, MqttClientSettings
from unisono.links.reception import Reception
from unisono.links.tally import Tally
from unisono.wire.frames import Frame, Renewal, decode_fetched, decode_frame, decode_renewal
from unisono.wire.receipts import decode_receipt
from unisono.wire.telemetry import Reading, encode_batch


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[NatsEngine]:
    with nats_engine(tmp_path / "nats") as started:
        yield started


def reception() -> Reception:
    identity = Identity()
    identity.fold(fleet())
    identity.is_complete.set()
    return Reception(identity, Tally())


def entry(edge: Reception, no: int) -> GatewayEntry:
    found = edge.identity.gateway(gateway_id(no))
    assert found is not None
    return found


class MqttSide:
    """A gateway on MQTT, with the core's login so that no gatekeeper is needed."""

    def __init__(self, endpoints: NatsEndpoints) -> None:
        name = gateway_id(1)
        self.gateway = MqttGateway(endpoints.mqtt_port, "core", endpoints.core_password, f"c/{name}/#")
        self.up = f"u/{name}/b"
        self.receipts: asyncio.Queue[bytes] = asyncio.Queue()
        self.commands: asyncio.Queue[Frame | Renewal] = asyncio.Queue()

    async def sort(self) -> None:
        while True:
            topic, payload = await self.gateway.inbox.get()
            if topic.endswith("/s"):
                self.receipts.put_nowait(payload)
            else:
                decode = decode_frame if topic.endswith("/f") else decode_renewal
                self.commands.put_nowait(decode(payload))

    async def send(self, payload: bytes) -> bool:
        self.gateway.publish(self.up, payload, qos=1)
        await self.receipts.get()
        return True


@asynccontextmanager
async def broker_rig(engine: NatsEngine) -> AsyncIterator[Rig]:
    endpoints = engine.endpoints
    edge, intake, side = reception(), MemoryIntake(), MqttSide(endpoints)
    async with bus_of(endpoints) as bus:
        link = MqttBrokerLink(
            broker_settings(endpoints), edge, intake, streams=bus, send=bus.publish_all, clock=clock()
        )
        async with running(link.run()):
            await link.may_admit.wait()
            async with side.gateway, running(side.sort()):
                yield Rig(link, entry(edge, 1), 11, intake, edge, side.send, side.commands.get, bus.close)


@asynccontextmanager
async def client_rig(engine: NatsEngine) -> AsyncIterator[Rig]:
    endpoints = engine.endpoints
    edge, intake, side = reception(), MemoryIntake(), MqttSide(endpoints)
    settings = MqttClientSettings(
        endpoints.mqtt_host, endpoints.mqtt_port, "unisono-front", "core", endpoints.core_password, version=4
    )
    link = MqttClientLink(settings, edge, intake, clock=clock())

    async def break_off() -> None:
        await link._client.disconnect()

    async with running(link.run()):
        await asyncio.wait_for(link.has_subscribed.wait(), 10)
        async with side.gateway, running(side.sort()):
            yield Rig(link, entry(edge, 1), 11, intake, edge, side.send, side.commands.get, break_off)


@asynccontextmanager
async def http_rig(engine: NatsEngine) -> AsyncIterator[Rig]:
    edge, intake, held = reception(), MemoryIntake(), HeldCommands()
    app = TelemetryApp(edge, intake, held, clock())
    link = HttpPushLink(held)
    headers = {"Authorization": f"Bearer {gateway_id(3)}.{secret(3)}", "Content-Type": "application/json"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge", headers=headers) as client:
        fetched: list[Frame | Renewal] = []

        async def send(payload: bytes) -> bool:
            return (await client.post("/v1/telemetry", content=payload)).status_code == 202

        async def next_command() -> Frame | Renewal:
            answer = decode_fetched((await client.get("/v1/commands?after=0")).content)
            new = [message for message in answer.frames if message not in fetched]
            fetched.extend(new)
            (message,) = new
            return message

        async with running(link.run()):
            yield Rig(link, entry(edge, 3), 31, intake, edge, send, next_command, client.aclose)


RIGS: dict[str, Callable[[NatsEngine], AbstractAsyncContextManager[Rig]]] = {
    "mqtt": broker_rig,
    "mqtt_client": client_rig,
    "http": http_rig,
}


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", RIGS)
def test_contract(engine: NatsEngine, name: str, check: Callable[[Rig], Awaitable[None]]) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(40), RIGS[name](engine) as rig:
            assert rig.link.manifest.name == name
            contract.the_manifest_is_complete(rig.link)
            await check(rig)

    asyncio.run(scenario())


def test_what_overflows_behind_a_foreign_broker_is_counted(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        edge, intake, side = reception(), MemoryIntake(is_shut=True), MqttSide(endpoints)
        settings = MqttClientSettings(
            endpoints.mqtt_host, endpoints.mqtt_port, "unisono-front", "core", endpoints.core_password, version=4
        )
        link = MqttClientLink(settings, edge, intake, clock=clock(), waiting_max=5)
        async with running(link.run()):
            await asyncio.wait_for(link.has_subscribed.wait(), 10)
            async with side.gateway, bus_of(endpoints) as bus, running(side.sort()):
                batches = [encode_batch(n, [Reading(no=11, ts=NOW_MS + n, p=float(n))]) for n in range(9)]
                side.gateway.publish(side.up, batches[0], qos=1)
                # The first is being kept, in vain; of the eight behind it five may wait.
                await asyncio.wait_for(intake.refused.wait(), 10)
                for batch in batches[1:]:
                    side.gateway.publish(side.up, batch, qos=1)
                await counted(bus, edge.tally, 1, "overflowed", 3)
                intake.is_shut = False
                assert [power_w for _, power_w in await intake.rows(6)] == [0, 4, 5, 6, 7, 8]
                # Each receipt speaks of one batch: nobody is told that those which went are kept.
                receipts = [await asyncio.wait_for(side.receipts.get(), 10) for _ in range(6)]
                assert {decode_receipt(receipt).through_seq for receipt in receipts} == {0, 4, 5, 6, 7, 8}
        assert [edge.tally.count(1, cause) for cause in ("accepted", "overflowed")] == [9, 3]

    asyncio.run(scenario())


def test_each_manifest_has_a_name_of_its_own() -> None:
    assert len({manifest.name for manifest in (HTTP, BROKER, CLIENT)}) == 3
