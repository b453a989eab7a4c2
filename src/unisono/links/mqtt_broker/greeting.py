"""One bare MQTT 3.1.1 connection: nats-server makes its stream of MQTT messages at an account's first one."""

from __future__ import annotations

import asyncio
from typing import Final

from unisono.base.errors import Unavailable

TIMEOUT_S: Final = 6.0
_DISCONNECT: Final = b"\xe0\x00"


async def greet(host: str, port: int, user: str, password: str) -> None:
    """Connect, be accepted, disconnect; raises Unavailable when refused or unanswered."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_connect(user, password))
                answer = await reader.readexactly(4)
                if answer[0] != 0x20 or answer[3] != 0:
                    raise Unavailable("MQTT", f"connection refused with code {answer[3]}")
                writer.write(_DISCONNECT)
                await writer.drain()
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as wrong:
        raise Unavailable("MQTT", f"{type(wrong).__name__} {wrong}") from wrong


def _connect(user: str, password: str) -> bytes:
    # MQTT 3.1.1, 3.1: clean session, user name and password, keep-alive 10 s.
    body = _text("MQTT") + bytes([4, 0b1100_0010, 0, 10]) + _text("unisono-greeting") + _text(user) + _text(password)
    assert len(body) < 128, "one byte holds the remaining length"
    return bytes([0x10, len(body)]) + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw
