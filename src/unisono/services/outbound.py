"""What a shard's realtime sends, in order and again until the stream has it; bounded while NATS is away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from unisono.base.errors import Unavailable
from unisono.bus.connection import Bus

log = logging.getLogger(__name__)

# Messages kept while the stream can't take them: ten minutes of commands and outcomes at 1 s cycles.
WAITING_MAX = 1_200
RETRY_S = 0.5


class Outbound:
    """Cycles put messages, one task sends them; (subject, message id) makes a repeated send harmless."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[tuple[str, bytes, str]] = deque()
        self._has_some = asyncio.Event()
        self.n_dropped = 0

    def put(self, subject: str, payload: bytes, message_id: str) -> None:
        """Queue a message; at the bound the oldest goes ("oldest outbound dropped").

        Commands among the dropped have expired by then, and the plant itself repeats what is unacknowledged.
        """
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.popleft()
            self.n_dropped += 1
            log.error("oldest outbound dropped", extra={"n_dropped": self.n_dropped})
        self._waiting.append((subject, payload, message_id))
        self._has_some.set()

    async def send(self) -> None:
        """Send for ever; a message leaves the queue only when the stream has acknowledged it."""
        is_away = False
        while True:
            await self._has_some.wait()
            while self._waiting:
                subject, payload, message_id = self._waiting[0]
                try:
                    await self._bus.publish_kept(subject, payload, message_id)
                except Unavailable as away:
                    if not is_away:
                        log.warning("outbound waits", extra={"why": str(away)})
                    is_away = True
                    await asyncio.sleep(RETRY_S)
                    continue
                if is_away:
                    log.info("outbound flows again", extra={"n_waiting": len(self._waiting)})
                    is_away = False
                if self._waiting and self._waiting[0][2] == message_id:
                    self._waiting.popleft()
            self._has_some.clear()
