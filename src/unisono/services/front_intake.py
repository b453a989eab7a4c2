"""Where all links of one front put their batches: onto ``readings.<shard>``, kept before anybody is told."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.batches import AckBatch, ReadingBatch

log = logging.getLogger(__name__)

# At one a tick of 0.05 s: 50 s of an absent stream; at 100,000 readings a second 13 s, some 65 MB.
OFFERED_MAX: Final = 1000
RETRY_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Shards:
    """How many shards there are, and the shard of each of some devices (0 of an unknown one)."""

    n: int
    of_devices: Callable[[NDArray[np.int32]], NDArray[np.int16]]

    def split(self, batch: ReadingBatch | AckBatch) -> list[tuple[int, ReadingBatch | AckBatch]]:
        """Return each shard's part, with the same gateways and sequences; whoever has no row of it gets none.

        An answer to a renewal (device -1) is for all: each knows its own by the epoch.
        """
        shards = self.of_devices(batch.device_no)
        is_of_all = (batch.device_no == -1) & isinstance(batch, AckBatch)
        parts = [(shard, batch.only((shards == shard) | is_of_all)) for shard in range(self.n)]
        # One without any row goes as it is: its sequence is counted.
        return [(shard, part) for shard, part in parts if len(part)] or [(0, batch)]


class StreamIntake:
    """Links' ``Intake`` over the bus. Overflow policy of what carries no promise: the oldest batch that waits goes.

    ``on_overflow`` is told of it, so that each of its readings is counted. ``full`` says that nothing more is accepted,
    and why; "": it is.
    """

    def __init__(
        self,
        bus: Bus,
        on_overflow: Callable[[ReadingBatch], None],
        shards: Shards | None = None,
        *,
        full: Callable[[], str] = str,
    ) -> None:
        self._bus = bus
        self._full = full
        self._shards = shards
        self._offered: deque[ReadingBatch] = deque()
        self._news = asyncio.Event()
        self._on_overflow = on_overflow

    async def keep(self, batch: ReadingBatch | AckBatch) -> None:
        """Return when the batch, every shard's part of it, is on the stream.

        Raises Unavailable; then it may be there or not, or a part of it.
        """
        if why := self._full():
            raise Unavailable("the disk of the streams", why)
        parts = [(0, batch)] if self._shards is None else self._shards.split(batch)
        for shard, part in parts:
            await self._bus.publish_kept(subjects.readings(shard), part.encode())

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
