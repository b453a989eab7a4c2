"""A gateway as a real MQTT client: connects, reports, hears commands, sends again what was not acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from unisono.base.errors import DamagedRecord
from unisono.sim.live import packets

log = logging.getLogger(__name__)

KEEP_ALIVE_S: Final = 60
CONNECT_TIMEOUT_S: Final = 20.0
# What a gateway stores while its broker is away; the oldest goes first, counted.
STORED_MAX: Final = 200
BACKOFF_S: Final = (0.5, 8.0)


@dataclass(slots=True)
class Stored:
    """A message that waits for its PUBACK, and how many readings it holds."""

    topic: str
    payload: bytes
    n_readings: int


@dataclass(slots=True)
class MqttGateway:
    """One gateway's connection. ``heard`` is called with (what, payload) of each message on c/<gateway>/<what>."""

    gateway_id: str
    secret: str
    host: str
    port: int
    heard: Callable[[str, bytes], None]
    kept: Callable[[int], None]
    chance: random.Random
    is_connected: bool = False
    # Set while the gateway is to stay away (its device has dropped out).
    is_held_off: bool = False
    n_stored_lost: int = 0
    _stored: dict[int, Stored] = field(default_factory=dict)
    _next_packet_id: int = 1
    _session: _Session | None = None

    async def run(self, slots: asyncio.Semaphore) -> None:
        """Stay connected until cancelled; ``slots`` bounds how many gateways connect at one time."""
        delay_s = BACKOFF_S[0]
        loop = asyncio.get_running_loop()
        while True:
            if not self.is_held_off:
                session = _Session(self)
                try:
                    async with slots, asyncio.timeout(CONNECT_TIMEOUT_S):
                        await loop.create_connection(partial(_same, session), self.host, self.port)
                        await session.accepted
                    delay_s = BACKOFF_S[0]
                    await session.lost
                except (OSError, TimeoutError, DamagedRecord) as away:
                    log.debug("gateway %s: %r", self.gateway_id, away)
                finally:
                    session.abort()
                    self.is_connected, self._session = False, None
            await asyncio.sleep(delay_s * self.chance.uniform(0.5, 1.0))
            delay_s = min(BACKOFF_S[1], 2.0 * delay_s)

    def publish(self, topic: str, payload: bytes, n_readings: int = 0) -> None:
        """Send at QoS 1; kept and sent again until it is acknowledged."""
        if len(self._stored) >= STORED_MAX:
            oldest = next(iter(self._stored))
            self.n_stored_lost += self._stored.pop(oldest).n_readings
        packet_id = self._next_packet_id
        self._next_packet_id = packet_id % 65_535 + 1
        self._stored[packet_id] = Stored(topic, payload, n_readings)
        if self._session is not None and self.is_connected:
            self._session.write(packets.publish(topic, payload, packet_id))

    def publish_once(self, topic: str, payload: bytes) -> bool:
        """Send at QoS 0; say whether it left."""
        if self._session is None or not self.is_connected:
            return False
        self._session.write(packets.publish(topic, payload))
        return True

    def drop(self) -> None:
        """Cut the connection as a power failure does."""
        if self._session is not None:
            self._session.abort()

    def take_session(self, session: _Session) -> None:
        """Use a connection that the broker has accepted: subscribe, and send again what waits."""
        self._session, self.is_connected = session, True
        stem = f"c/{self.gateway_id}"
        session.write(packets.subscribe(1, (f"{stem}/f", f"{stem}/r", f"{stem}/s")))
        for packet_id, stored in self._stored.items():
            session.write(packets.publish(stored.topic, stored.payload, packet_id))

    def take_acknowledgement(self, packet_id: int) -> None:
        """Forget a message that the broker keeps."""
        stored = self._stored.pop(packet_id, None)
        if stored is not None and stored.n_readings:
            self.kept(stored.n_readings)


def _same(session: _Session) -> _Session:
    return session


class _Session(asyncio.Protocol):
    """One connection of one gateway."""

    def __init__(self, gateway: MqttGateway) -> None:
        loop = asyncio.get_running_loop()
        self._gateway = gateway
        self._reader = packets.PacketReader()
        self._transport: asyncio.Transport | None = None
        self._pinging: asyncio.TimerHandle | None = None
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream transport"
        self._transport = transport
        identity = self._gateway.gateway_id
        self.write(packets.connect(identity, identity, self._gateway.secret, KEEP_ALIVE_S))

    def data_received(self, data: bytes) -> None:
        try:
            for packet in self._reader.feed(data):
                self._take(packet)
        except (DamagedRecord, UnicodeDecodeError) as wrong:
            log.warning("gateway %s: %s", self._gateway.gateway_id, wrong)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        self._gateway.is_connected = False
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionResetError("closed before CONNACK"))
        if not self.lost.done():
            self.lost.set_result(None)

    def write(self, packet: bytes) -> None:
        """Send bytes, unless the connection is closing."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packet)

    def abort(self) -> None:
        """Close at once; never fails."""
        if self._transport is not None:
            self._transport.abort()
        with contextlib.suppress(asyncio.InvalidStateError):
            # Nobody waits any more: mark the refusal as seen.
            self.accepted.exception() if self.accepted.done() else self.accepted.cancel()

    def _take(self, packet: packets.Packet) -> None:
        gateway = self._gateway
        if packet.kind == packets.PUBLISH:
            topic, payload, packet_id = packet.message()
            if packet_id:
                self.write(packets.puback(packet_id))
            gateway.heard(topic.rpartition("/")[2], payload)
        elif packet.kind == packets.PUBACK:
            gateway.take_acknowledgement(packet.packet_id())
        elif packet.kind == packets.CONNACK and not self.accepted.done():
            if packet.code() == 0:
                gateway.take_session(self)
                self.accepted.set_result(None)
                self._ping()
            else:
                self.accepted.set_exception(ConnectionRefusedError(f"CONNACK {packet.code()}"))

    def _ping(self) -> None:
        self.write(packets.PINGREQ)
        self._pinging = asyncio.get_running_loop().call_later(KEEP_ALIVE_S / 2, self._ping)
