"""Where all links of one front put their batches: onto ``readings.<shard>``, kept before anybody is told."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from unisono.base.errors import Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.batches import AckBatch, ReadingBatch

log = logging.getLogger(__name__)

# At 1,000 readings a tick of 0.1 s: 100 s of an absent stream, some 50 MB.
OFFERED_MAX: Final = 1000
RETRY_S: Final = 0.25


class StreamIntake:
    """Links' ``Intake`` over the bus. Overflow policy of what carries no promise: the oldest batch goes, counted."""

    def __init__(self, bus: Bus, shard: int = 0) -> None:
        self._bus = bus
        self._subject = subjects.readings(shard)
        self._offered: deque[ReadingBatch] = deque()
        self._news = asyncio.Event()
        self.n_readings_dropped = 0

    async def keep(self, batch: ReadingBatch | AckBatch) -> None:
        """Return when the batch is on the stream. Raises Unavailable; then it may be there or not."""
        await self._bus.publish_kept(self._subject, batch.encode())

    def offer(self, batch: ReadingBatch) -> None:
        """Take a batch without a promise."""
        if len(self._offered) == OFFERED_MAX:
            self.n_readings_dropped += len(self._offered.popleft())
        self._offered.append(batch)
        self._news.set()

    async def run(self) -> None:
        """Publish what is offered, in order, until cancelled."""
        is_lost = False
        while True:
            if not self._offered:
                self._news.clear()
                await self._news.wait()
            batch = self._offered[0]
            try:
                await self.keep(batch)
            except Unavailable as wrong:
                if not is_lost:
                    log.warning("readings wait here: %s", wrong)
                is_lost = True
                await asyncio.sleep(RETRY_S)
                continue
            if is_lost:
                log.warning("readings flow again; %d were dropped since the start", self.n_readings_dropped)
                is_lost = False
            if self._offered and self._offered[0] is batch:
                self._offered.popleft()
