"""Gateways that come before anybody can let them in."""

from __future__ import annotations

import asyncio

from tests.links.edge import (
    bus_of,
    clock,
    fleet,
    mqtt_gateway,
    running,
)

from unisono.engines.nats import NatsEngine
from unisono.links.identity import Identity
from unisono.services import doorkeeper, gatekeeper
from unisono.services.gatekeeper import GatekeeperSettings

LOOK_EVERY_S = 0.2


def test_a_gateway_that_comes_too_early_is_never_refused_and_gets_in_by_trying_again(engine: NatsEngine) -> None:
    """Its client library takes a refusal as final and a closed connection as a reason to try again."""

    async def scenario() -> None:
        endpoints = engine.endpoints
        identity, may_admit = Identity(), asyncio.Event()
        identity.fold(fleet())
        settings = GatekeeperSettings(endpoints.account_seed_path)
        async with bus_of(endpoints) as bus, bus_of(endpoints, system=True) as system:
            keeper = gatekeeper.run(bus, identity, clock(), settings, may_admit=may_admit)
            early = mqtt_gateway(endpoints, 1)
            early.reconnect_retries = -1
            async with running(keeper, doorkeeper.run(system, LOOK_EVERY_S)):
                entering = asyncio.ensure_future(early.__aenter__())
                was_sent_away = asyncio.Event()
                while not hasattr(early, "client"):
                    await bus.flush()
                early.client.on_disconnect = lambda *_: was_sent_away.set()
                await asyncio.wait_for(was_sent_away.wait(), 30)
                assert not entering.done()
                may_admit.set()
                await asyncio.wait_for(entering, 30)
                assert early.client.is_connected
                await early.__aexit__()

    asyncio.run(scenario())


def test_who_says_nothing_is_sent_away_and_who_was_let_in_stays(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        identity, may_admit, is_open = Identity(), asyncio.Event(), asyncio.Event()
        identity.fold(fleet())
        may_admit.set()
        settings = GatekeeperSettings(endpoints.account_seed_path)
        async with bus_of(endpoints) as bus, bus_of(endpoints, system=True) as system:
            keeper = gatekeeper.run(bus, identity, clock(), settings, may_admit=may_admit, is_open=is_open)
            async with running(keeper, doorkeeper.run(system, LOOK_EVERY_S)):
                await asyncio.wait_for(is_open.wait(), 10)
                async with mqtt_gateway(endpoints, 1) as gateway:
                    reader, writer = await asyncio.open_connection(endpoints.mqtt_host, endpoints.mqtt_port)
                    async with asyncio.timeout(10):
                        assert await reader.read() == b"", "closed without a word"
                    writer.close()
                    assert gateway.client.is_connected

    asyncio.run(scenario())
