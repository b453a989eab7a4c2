"""A raw core-NATS subscriber: bytes go from the kernel's socket into one buffer, and are parsed there at our own pace.

A client library's object per message costs ten times the parsing. It answers pings, and reconnects for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import numpy as np

from unisono.links.identity import Identity
from unisono.wire.natsbuffer import NatsBuffer, Scanned

log = logging.getLogger(__name__)

# Holds the largest message the server lets pass (8 MB) besides a tick's worth of small ones.
BUFFER_BYTES: Final = 16 << 20
# Parse when this much lies there even before the next tick: some 1,000 readings.
EAGER_BYTES: Final = 256 << 10
TICK_S: Final = 0.1
CONNECT_TIMEOUT_S: Final = 5.0
# The server pings every 2 minutes by default; we ask more often so that a dead one is noticed within some 10 s.
PING_S: Final = 5.0
RECONNECT_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class NatsLogin:
    """Where and as whom to subscribe."""

    url: str
    user: str
    password: str
    name: str = "front qos0"


class RawSubscriber:
    """One subscription (subject, queue group); ``on_scan`` gets what each tick found."""

    def __init__(
        self, login: NatsLogin, identity: Identity, on_scan: Callable[[Scanned], None], *, subject: str, group: str
    ) -> None:
        self._login = login
        self._identity = identity
        self._on_scan = on_scan
        self._subscribe = f"SUB {subject} {group} 1\r\n".encode()
        self._parser = NatsBuffer(identity.gateways, identity.devices)
        self.is_up = False

    async def run(self) -> None:
        """Subscribe, parse, reconnect; until cancelled."""
        was_lost = False
        while True:
            try:
                await self._connected()
            except (OSError, TimeoutError) as wrong:
                if self.is_up or not was_lost:
                    log.warning("QoS 0 subscription lost: %s", wrong)
                was_lost = True
            finally:
                self.is_up = False
            await asyncio.sleep(RECONNECT_S)

    async def _connected(self) -> None:
        address = urlsplit(self._login.url)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            transport, receiver = await loop.create_connection(
                _Receiver, address.hostname or "localhost", address.port or 4222
            )
        try:
            transport.write(self._hello())
            last_ping_s = loop.time()
            while True:
                await receiver.wait(TICK_S)
                self._parse(receiver, transport)
                if receiver.is_lost:
                    raise OSError("connection closed")
                if receiver.n_bytes_seen and not self.is_up:
                    self.is_up = True
                now_s = loop.time()
                if now_s - last_ping_s > PING_S:
                    if now_s - receiver.last_heard_s > 2 * PING_S:
                        raise OSError("server is silent")
                    transport.write(b"PING\r\n")
                    last_ping_s = now_s
        finally:
            transport.close()

    def _hello(self) -> bytes:
        options = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "lang": "python",
            "version": "1",
            "protocol": 1,
            "name": self._login.name,
            "user": self._login.user,
            "pass": self._login.password,
        }
        return b"CONNECT " + json.dumps(options).encode() + b"\r\n" + self._subscribe + b"PING\r\n"

    def _parse(self, receiver: _Receiver, transport: asyncio.Transport) -> None:
        n_consumed = 0
        while n_consumed < receiver.n_filled:
            rest = receiver.buffer[n_consumed : receiver.n_filled]
            scanned = self._parser.scan(rest, rest.size, self._identity.gateway_of_device)
            if scanned.n_consumed == 0:
                break
            n_consumed += scanned.n_consumed
            if scanned.n_pings:
                transport.write(b"PONG\r\n" * scanned.n_pings)
            if scanned.n_errors:
                raise OSError("refused by the server")
            self._on_scan(scanned)
        receiver.drop(n_consumed)
        if receiver.is_paused and receiver.has_room:
            receiver.is_paused = False
            transport.resume_reading()


class _Receiver(asyncio.BufferedProtocol):
    """Lets the event loop receive straight into one buffer."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(BUFFER_BYTES))
        self.buffer = np.frombuffer(self._memory, np.uint8)
        self.n_filled = 0
        self.n_bytes_seen = 0
        self.last_heard_s = asyncio.get_running_loop().time()
        self.is_lost = False
        self.is_paused = False
        self._transport: asyncio.Transport | None = None
        self._wake = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return self.n_filled < BUFFER_BYTES

    async def wait(self, tick_s: float) -> None:
        """Return after a tick, or at once when there is a lot, or the connection is lost."""
        self._wake.clear()
        if self.is_lost or self.n_filled > EAGER_BYTES:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(tick_s):
                await self._wake.wait()

    def drop(self, n_bytes: int) -> None:
        """Forget the parsed front; what is left is part of one message."""
        rest = self.n_filled - n_bytes
        if n_bytes and rest:
            self.buffer[:rest] = self.buffer[n_bytes : self.n_filled].copy()
        self.n_filled = rest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._memory[self.n_filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.n_filled += nbytes
        self.n_bytes_seen += nbytes
        self.last_heard_s = asyncio.get_running_loop().time()
        if not self.has_room and self._transport is not None:
            self.is_paused = True
            self._transport.pause_reading()
        if self.n_filled > EAGER_BYTES:
            self._wake.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._wake.set()
