"""A raw core-NATS subscriber: bytes go from the kernel's socket into one buffer, and are parsed there at our own pace.

A client library's object per message costs ten times the parsing, and an event loop's call for each of the small
pieces that a server writes as much again: so the socket is read when there is much in it. It answers pings, and
reconnects for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from unisono.links.identity import Identity
from unisono.wire.natsbuffer import NatsBuffer, Scanned

log = logging.getLogger(__name__)

# Holds the largest message the server lets pass (8 MB) besides a tick's worth of small ones.
BUFFER_BYTES: Final = 16 << 20
# Parse when this much lies there even before the next tick: some 4,000 single readings, as many as one scan takes.
EAGER_BYTES: Final = 768 << 10
TICK_S: Final = 0.05
# How soon the socket is read again after a read of so many bytes: each read costs a turn of the loop, some 40 us, and
# the kernel's buffer must not be full before it.
FULL_BYTES: Final = 128 << 10
FULL_READ_S: Final = 0.002
BUSY_BYTES: Final = 8 << 10
BUSY_READ_S: Final = 0.005
CALM_READ_S: Final = 0.02
# What we say and the server does not take: receipts, which their gateways will ask for again.
OUTGOING_BYTES_MAX: Final = 4 << 20
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
        self._pipe: _Pipe | None = None
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

    def publish(self, commands: bytes) -> None:
        """Send PUB commands, without any promise: while the server is away, or does not read, they are lost."""
        if self._pipe is not None and len(self._pipe.outgoing) < OUTGOING_BYTES_MAX:
            self._pipe.write(commands)

    async def _connected(self) -> None:
        address = urlsplit(self._login.url)
        place = (address.hostname or "localhost", address.port or 4222)
        loop = asyncio.get_running_loop()
        with await asyncio.to_thread(socket.create_connection, place, CONNECT_TIMEOUT_S) as connection:
            pipe = _Pipe(connection)
            pipe.write(self._hello())
            parsed_s = ping_s = heard_s = loop.time()
            self._pipe = pipe
            try:
                while True:
                    n_read = pipe.read()
                    now_s = loop.time()
                    if n_read:
                        heard_s, self.is_up = now_s, True
                    if pipe.n_filled > EAGER_BYTES or (pipe.n_filled and now_s - parsed_s >= TICK_S):
                        self._parse(pipe)
                        parsed_s = now_s
                    if now_s - ping_s > PING_S:
                        if now_s - heard_s > 2 * PING_S:
                            raise OSError("server is silent")
                        pipe.write(b"PING\r\n")
                        ping_s = now_s
                    pipe.write(b"")
                    await asyncio.sleep(_pause_s(n_read))
            finally:
                self._pipe = None

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

    def _parse(self, pipe: _Pipe) -> None:
        n_consumed = 0
        while n_consumed < pipe.n_filled:
            rest = pipe.buffer[n_consumed : pipe.n_filled]
            scanned = self._parser.scan(rest, rest.size, self._identity.gateway_of_device)
            if scanned.n_consumed == 0:
                break
            n_consumed += scanned.n_consumed
            if scanned.n_pings:
                pipe.write(b"PONG\r\n" * scanned.n_pings)
            if scanned.n_errors:
                raise OSError("refused by the server")
            self._on_scan(scanned)
        pipe.drop(n_consumed)


def _pause_s(n_read: int) -> float:
    if n_read > FULL_BYTES:
        return FULL_READ_S
    return BUSY_READ_S if n_read > BUSY_BYTES else CALM_READ_S


class _Pipe:
    """A connection that is read into one buffer and written to without ever waiting."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._memory = memoryview(bytearray(BUFFER_BYTES))
        self.buffer = np.frombuffer(self._memory, np.uint8)
        self.n_filled = 0
        self.outgoing = bytearray()

    def read(self) -> int:
        """Take what is there, as far as there is room; return how many bytes. Raises OSError when it is closed."""
        n_before = self.n_filled
        while self.n_filled < BUFFER_BYTES:
            try:
                n = self._socket.recv_into(self._memory[self.n_filled :])
            except BlockingIOError:
                break
            if n == 0:
                raise OSError("connection closed")
            self.n_filled += n
            if n < BUSY_BYTES:
                break
        return self.n_filled - n_before

    def write(self, more: bytes) -> None:
        """Send this behind what waits; what the server does not take now waits."""
        self.outgoing += more
        while self.outgoing:
            try:
                del self.outgoing[: self._socket.send(self.outgoing)]
            except BlockingIOError:
                return

    def drop(self, n_bytes: int) -> None:
        """Forget the parsed front; what is left is part of one message."""
        rest = self.n_filled - n_bytes
        if n_bytes and rest:
            self.buffer[:rest] = self.buffer[n_bytes : self.n_filled].copy()
        self.n_filled = rest
