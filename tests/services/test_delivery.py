"""Frames on ``commands.<shard>.<epoch>`` reach each gateway by its own link."""

from __future__ import annotations

import asyncio

from tests.links.edge import (
    NOW_NS,
    MqttGateway,
    broker_settings,
    clock,
    enrolled,
    gateway_id,
    running,
)

from unisono.base.clock import MovableClock
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.model.batches import CommandFrames
from unisono.services.delivery import Delivery
from unisono.services.front import Front, FrontSettings
from unisono.wire.frames import Frame, decode_fetched, decode_frame, decode_renewal

S_NS = 10**9


def frames(epoch: int, seq: int, expires_s: float = 30.0) -> CommandFrames:
    """One setpoint for devices 11 (MQTT) and 31 (HTTP), and a renewal for both gateways."""
    return CommandFrames.of_columns(
        {"shard": 0, "epoch": epoch, "cycle": seq, "issued_ns": NOW_NS},
        {
            "device_no": [11, 31, -1, -1],
            "gateway_no": [1, 3, 1, 3],
            "seq": [seq] * 4,
            "kind": [0] * 4,
            "fallback": [0] * 4,
            "value": [-1000.0, 500.0, 0.0, 0.0],
            "start_ns": [NOW_NS] * 4,
            "expires_ns": [NOW_NS + int(expires_s * S_NS)] * 4,
            "ttl_s": [60.0] * 4,
        },
    )


async def send(bus: Bus, sent: CommandFrames) -> int:
    return await bus.publish_kept(subjects.commands(0, sent.epoch), sent.encode())


def ear(endpoints: NatsEndpoints) -> MqttGateway:
    """Listens on gateway 1's topics with the core's own login, so that no gatekeeper is needed here."""
    return MqttGateway(endpoints.mqtt_port, "core", endpoints.core_password, f"c/{gateway_id(1)}/#")


def deliverer(bus: Bus, endpoints: NatsEndpoints, now: MovableClock) -> tuple[Front, Delivery]:
    front = Front(bus, now, FrontSettings("1", broker_settings(endpoints)))
    return front, Delivery(bus, now, front.identity, front.links, front.held)


def test_a_setpoint_and_a_renewal_reach_both_kinds_of_gateway(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with enrolled(endpoints) as bus, ear(endpoints) as gateway:
            front, delivery = deliverer(bus, endpoints, clock())
            async with running(front.run()):
                await front.may_admit.wait()
                async with running(delivery.run()):
                    last_seq = await send(bus, frames(2, 5))
                    got = dict([await gateway.received(), await gateway.received()])
                    await until_fetched(bus, front, last_seq)
                    fetched = decode_fetched(front.held.fetch(3, 0, NOW_NS))
        frame = decode_frame(got[f"c/{gateway_id(1)}/f"])
        assert [(command.no, command.seq, command.value) for command in frame.commands] == [(11, 5, -1000)]
        assert decode_renewal(got[f"c/{gateway_id(1)}/r"]).through_seq == 5
        first, second = fetched.frames
        assert isinstance(first, Frame)
        assert first.commands[0].no == 31
        assert (second.through_seq, fetched.next) == (5, last_seq)  # type: ignore[union-attr]

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_frames_of_a_lower_epoch_and_expired_ones_are_dropped(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with enrolled(endpoints) as bus, ear(endpoints) as gateway:
            front, delivery = deliverer(bus, endpoints, clock())
            async with running(front.run()):
                await front.may_admit.wait()
                await send(bus, frames(3, 1, expires_s=-1.0))
                await send(bus, frames(2, 9))
                last_seq = await send(bus, frames(3, 2))
                async with running(delivery.run()):
                    got = [await gateway.received(), await gateway.received()]
                    await until_fetched(bus, front, last_seq)
        assert {decode_frame(payload).epoch for topic, payload in got if topic.endswith("f")} == {3}
        assert gateway.inbox.empty()
        # Once on the pushing way, once on the fetching one.
        assert delivery.outcomes["old_epoch"] == 2
        assert len(decode_fetched(front.held.fetch(3, 0, NOW_NS)).frames) == 2

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_restarted_front_still_holds_what_was_not_fetched(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with enrolled(endpoints) as bus:
            # The replay goes by the server's own clock: a look back over 15 minutes from now must find it.
            for _ in range(2):
                front, delivery = deliverer(bus, endpoints, clock())
                async with running(front.run()):
                    await front.may_admit.wait()
                    last_seq = await bus.last_seq("COMMANDS") or await send(bus, frames(2, 5))
                    async with running(delivery.run()):
                        await until_fetched(bus, front, last_seq)
                        assert len(decode_fetched(front.held.fetch(3, 0, NOW_NS)).frames) == 2
                        assert decode_fetched(front.held.fetch(3, last_seq, NOW_NS)).frames == ()
                        assert decode_fetched(front.held.fetch(3, 0, NOW_NS + 31 * S_NS)).frames == ()

    asyncio.run(asyncio.wait_for(scenario(), 60))


async def until_fetched(bus: Bus, front: Front, cursor: int) -> None:
    async with asyncio.timeout(10):
        while decode_fetched(front.held.fetch(3, 0, NOW_NS)).next < cursor:
            await bus.flush()
