"""The recorder: outcomes become records: a row per dispatch and cycle, entries of the event log, states of dispatches.

One message is one transaction, with the stream's position and the shard's (epoch, cycle) in it, so that a message which
comes again, from the stream or from its sender, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from unisono.base.clock import Clock
from unisono.base.errors import Conflict, Unavailable
from unisono.bus.connection import Bus
from unisono.bus.consumers import Durable, KeptMessage
from unisono.model.totals import OutcomeBatch
from unisono.services.historian import position_name
from unisono.services.pace import Backoff
from unisono.services.told_once import news
from unisono.store import dispatches, event_log, positions
from unisono.store.database import Database

log = logging.getLogger(__name__)

_FETCH_S: Final = 1.0
# Cycles written in one transaction at most: catching up after an outage goes at some 2,000 cycles a second.
_FETCH_MESSAGES: Final = 100
_ACK_WAIT_S: Final = 600.0


@dataclass(slots=True)
class RecorderCounters:
    """What happened since the process's start."""

    n_messages: int = 0
    n_repeated: int = 0
    n_damaged: int = 0
    n_cycles: int = 0
    n_entries: int = 0
    seq: int = 0


async def run(bus: Bus, database: Database, clock: Clock, *, counters: RecorderCounters | None = None) -> None:
    """Record until cancelled; what is not committed stays on the stream."""
    recorder = Recorder(bus, database, clock, counters or RecorderCounters())
    backoff = Backoff("recording")
    try:
        while True:
            try:
                await recorder.step()
                backoff.succeeded()
            except (Unavailable, Conflict) as wrong:
                await recorder.close()
                await backoff.failed(wrong)
    finally:
        await recorder.close()


class Recorder:
    """The reader of OUTCOMES; ``step`` records what is there."""

    def __init__(self, bus: Bus, database: Database, clock: Clock, counters: RecorderCounters) -> None:
        self._bus, self._database, self._clock, self.counters = bus, database, clock, counters
        self._durable: Durable | None = None
        self._consumer = ""
        self._seq = 0
        # A gap that was still there when the stream was read anew: those messages are gone.
        self._gap_at = -1

    async def step(self, wait_s: float = _FETCH_S) -> int:
        """Record what is there, then acknowledge it; return how many messages that were. Raises Unavailable."""
        if self._durable is None or not self._bus.is_connected:
            self._durable = await self._open()
        messages = await self._durable.fetch(_FETCH_MESSAGES, wait_s)
        new = [message for message in messages if message.seq > self._seq]
        self.counters.n_repeated += len(messages) - len(new)
        if new:
            expected = range(self._seq + 1, self._seq + 1 + len(new))
            if [message.seq for message in new] != list(expected) and self._gap_at != self._seq + 1:
                # Read anew from the position; what is still missing then is gone from the stream.
                self._gap_at = self._seq + 1
                await self.close()
                return 0
            await asyncio.to_thread(self._record, new)
            self._seq = self.counters.seq = new[-1].seq
        if messages:
            await self._durable.ack(messages)
        return len(new)

    async def close(self) -> None:
        """Let go of the stream; the next step opens it again at the position."""
        durable, self._durable = self._durable, None
        if durable is not None:
            await durable.close()

    async def _open(self) -> Durable:
        await self.close()
        self._consumer = await position_name(self._bus, "recorder", "OUTCOMES")
        first, last = await self._bus.seq_bounds("OUTCOMES")
        self._seq = await asyncio.to_thread(self._settle_position, first, last)
        durable = self._bus.durable("OUTCOMES", "outcomes.*.*", "recorder", ack_through=True, ack_wait_s=_ACK_WAIT_S)
        await durable.delete()
        await durable.ensure(self._seq + 1)
        return durable

    def _settle_position(self, first: int, last: int) -> int:
        with self._database.begin() as connection:
            position = positions.get(connection, self._consumer)
            start = max(min(position, last), first - 1)
            if start != position:
                log.error("OUTCOMES holds %d to %d, the position was %d", first, last, position)
                positions.reset_to(connection, self._consumer, start)
            return start

    def _record(self, messages: Sequence[KeptMessage]) -> None:
        with self._database.begin() as connection:
            for message in messages:
                try:
                    batch = msgspec.msgpack.decode(message.payload, type=OutcomeBatch)
                except msgspec.DecodeError as wrong:
                    self.counters.n_damaged += 1
                    log.warning("outcome %d is left out: %s", message.seq, wrong)
                    continue
                # Cycles of one owner come in order; one that is not newer was sent twice.
                of_owner = f"outcomes.{batch.shard}.{batch.epoch}"
                if not positions.advance(connection, of_owner, batch.cycle + 1):
                    self.counters.n_repeated += 1
                    continue
                self.counters.n_cycles += dispatches.record_progress(connection, batch.progress)
                new = news(connection, batch.log)
                event_log.append(connection, new)
                self.counters.n_entries += len(new)
            if not positions.advance(connection, self._consumer, messages[-1].seq):
                raise Conflict("stream position", self._consumer, "was moved by another recorder")
        self.counters.n_messages += len(messages)
