"""Asking over NATS and waiting for the one answer.

The client library's own ``request`` waits with ``asyncio.wait_for``, which before Python 3.12 swallows a cancellation
that comes together with the answer: a service would then never stop. So the waiting is done here.
"""

from __future__ import annotations

import asyncio
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

# nats-server's status for a question that nobody listens to (ADR-4 of nats-architecture-and-design).
_NO_RESPONDERS: Final = "503"


class Answers:
    """One inbox for all questions of a connection; raises the client library's exceptions and TimeoutError."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = ""
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._n_asked = 0
        self._opening = asyncio.Lock()

    async def ask(self, subject: str, payload: bytes, timeout_s: float, headers: dict[str, str] | None = None) -> bytes:
        """Return the answer's bytes."""
        async with asyncio.timeout(timeout_s):
            await self._open()
            self._n_asked += 1
            inbox = f"{self._prefix}.{self._n_asked}"
            answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
            self._waiting[inbox] = answer
            try:
                await self._client.publish(subject, payload, reply=inbox, headers=headers)
                message = await answer
            finally:
                del self._waiting[inbox]
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return bytes(message.data)

    async def _open(self) -> None:
        async with self._opening:
            if not self._prefix:
                prefix = self._client.new_inbox()
                await self._client.subscribe(
                    f"{prefix}.*", cb=self._on_answer, pending_msgs_limit=0, pending_bytes_limit=0
                )
                self._prefix = prefix

    async def _on_answer(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject)
        # An answer that came too late, or a second one, is nobody's.
        if answer is not None and not answer.done():
            answer.set_result(message)
