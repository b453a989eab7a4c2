"""Who is let in, and who is put out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gmqtt
import pytest
from tests.links.edge import (
    MqttGateway,
    bus_of,
    clock,
    fleet,
    gateway_id,
    gateway_record,
    mqtt_gateway,
    running,
    secret,
)

from unisono.base.errors import Unavailable
from unisono.bus.connection import connect
from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.links.identity import Identity
from unisono.model.registry import RegistryBatch
from unisono.services import gatekeeper
from unisono.services.gatekeeper import GatekeeperSettings


def known() -> Identity:
    identity = Identity()
    identity.fold(fleet())
    return identity


@asynccontextmanager
async def watched(
    endpoints: NatsEndpoints, identity: Identity, out: asyncio.Queue[str] | None = None
) -> AsyncIterator[None]:
    """A gatekeeper that already answers."""
    may_admit, is_open = asyncio.Event(), asyncio.Event()
    may_admit.set()
    settings = GatekeeperSettings(endpoints.account_seed_path)
    async with bus_of(endpoints) as bus, bus_of(endpoints, system=True) as system:
        keeper = gatekeeper.run(
            bus,
            identity,
            clock(),
            settings,
            may_admit=may_admit,
            system=system,
            to_disconnect=out or asyncio.Queue(),
            is_open=is_open,
        )
        async with running(keeper):
            await asyncio.wait_for(is_open.wait(), 10)
            yield


async def is_admitted(gateway: MqttGateway) -> bool:
    try:
        async with gateway:
            return True
    except gmqtt.mqtt.handler.MQTTConnectError:
        return False


def test_nobody_comes_under_the_client_id_of_another(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with watched(endpoints, known()):
            port = endpoints.mqtt_port
            async with mqtt_gateway(endpoints, 2) as victim:
                assert not await is_admitted(MqttGateway(port, gateway_id(1), secret(1), client_id=gateway_id(2)))
                assert await is_admitted(MqttGateway(port, gateway_id(1), secret(1), client_id=f"{gateway_id(1)}-b"))
                assert victim.client.is_connected

    asyncio.run(scenario())


def test_only_enrolled_gateways_with_their_own_secret_are_let_in(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        identity = known()
        async with watched(endpoints, identity):
            port = endpoints.mqtt_port
            assert await is_admitted(mqtt_gateway(endpoints, 1))
            assert not await is_admitted(MqttGateway(port, gateway_id(1), "wrong"))
            assert not await is_admitted(MqttGateway(port, gateway_id(1), secret(2)))
            assert not await is_admitted(MqttGateway(port, gateway_id(77), secret(77)))
            identity.fold(RegistryBatch((gateway_record(1, revision=2, is_revoked=True),)))
            assert not await is_admitted(mqtt_gateway(endpoints, 1))
            assert await is_admitted(mqtt_gateway(endpoints, 2))
            # The same rights hold for a gateway that speaks NATS itself.
            gateway = await connect(endpoints.nats_url, gateway_id(2), secret(2))
            await gateway.close()
            with pytest.raises(Unavailable):
                await connect(endpoints.nats_url, gateway_id(2), secret(1), timeout_s=3.0)

    asyncio.run(scenario())


def test_a_revoked_gateway_is_cut_off_at_once(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        identity, out = known(), asyncio.Queue[str]()
        async with watched(endpoints, identity, out):
            gateway = mqtt_gateway(endpoints, 1)
            is_cut = asyncio.Event()
            async with gateway:
                gateway.client.on_disconnect = lambda *_: is_cut.set()
                for gateway_ref in identity.fold(RegistryBatch((gateway_record(1, revision=2, is_revoked=True),))):
                    out.put_nowait(gateway_ref)
                await asyncio.wait_for(is_cut.wait(), 10)

    asyncio.run(scenario())
