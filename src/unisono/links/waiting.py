"""Messages that wait to be decoded, bounded: when there are too many the oldest goes, counted as ``overflowed``."""

from __future__ import annotations

import asyncio
from collections import deque

from unisono.links.reception import Arrived, Reception


class Waiting:
    """A queue from a connection's callbacks to the one task that takes from it."""

    def __init__(self, reception: Reception, n_max: int) -> None:
        self._reception = reception
        self._n_max = n_max
        self._messages: deque[Arrived] = deque()
        self._news = asyncio.Event()

    def put(self, message: Arrived) -> None:
        """Add a message; the oldest makes room for it when the queue is full."""
        if len(self._messages) == self._n_max:
            lost, _ = self._messages.popleft()
            self._reception.lose(lost.gateway_id, "overflowed")
        self._messages.append(message)
        self._news.set()

    async def take(self) -> list[Arrived]:
        """Return all that waits, in order, as soon as there is something."""
        await self._news.wait()
        self._news.clear()
        messages = list(self._messages)
        self._messages.clear()
        return messages
