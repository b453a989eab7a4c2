"""The client library with its two waits done so that they can be cancelled, and are over after their time.

The library waits with ``asyncio.wait_for``, which before Python 3.12 swallows a cancellation that comes together with
the answer: a service would then never stop. And its ``flush`` cancels what the server's PONG is to wake, upon which a
late PONG ends the library's reading for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

# nats-server's status for a question that nobody listens to (ADR-4 of nats-architecture-and-design).
_NO_RESPONDERS: Final = "503"
# One write of `publish_all`: it stays in the processor's cache, and the event loop gets its turn in between.
_WRITE_BYTES: Final = 1 << 20
_WRITE_TIMEOUT_S: Final = 5.0


class NatsClient(Client):
    """One connection, with one inbox for the answers to all its questions, those of the library's own calls too."""

    def __init__(self) -> None:
        super().__init__()
        self._answers_to = ""
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._n_asked = 0
        self._opening = asyncio.Lock()

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """Return the answer; raises NoRespondersError, and TimeoutError after ``timeout`` seconds."""
        async with asyncio.timeout(timeout):
            await self._open()
            self._n_asked += 1
            inbox = f"{self._answers_to}.{self._n_asked}"
            answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
            self._waiting[inbox] = answer
            try:
                await self.publish(subject, payload, reply=inbox, headers=headers)
                message = await answer
            finally:
                del self._waiting[inbox]
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return message

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish many (subject, payload) in writes of some MiB; raises MaxPayloadError before anything is sent.

        It is one call and few writes, however small the messages are.
        """
        if any(len(payload) > self.max_payload for _, payload in messages):
            raise nats.errors.MaxPayloadError
        pieces: list[bytes] = []
        n_bytes = 0
        for subject, payload in messages:
            pieces += (b"PUB %b %d\r\n" % (subject.encode(), len(payload)), payload, b"\r\n")
            n_bytes += len(payload)
            if n_bytes > _WRITE_BYTES:
                await self._write(pieces)
                pieces, n_bytes = [], 0
        await self._write(pieces)

    async def _write(self, pieces: list[bytes]) -> None:
        """Hand bytes of the protocol to the library's writer, and wait until the socket has taken most of them."""
        if self.is_closed or self._flush_queue is None:
            raise nats.errors.ConnectionClosedError
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(b"".join(pieces))
        self._pending_data_size += len(self._pending[-1])
        # The library's own forced flush would swallow a cancellation.
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            await self._flush_queue.put(written)
            await written

    async def flush(self, timeout: float = 10.0) -> None:
        """Return when the server has taken everything sent so far; raises TimeoutError after ``timeout`` seconds."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(timeout):
            await self._send_ping(taken)
            # The PONG may still come when nobody waits any more: it must find a future that it can wake.
            await asyncio.shield(taken)

    async def _open(self) -> None:
        async with self._opening:
            if not self._answers_to:
                answers_to = self.new_inbox()
                await self.subscribe(f"{answers_to}.*", cb=self._on_answer, pending_msgs_limit=0, pending_bytes_limit=0)
                self._answers_to = answers_to

    async def _on_answer(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject)
        # An answer that came too late, or a second one, is nobody's.
        if answer is not None and not answer.done():
            answer.set_result(message)
