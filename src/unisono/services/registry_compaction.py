"""Keeps the registry's stream as short as what is enrolled, however often that has changed.

Who starts reads the stream from its beginning, so it has to hold everything: but only the present. When it has grown
large, the present record of every gateway, device and portfolio is put behind all that is there, and then what was
there before is let go. A change in between is told twice, by the stream and by the records; its revision tells.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from unisono.base.clock import Clock
from unisono.store import announce
from unisono.store.database import Database

log = logging.getLogger(__name__)

STREAM: Final = "REGISTRY"
# A quarter of what the stream may hold; the records of a million devices take 350 MB.
COMPACT_ABOVE_BYTES: Final = 512 << 20
# Not before it has doubled since the last time: else a fleet that needs more than that would be told for ever.
GROWTH: Final = 2


class Stream(Protocol):
    """The part of the bus that is needed."""

    async def publish_kept(self, subject: str, payload: bytes, message_id: str | None = None) -> int:
        """Return the stream sequence under which the message is now kept."""
        ...

    async def last_seq(self, stream: str) -> int:
        """Return the sequence of the stream's newest message."""
        ...

    async def size_bytes(self, stream: str) -> int:
        """Return how much the stream holds."""
        ...

    async def trim(self, stream: str, below_seq: int) -> None:
        """Let go of every message before ``below_seq``."""
        ...


class Compaction:
    """Looks at the stream when it is asked to; one at a time in the whole platform, so the relay's leader asks."""

    def __init__(self, database: Database, bus: Stream, clock: Clock, above_bytes: int = COMPACT_ABOVE_BYTES) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._above_bytes = above_bytes

    async def look(self) -> bool:
        """Compact the stream if it has grown large, and return whether that was done.

        Raises Unavailable when the stream or the database is away: then nothing was let go.
        """
        if await self._bus.size_bytes(STREAM) <= self._above_bytes:
            return False
        # All that is on the stream up to here was committed before, so the records read from now on know it.
        known_seq = await self._bus.last_seq(STREAM)
        for part, page in enumerate(announce.PAGES):
            after = 0
            while True:
                found = await asyncio.to_thread(self._page, page, after)
                if not found.n_records:
                    break
                for number, (subject, payload) in enumerate(found.messages):
                    message_id = f"present-{known_seq}-{part}-{after}-{number}"
                    await self._bus.publish_kept(subject, payload, message_id=message_id)
                after = found.last
        await self._bus.trim(STREAM, known_seq + 1)
        size = await self._bus.size_bytes(STREAM)
        self._above_bytes = max(self._above_bytes, GROWTH * size)
        log.info("the registry's stream is compacted", extra={"through_seq": known_seq, "bytes": size})
        return True

    def _page(self, page: announce.Pager, after: int) -> announce.Page:
        with self._database.begin() as connection:
            return page(connection, after, self._clock.wall_ns())
