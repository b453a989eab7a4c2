"""Where all links of one front put their batches: onto ``readings.<shard>``, kept before anybody is told."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from unisono.base.errors import Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.batches import AckBatch, ReadingBatch

log = logging.getLogger(__name__)

# At one a tick of 0.05 s: 50 s of an absent stream; at 100,000 readings a second 13 s, some 65 MB.
OFFERED_MAX: Final = 1000
RETRY_S: Final = 0.25


class StreamIntake:
    """Links' ``Intake`` over the bus. Overflow policy of what carries no promise: the oldest batch that waits goes.

    ``on_overflow`` is told of it, so that each of its readings is counted. ``full`` says that nothing more is accepted,
    and why; "": it is.
    """

    def __init__(
        self, bus: Bus, on_overflow: Callable[[ReadingBatch], None], shard: int = 0, *, full: Callable[[], str] = str
    ) -> None:
        self._bus = bus
        self._full = full
        self._subject = subjects.readings(shard)
        self._offered: deque[ReadingBatch] = deque()
        self._news = asyncio.Event()
        self._on_overflow = on_overflow

    async def keep(self, batch: ReadingBatch | AckBatch) -> None:
        """Return when the batch is on the stream. Raises Unavailable; then it may be there or not."""
        if why := self._full():
            raise Unavailable("the disk of the streams", why)
        await self._bus.publish_kept(self._subject, batch.encode())

    def offer(self, batch: ReadingBatch) -> None:
        """Take a batch without a promise."""
        if len(self._offered) == OFFERED_MAX:
            self._on_overflow(self._offered.popleft())
        self._offered.append(batch)
        self._news.set()

    async def run(self) -> None:
        """Publish what is offered, in order, until cancelled."""
        while True:
            if not self._offered:
                self._news.clear()
                await self._news.wait()
            # Taken out before it is tried: what may be on the stream already must not go as overflowed besides.
            await self._keep_at_last(self._offered.popleft())

    async def _keep_at_last(self, batch: ReadingBatch) -> None:
        is_lost = False
        while True:
            try:
                await self.keep(batch)
            except Unavailable as wrong:
                if not is_lost:
                    log.warning("readings wait here: %s", wrong)
                is_lost = True
                await asyncio.sleep(RETRY_S)
            else:
                if is_lost:
                    log.warning("readings flow again")
                return
