"""What a shard's realtime sends, in order and again until the stream has it; bounded while NATS is away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from enum import IntEnum
from typing import NamedTuple

from unisono.base.errors import Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.batches import CommandFrames
from unisono.plant.checkpoint import Unsent

log = logging.getLogger(__name__)

# Messages kept while the stream can't take them: ten minutes of commands and outcomes at 1 s cycles.
WAITING_MAX = 1_200
# A million setpoints are 46 MB: five cycles of them, of which the oldest have been decided anew by then.
WAITING_BYTES_MAX = 256 << 20
RETRY_S = 0.5


class Worth(IntEnum):
    """What may be dropped first when too much waits."""

    # They have expired by then, and the plant itself repeats what is unacknowledged.
    COMMANDS = 0
    # Rows of a dispatch's course: the next one says almost the same.
    PROGRESS = 1
    # Entries of the event log: never.
    LOG = 2


class _Waiting(NamedTuple):
    message: Unsent
    worth: Worth


def command_messages(frames: CommandFrames) -> list[Unsent]:
    """Return a cycle's frames as messages that NATS takes, in order; it costs some 11 ms for a million commands."""
    subject = subjects.commands(frames.shard, frames.epoch)
    identity = f"c-{frames.shard}-{frames.epoch}-{frames.cycle}"
    return [
        Unsent(subject, f"{identity}-{part.first_row}" if part.first_row else identity, part.encode())
        for part in frames.parts()
    ]


class Outbound:
    """Cycles put messages, one task sends them; (subject, message id) makes a repeated send harmless."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[_Waiting] = deque()
        self._has_some = asyncio.Event()
        self._n_bytes = 0
        self.n_dropped = 0

    def put(self, message: Unsent, worth: Worth) -> None:
        """Queue a message; at the bounds the oldest of the least worth goes ("oldest outbound dropped")."""
        while self._is_full(message) and self._drop():
            pass
        self._waiting.append(_Waiting(message, worth))
        self._n_bytes += len(message.payload)
        self._has_some.set()

    def records(self) -> tuple[Unsent, ...]:
        """Return what waits and must reach its stream although this process may not live until then."""
        return tuple(waiting.message for waiting in self._waiting if waiting.worth > Worth.COMMANDS)

    async def send(self) -> None:
        """Send for ever; a message leaves the queue only when the stream has acknowledged it."""
        is_away = False
        while True:
            await self._has_some.wait()
            while self._waiting:
                first = self._waiting[0]
                try:
                    await self._bus.publish_kept(first.message.subject, first.message.payload, first.message.message_id)
                except Unavailable as away:
                    if not is_away:
                        log.warning("outbound waits", extra={"why": str(away)})
                    is_away = True
                    await asyncio.sleep(RETRY_S)
                    continue
                if is_away:
                    log.info("outbound flows again", extra={"n_waiting": len(self._waiting)})
                    is_away = False
                if self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()
                    self._n_bytes -= len(first.message.payload)
            self._has_some.clear()

    def _is_full(self, message: Unsent) -> bool:
        return len(self._waiting) >= WAITING_MAX or self._n_bytes + len(message.payload) > WAITING_BYTES_MAX

    def _drop(self) -> bool:
        """Drop the oldest of the least worth; False when nothing may go."""
        least = min((waiting.worth for waiting in self._waiting), default=Worth.LOG)
        if least == Worth.LOG:
            return False
        at = next(at for at, waiting in enumerate(self._waiting) if waiting.worth == least)
        self._n_bytes -= len(self._waiting[at].message.payload)
        del self._waiting[at]
        self.n_dropped += 1
        log.error("oldest outbound dropped", extra={"n_dropped": self.n_dropped})
        return True
