"""MQTT 3.1.1 packets that a gateway needs, as bytes (OASIS MQTT 3.1.1); no sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from unisono.base.errors import DamagedRecord

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"
# What a broker may send a gateway in one packet.
PACKET_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Packet:
    """One received packet: its type, its flags and what follows the length."""

    kind: int
    flags: int
    body: bytes

    def packet_id(self) -> int:
        """Return the id in a PUBACK or SUBACK."""
        return int.from_bytes(self.body[:2], "big")

    def code(self) -> int:
        """Return the last byte: a CONNACK's or SUBACK's code."""
        return self.body[-1] if self.body else 0xFF

    def message(self) -> tuple[str, bytes, int]:
        """Return (topic, payload, packet id or 0) of a PUBLISH."""
        end = 2 + int.from_bytes(self.body[:2], "big")
        topic = self.body[2:end].decode()
        if self.flags & 0x06:
            return topic, self.body[end + 2 :], int.from_bytes(self.body[end : end + 2], "big")
        return topic, self.body[end:], 0


def connect(client_id: str, user: str, password: str, keep_alive_s: int) -> bytes:
    """Return a CONNECT with a clean session.

    >>> connect("a", "u", "p", 60).hex()
    '101300044d51545404c2003c000161000175000170'
    """
    head = b"\x00\x04MQTT\x04\xc2" + keep_alive_s.to_bytes(2, "big")
    return _packet(0x10, head + _text(client_id) + _text(user) + _text(password))


def subscribe(packet_id: int, topics: tuple[str, ...], qos: int = 0) -> bytes:
    """Return a SUBSCRIBE."""
    return _packet(0x82, packet_id.to_bytes(2, "big") + b"".join(_text(topic) + bytes([qos]) for topic in topics))


def publish(topic: str, payload: bytes, packet_id: int = 0) -> bytes:
    """Return a PUBLISH: QoS 0 without a packet id, else QoS 1."""
    if packet_id:
        return _packet(0x32, _text(topic) + packet_id.to_bytes(2, "big") + payload)
    return _packet(0x30, _text(topic) + payload)


def puback(packet_id: int) -> bytes:
    """Return a PUBACK."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


class PacketReader:
    """Cuts a stream of bytes into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[Packet]:
        """Add bytes; yield the packets that are complete. Raises DamagedRecord on a length that can't be."""
        self._buffer += received
        at = 0
        while True:
            length, body_at = _length(self._buffer, at + 1)
            if length < 0 or len(self._buffer) < body_at + length:
                break
            yield Packet(
                self._buffer[at] >> 4, self._buffer[at] & 0x0F, bytes(self._buffer[body_at : body_at + length])
            )
            at = body_at + length
        del self._buffer[:at]


def _length(buffer: bytearray, at: int) -> tuple[int, int]:
    """Return (remaining length, position after it); -1 while bytes are missing."""
    length = 0
    for place in range(4):
        if at + place >= len(buffer):
            return -1, at
        byte = buffer[at + place]
        length |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if length > PACKET_BYTES_MAX:
                raise DamagedRecord("MQTT packet", f"claims {length} bytes")
            return length, at + place + 1
    raise DamagedRecord("MQTT packet", "has a length of more than four bytes")


def _packet(head: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        byte, length = length & 0x7F, length >> 7
        encoded.append(byte | 0x80 if length else byte)
        if not length:
            return bytes([head]) + bytes(encoded) + body


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded
