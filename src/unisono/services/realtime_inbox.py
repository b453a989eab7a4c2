"""What a shard's realtime is fed: its streams, read in order into one bounded inbox, with the positions reached.

Its own commands come back to it as well: their position belongs into the checkpoint, and behind it a successor finds
what was told since.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from unisono.base.clock import Clock
from unisono.base.errors import DamagedRecord
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.batches import CommandFrames, decode_incoming
from unisono.model.dispatch import decode_request
from unisono.model.registry import decode_registry
from unisono.plant.replay import Recorded
from unisono.plant.step import Arrival

log = logging.getLogger(__name__)

# Messages that may wait for a cycle; beyond it a reader stops reading ("inbox full") and the stream keeps the rest.
# 20,000 messages of up to 1,000 readings are more than a cycle can fold.
WAITING_MAX = 20_000


class Inbox:
    """Readers fill it, a cycle drains it whole. ``positions`` are the sequences drained, for the checkpoint."""

    def __init__(self, bus: Bus, shard: int, clock: Clock, positions: dict[str, int]) -> None:
        self._bus = bus
        self._clock = clock
        self._subject_of_stream = {
            "REGISTRY": subjects.registry(shard),
            "REQUESTS": subjects.requests(shard),
            "READINGS": subjects.readings(shard),
            "COMMANDS": subjects.all_commands(shard),
        }
        self._waiting: dict[str, deque[tuple[int, Any]]] = {name: deque() for name in self._subject_of_stream}
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._arrived = asyncio.Event()
        self.positions = dict.fromkeys(self._subject_of_stream, 0) | positions
        self.n_damaged = 0

    async def read_readings(self) -> None:
        """Read ``readings.<shard>`` for ever."""
        async for seq, payload in self._messages("READINGS"):
            try:
                batch = decode_incoming(payload)
            except DamagedRecord as damaged:
                self._refuse("READINGS", seq, damaged)
                continue
            self._put("READINGS", seq, Arrival(batch, self._receipt_ns(batch.known_ns)))

    async def read_requests(self) -> None:
        """Read ``requests.<shard>`` for ever."""
        async for seq, payload in self._messages("REQUESTS"):
            try:
                self._put("REQUESTS", seq, decode_request(payload))
            except msgspec.DecodeError as damaged:
                self._refuse("REQUESTS", seq, damaged)

    async def read_registry(self) -> None:
        """Read ``registry.<shard>`` for ever."""
        async for seq, payload in self._messages("REGISTRY"):
            try:
                self._put("REGISTRY", seq, decode_registry(payload))
            except msgspec.DecodeError as damaged:
                self._refuse("REGISTRY", seq, damaged)

    async def read_commands(self) -> None:
        """Read ``commands.<shard>`` of every owner for ever."""
        async for seq, payload in self._messages("COMMANDS"):
            try:
                self._put("COMMANDS", seq, CommandFrames.decode(payload))
            except DamagedRecord as damaged:
                self._refuse("COMMANDS", seq, damaged)

    async def ends(self) -> dict[str, int]:
        """Return the sequence of the newest message of this shard that each stream still holds; 0: it holds none.

        A position beyond its stream's end is of a stream that was made anew, and begins at 0 again. Raises Unavailable.
        """
        ends = {}
        for stream, subject in self._subject_of_stream.items():
            ends[stream] = await self._bus.last_seq_of(stream, subject)
            if self.positions[stream] > await self._bus.last_seq(stream):
                self.positions[stream] = 0
        return ends

    def drain(self) -> Recorded:
        """Take all that waits and move the positions past it."""
        taken = Recorded(arrivals=[], requests=[], registry=[], frames=[])
        lists: dict[str, Any] = {
            "READINGS": taken.arrivals,
            "REQUESTS": taken.requests,
            "REGISTRY": taken.registry,
            "COMMANDS": taken.frames,
        }
        for name, items in lists.items():
            waiting = self._waiting[name]
            while waiting:
                seq, item = waiting.popleft()
                self.positions[name] = seq
                if item is not None:
                    items.append(item)
        self._has_room.set()
        return taken

    async def wait_past(self, targets: dict[str, int]) -> None:
        """Return when everything up to ``targets`` waits or is drained, or when the inbox is full."""
        while self._has_room.is_set() and any(self._reached(name) < seq for name, seq in targets.items()):
            self._arrived.clear()
            await self._arrived.wait()

    def is_past(self, targets: dict[str, int]) -> bool:
        """Return True if everything up to ``targets`` has been drained."""
        return all(self.positions[name] >= seq for name, seq in targets.items())

    async def _messages(self, stream: str) -> AsyncIterator[tuple[int, bytes]]:
        subject = self._subject_of_stream[stream]
        async for seq, payload in self._bus.replay(stream, subject, self.positions[stream] + 1):
            await self._has_room.wait()
            yield seq, payload

    def _put(self, stream: str, seq: int, item: object) -> None:
        waiting = self._waiting[stream]
        waiting.append((seq, item))
        if len(waiting) >= WAITING_MAX:
            self._has_room.clear()
        self._arrived.set()

    def _refuse(self, stream: str, seq: int, damaged: Exception) -> None:
        """A message that no code of ours wrote: count it, say so, go on behind it."""
        self.n_damaged += 1
        self._put(stream, seq, None)
        log.error("damaged message refused", extra={"stream": stream, "seq": seq, "why": str(damaged)})

    def _reached(self, name: str) -> int:
        waiting = self._waiting[name]
        return waiting[-1][0] if waiting else self.positions[name]

    def _receipt_ns(self, known_ns: int) -> int:
        """Return the monotonic instant at which the front knew it: now, less the age that its wall instant shows."""
        age_ns = max(0, self._clock.wall_ns() - known_ns)
        return self._clock.monotonic_ns() - age_ns
