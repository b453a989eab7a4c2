"""What waits to be decoded, or to be kept, bounded: of too much the oldest goes, counted as ``overflowed``."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from unisono.links.reception import Arrived, ReceivedBatches, Reception

# Readings of decoded batches that wait for the stream: some 50 MB. Their gateways have no receipt and send them again.
BATCH_READINGS_MAX: Final = 1_000_000


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


class WaitingBatches:
    """Decoded batches on their way to the stream; the oldest go, and get no receipt, when it is away for long."""

    def __init__(self, reception: Reception, n_readings_max: int = BATCH_READINGS_MAX) -> None:
        self._reception = reception
        self._n_readings_max = n_readings_max
        self._n_readings = 0
        self._waiting: deque[ReceivedBatches] = deque()
        self._news = asyncio.Event()

    def put(self, received: ReceivedBatches) -> None:
        """Add some; the oldest make room for them when there are too many."""
        self._waiting.append(received)
        self._n_readings += len(received.batch)
        while self._n_readings > self._n_readings_max and len(self._waiting) > 1:
            lost = self._waiting.popleft()
            self._n_readings -= len(lost.batch)
            self._reception.overflow(lost.batch)
        self._news.set()

    async def take(self) -> ReceivedBatches:
        """Return the oldest as soon as there is one."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        received = self._waiting.popleft()
        self._n_readings -= len(received.batch)
        return received
