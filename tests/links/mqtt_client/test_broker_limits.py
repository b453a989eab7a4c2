"""A foreign broker that is away, refuses, takes few messages at a time or none: an outcome, and never the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.links.contract import MemoryIntake
from tests.links.edge import NOW_MS, clock, fleet, gateway_id, running

from unisono.links.contract import Handed
from unisono.links.identity import Identity
from unisono.links.mqtt_client.link import SESSION_S, MqttClientLink, MqttClientSettings
from unisono.links.reception import Reception
from unisono.links.tally import Tally
from unisono.sim.live.packets import PUBLISH, PacketReader, puback
from unisono.wire.frames import Renewal, outgoing

CONNECT, SUBSCRIBE = 1, 8
NOT_AUTHORISED = 0x87


@dataclass
class FewAtATime:
    """The least of an MQTT 5 broker: it allows ``receive_max`` unacknowledged messages and keeps what it is sent."""

    receive_max: int = 20
    n_refusals: int = 0
    acknowledges: bool = True
    topics: list[str] = field(default_factory=list)
    connects: list[bytes] = field(default_factory=list)
    has_subscriber: asyncio.Event = field(default_factory=asyncio.Event)
    # Closes the newest connection.
    hang_up: Callable[[], None] = lambda: None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packets = PacketReader()
        while received := await reader.read(65_536):
            for packet in packets.feed(received):
                if packet.kind == CONNECT and self.n_refusals:
                    self.n_refusals -= 1
                    writer.write(bytes([0x20, 3, 0, NOT_AUTHORISED, 0]))
                    writer.close()
                elif packet.kind == CONNECT:
                    self.connects.append(packet.body)
                    self.hang_up = writer.close
                    writer.write(bytes([0x20, 6, 0, 0, 3, 0x21]) + self.receive_max.to_bytes(2, "big"))
                elif packet.kind == SUBSCRIBE:
                    writer.write(bytes([0x90, 7, *packet.body[:2], 0, 1, 1, 1, 1]))
                    self.has_subscriber.set()
                elif packet.kind == PUBLISH:
                    topic, _, packet_id = packet.message()
                    self.topics.append(topic)
                    if self.acknowledges:
                        writer.write(puback(packet_id))
        writer.close()


def link_to(port: int) -> MqttClientLink:
    identity = Identity()
    identity.fold(fleet())
    settings = MqttClientSettings("127.0.0.1", port, "unisono-front")
    return MqttClientLink(settings, Reception(identity, Tally()), MemoryIntake(), clock=clock(), publish_wait_s=0.2)


async def delivered(link: MqttClientLink, n: int) -> list[Handed]:
    gateway = link._reception.identity.gateway(gateway_id(1))
    assert gateway is not None
    renewals = [outgoing(1, Renewal(2, k, NOW_MS, NOW_MS + 60_000)) for k in range(n)]
    return await link.deliver([(gateway, renewal) for renewal in renewals], n)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def test_more_commands_than_the_broker_takes_at_once_are_all_sent() -> None:
    async def scenario() -> None:
        broker = FewAtATime(receive_max=4)
        async with await asyncio.start_server(broker.serve, "127.0.0.1", 0) as server:
            link = link_to(port_of(server))
            async with running(link.run()):
                await asyncio.wait_for(link.has_subscribed.wait(), 10)
                assert await delivered(link, 100) == [Handed.SENT] * 100
        assert (broker.topics[:100], link.n_unsent) == ([f"c/{gateway_id(1)}/r"] * 100, 0)

    asyncio.run(scenario())


def test_a_broker_that_acknowledges_nothing_is_waited_for_once_and_what_it_does_not_take_is_counted() -> None:
    async def scenario() -> None:
        broker = FewAtATime(receive_max=4, acknowledges=False)
        async with await asyncio.start_server(broker.serve, "127.0.0.1", 0) as server:
            link = link_to(port_of(server))
            async with running(link.run()):
                await asyncio.wait_for(link.has_subscribed.wait(), 10)
                # All of them in the time of a few waits.
                outcomes = await asyncio.wait_for(delivered(link, 100), 2)
        assert outcomes == [Handed.SENT] * 3 + [Handed.UNREACHABLE] * 97
        assert link.n_unsent == 97

    asyncio.run(scenario())


def test_a_broker_that_refuses_or_is_away_gets_us_once_it_has_changed_its_mind() -> None:
    async def scenario() -> None:
        broker = FewAtATime(n_refusals=2)
        async with await asyncio.start_server(broker.serve, "127.0.0.1", 0) as first:
            port = port_of(first)
        link = link_to(port)
        async with running(link.run()):
            assert await delivered(link, 1) == [Handed.UNREACHABLE]
            async with await asyncio.start_server(broker.serve, "127.0.0.1", port):
                await asyncio.wait_for(link.has_subscribed.wait(), 15)
                assert await delivered(link, 1) == [Handed.SENT]
                broker.n_refusals = 1
                broker.has_subscriber.clear()
                broker.hang_up()
                await asyncio.wait_for(broker.has_subscriber.wait(), 15)
                assert await delivered(link, 1) == [Handed.SENT]
        # MQTT 5, 3.1.2.11.2: without a session expiry interval (0x11) nothing is kept for who is away.
        assert [b"\x11" + SESSION_S.to_bytes(4, "big") in connect for connect in broker.connects] == [True, True]

    asyncio.run(scenario())
