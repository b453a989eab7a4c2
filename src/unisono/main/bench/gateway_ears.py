"""A thousand gateways that only listen, in a process of their own: raw sockets at the broker's MQTT port.

While bytes come they are only kept, as they would be on a thousand machines; what they say is read afterwards, with
a decoder of its own. Speaks with the bench over a pipe: ``expect`` bytes, then (instant of the last one, heard).
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.sim.live import packets

_RECEIVE_BYTES: Final = 1 << 18
_GREETING_S: Final = 20.0
# So long a round may take; what has come until then is what was heard.
_ROUND_S: Final = 30.0


class _Command(msgspec.Struct):
    no: int
    seq: int
    kind: str
    value: float
    start_ms: int
    expires_ms: int
    ttl_s: float
    fallback: str


class _Message(msgspec.Struct):
    type: str
    epoch: int
    issued_ms: int
    commands: list[_Command] = []
    through_seq: int = -1
    expires_ms: int = -1


@dataclass(frozen=True, slots=True)
class Heard:
    """What all gateways heard in a round: a row a command (device, gateway, seq, value, expires_ms, ttl_s, epoch).

    ``renewals`` has rows of (gateway, epoch, through_seq, expires_ms); ``n_odd`` counts what was of another kind,
    fallback or start, or on another gateway's topic.
    """

    commands: NDArray[Any]
    renewals: NDArray[np.int64]
    n_odd: int
    n_messages: int


class Ears:
    """The process, from the bench's side. ``gateway_ids`` listen on ``c/<id>/f`` and ``c/<id>/r``."""

    def __init__(self, host: str, port: int, login: tuple[str, str], gateway_ids: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, (host, port), login, tuple(gateway_ids))
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "listening"

    def expect(self, n_bytes: int) -> None:
        """Begin a round of that many bytes of MQTT."""
        self._pipe.send(n_bytes)
        assert self._pipe.recv() == "expecting"

    def ended_ns(self) -> int:
        """Return when the last byte of the round came, on the monotonic clock."""
        return int(self._pipe.recv())

    def heard(self) -> Heard:
        """Return what was heard in the round; reading it takes seconds."""
        self._pipe.send(None)
        heard = self._pipe.recv()
        assert isinstance(heard, Heard)
        return heard

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(_GREETING_S)


def _run(pipe: Connection, address: tuple[str, int], login: tuple[str, str], gateway_ids: tuple[str, ...]) -> None:
    sockets = [_connected(address, login, gateway_id) for gateway_id in gateway_ids]
    selector = selectors.DefaultSelector()
    heard: list[list[bytes]] = [[] for _ in sockets]
    for gateway, one in enumerate(sockets):
        one.setblocking(False)
        selector.register(one, selectors.EVENT_READ, heard[gateway])
    pipe.send("listening")
    try:
        while True:
            expected = pipe.recv()
            if expected is None:
                pipe.send(_read(gateway_ids, heard))
                continue
            for chunks in heard:
                chunks.clear()
            pipe.send("expecting")
            pipe.send(_listen(selector, expected))
    except EOFError:
        for one in sockets:
            one.close()


def _listen(selector: selectors.BaseSelector, n_expected: int) -> int:
    """Return the instant at which so many bytes had come, or that of giving up."""
    until_ns = time.monotonic_ns() + round(_ROUND_S * 1e9)
    while n_expected > 0 and time.monotonic_ns() < until_ns:
        for key, _ in selector.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            chunk = key.fileobj.recv(_RECEIVE_BYTES)
            assert chunk, "the broker hung up"
            key.data.append(chunk)
            n_expected -= len(chunk)
    return time.monotonic_ns()


def _connected(address: tuple[str, int], login: tuple[str, str], gateway_id: str) -> socket.socket:
    one = socket.create_connection(address, _GREETING_S)
    one.sendall(packets.connect(gateway_id, *login, 0))
    one.sendall(packets.subscribe(1, (f"c/{gateway_id}/f", f"c/{gateway_id}/r")))
    reader = packets.PacketReader()
    greetings: list[packets.Packet] = []
    while len(greetings) < 2:
        greetings += reader.feed(one.recv(4096))
    assert [packet.kind for packet in greetings] == [packets.CONNACK, packets.SUBACK], "let in and subscribed"
    return one


def _read(gateway_ids: Sequence[str], heard: Sequence[Sequence[bytes]]) -> Heard:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Message)
    commands: list[tuple[float, ...]] = []
    renewals: list[tuple[int, ...]] = []
    n_odd = n_messages = 0
    for gateway, (gateway_id, chunks) in enumerate(zip(gateway_ids, heard, strict=True)):
        for packet in packets.PacketReader().feed(b"".join(chunks)):
            topic, payload, _ = packet.message()
            message = decoder.decode(payload)
            n_messages += 1
            n_odd += topic != f"c/{gateway_id}/{message.type[0]}"
            if message.type == "renewal":
                renewals.append((gateway, message.epoch, message.through_seq, message.expires_ms))
            for one in message.commands:
                commands.append((one.no, gateway, one.seq, one.value, one.expires_ms, one.ttl_s, message.epoch))
                n_odd += (one.kind, one.fallback, one.start_ms) != ("power_setpoint", "zero_power", 0)
    as_rows = np.array(commands, np.float64).reshape(len(commands), 7)
    return Heard(as_rows, np.array(renewals, np.int64).reshape(len(renewals), 4), n_odd, n_messages)
