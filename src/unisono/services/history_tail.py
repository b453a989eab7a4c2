"""What the streams hold of commands and answers that is in no history file yet, kept in memory for the web.

It follows the two streams from where the historian is, and forgets what the historian has since committed; so a
device's command log shows a command within a second of its leaving.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from unisono.base.errors import DamagedRecord, Unavailable
from unisono.bus.connection import Bus
from unisono.bus.consumers import KeptMessage
from unisono.model.batches import AckBatch, CommandFrames
from unisono.services.historian import position_name
from unisono.services.pace import Backoff
from unisono.store import positions
from unisono.store.database import Database

log = logging.getLogger(__name__)

_FETCH_MESSAGES: Final = 500
_FETCH_S: Final = 1.0
# How often the historian's position is looked up and the tail cut.
_CUT_FETCHES: Final = 5
# Should the historian be away for long, the oldest go: they are still on the stream, and in history later.
_BYTES_MAX: Final = 64 << 20


@dataclass(slots=True)
class _OneTail:
    """The tail of one stream: (sequence, bytes, batch)."""

    stream: str
    subject: str
    decode: Callable[[bytes], CommandFrames | AckBatch | None]
    held: deque[tuple[int, int, CommandFrames | AckBatch]] = field(default_factory=deque)
    n_bytes: int = 0

    def add(self, message: KeptMessage) -> None:
        try:
            batch = self.decode(message.payload)
        except DamagedRecord:
            # The historian counts and names it.
            return
        if batch is None:
            return
        self.held.append((message.seq, len(message.payload), batch))
        self.n_bytes += len(message.payload)
        while self.n_bytes > _BYTES_MAX:
            self.n_bytes -= self.held.popleft()[1]

    def cut(self, through_seq: int) -> None:
        while self.held and self.held[0][0] <= through_seq:
            self.n_bytes -= self.held.popleft()[1]


class HistoryTail:
    """The two tails. ``run`` keeps them; calling the object gives what they hold, from any thread."""

    def __init__(self, bus: Bus, database: Database) -> None:
        self._bus, self._database = bus, database
        self._commands = _OneTail("COMMANDS", "commands.*.*", CommandFrames.decode)
        self._acks = _OneTail("READINGS", "readings.*", _ack_batch)

    async def run(self) -> None:
        """Follow both streams until cancelled."""
        async with asyncio.TaskGroup() as group:
            for tail in (self._commands, self._acks):
                group.create_task(self._follow(tail), name=f"tail of {tail.stream}")

    def __call__(self) -> tuple[Sequence[CommandFrames], Sequence[AckBatch]]:
        """Return the frames and the answers that are in no file yet (a few of them may be in one by now)."""
        frames = [batch for _, _, batch in self._commands.held.copy() if isinstance(batch, CommandFrames)]
        acks = [batch for _, _, batch in self._acks.held.copy() if isinstance(batch, AckBatch)]
        return frames, acks

    async def _follow(self, tail: _OneTail) -> None:
        backoff = Backoff(f"tail of {tail.stream}")
        while True:
            try:
                await self._follow_once(tail, backoff)
            except Unavailable as away:
                await backoff.failed(away)

    async def _follow_once(self, tail: _OneTail, backoff: Backoff) -> None:
        consumer = await position_name(self._bus, "historian", tail.stream)
        reader = self._bus.reader(tail.stream, tail.subject, await self._position(consumer) + 1)
        tail.held.clear()
        tail.n_bytes = 0
        try:
            while True:
                for _ in range(_CUT_FETCHES):
                    for message in await reader.take(_FETCH_MESSAGES, _FETCH_S):
                        tail.add(message)
                tail.cut(await self._position(consumer))
                backoff.succeeded()
        finally:
            await reader.close()

    async def _position(self, consumer: str) -> int:
        def look_up() -> int:
            with self._database.begin() as connection:
                return positions.get(connection, consumer)

        return await asyncio.to_thread(look_up)


def _ack_batch(payload: bytes) -> AckBatch | None:
    return AckBatch.decode(payload) if payload[:4] == AckBatch.MAGIC else None
