"""Acknowledged by the server means kept, whatever dies on our side."""

from __future__ import annotations

import asyncio

from tests.links.edge import MqttGateway, bus_of, running

from unisono.engines.nats import NatsEngine
from unisono.links.mqtt_broker.greeting import greet
from unisono.links.mqtt_broker.kept import PLACES, STREAM, SUBJECT, KeptReader
from unisono.wire.topics import UpName


def test_what_a_dead_reader_had_taken_and_not_kept_is_given_to_the_next(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        held: list[bytes] = []
        hangs = asyncio.Event()

        async def hang(arrived: list[tuple[UpName, bytes]]) -> None:
            hangs.set()
            await asyncio.Event().wait()

        async def keep(arrived: list[tuple[UpName, bytes]]) -> None:
            held.extend(payload for _, payload in arrived)
            if len(held) >= 30:
                done.set()

        done = asyncio.Event()
        async with bus_of(endpoints) as bus:
            await greet(endpoints.mqtt_host, endpoints.mqtt_port, "core", endpoints.core_password)
            first = KeptReader(bus, hang)
            await first.open()
            async with MqttGateway(endpoints.mqtt_port, "core", endpoints.core_password) as gateway:
                async with running(first.run()):
                    gateway.publish("u/g/d/t", b"0", qos=1)
                    await asyncio.wait_for(hangs.wait(), 10)
                    for n in range(1, 30):
                        gateway.publish("u/g/d/t", b"%d" % n, qos=1)
                    # One that is none of ours is acknowledged away with the others.
                    gateway.publish("u/g/what", b"x", qos=1)
                second = KeptReader(bus, keep)
                await second.open()
                async with running(second.run()):
                    await asyncio.wait_for(done.wait(), 15)
            places = [bus.durable(STREAM, SUBJECT, name, ack_through=True) for name in PLACES]
            floors = [await place.ack_floor() for place in places]
        assert sorted(map(int, held)) == list(range(30))
        assert sum(floor is not None for floor in floors) == 1

    asyncio.run(scenario())


def test_places_left_by_crashes_are_taken_over_from_the_lowest(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        held: asyncio.Queue[bytes] = asyncio.Queue()

        async def keep(arrived: list[tuple[UpName, bytes]]) -> None:
            for _, payload in arrived:
                held.put_nowait(payload)

        async with bus_of(endpoints) as bus:
            await greet(endpoints.mqtt_host, endpoints.mqtt_port, "core", endpoints.core_password)
            for name in PLACES:
                await bus.durable(STREAM, SUBJECT, name, ack_through=True).ensure()
            async with MqttGateway(endpoints.mqtt_port, "core", endpoints.core_password) as gateway:
                gateway.publish("u/g/b", b"kept", qos=1)
                reader = KeptReader(bus, keep)
                await reader.open()
                async with running(reader.run()):
                    assert await asyncio.wait_for(held.get(), 10) == b"kept"

    asyncio.run(scenario())
