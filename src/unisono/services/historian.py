"""The historian: what flows past on READINGS and COMMANDS becomes history, each message exactly once.

The position in PostgreSQL, moved in the transaction that shows the files, is the truth; the stream's own place only
says how far we are. At each start, and after whatever looks odd, the stream is read anew from the position. While
PostgreSQL or NATS is away nothing is lost: what is not in a committed file is still on the stream.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from unisono.base.clock import Clock
from unisono.base.errors import Conflict, DamagedRecord, Unavailable
from unisono.base.instants import NS_PER_S
from unisono.bus.connection import Bus, translated
from unisono.bus.consumers import Durable, KeptMessage
from unisono.model.batches import CommandFrames, decode_incoming
from unisono.services.pace import Backoff
from unisono.store import dispatches, positions
from unisono.store.database import Database
from unisono.store.history import compaction, retention
from unisono.store.history.kinds import NS_PER_DAY
from unisono.store.history.objects import ObjectStore
from unisono.store.history.writer import Batch, Segment, commit_segment, write_segment

log = logging.getLogger(__name__)

# How long one fetch waits for the first message: the grain at which ages are looked at.
_FETCH_S: Final = 0.5
# Messages taken at once, and held before a flush is due whatever their rows (the server allows 200,000 unacknowledged).
_FETCH_MESSAGES: Final = 500
_HELD_MESSAGES_MAX: Final = 50_000
# Acknowledgements come after a flush, later than any sensible ack_wait: repetition is by position, not by time.
_ACK_WAIT_S: Final = 600.0
_CONNECT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorianSettings:
    """How much is held back before a file is written, and how often the house is put in order."""

    # A million readings take some 120 MB until they are in a file.
    flush_rows: int = 1_000_000
    # A crash costs no reading, only that this much is read again; shorter makes more and smaller files.
    readings_age_s: float = 30.0
    commands_age_s: float = 10.0
    upkeep_s: float = 60.0
    compaction: compaction.CompactionPolicy = field(default_factory=compaction.CompactionPolicy)
    # Days by kind, where they differ from ``store.history.kinds``; 0 keeps for ever.
    retention_days: dict[str, int] = field(default_factory=dict)
    # Days after its end for which a dispatch's outcome stays in PostgreSQL; 0 keeps for ever.
    outcomes_days: int = 0


@dataclass(slots=True)
class HistorianCounters:
    """What happened since the process's start."""

    n_messages: int = 0
    n_repeated: int = 0
    n_damaged: int = 0
    # Messages that the stream let go of before we read them: its bound was too small, or it was set back.
    n_lost: int = 0
    n_files: int = 0
    n_rows: int = 0
    n_bytes: int = 0
    n_merged: int = 0
    n_expired: int = 0
    n_swept: int = 0
    n_outcomes_expired: int = 0
    seq_of_stream: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Intake:
    """One stream that the historian keeps."""

    stream: str
    subject: str
    decode: Callable[[bytes], Batch]


READINGS: Final = Intake("READINGS", "readings.*", decode_incoming)
COMMANDS: Final = Intake("COMMANDS", "commands.*.*", CommandFrames.decode)


async def run(
    bus: Bus,
    database: Database,
    store: ObjectStore,
    clock: Clock,
    *,
    settings: HistorianSettings | None = None,
    counters: HistorianCounters | None = None,
) -> None:
    """Keep history until cancelled; on cancellation what is held stays on the stream."""
    settings, counters = settings or HistorianSettings(), counters or HistorianCounters()
    ages = ((READINGS, settings.readings_age_s), (COMMANDS, settings.commands_age_s))
    async with asyncio.TaskGroup() as group:
        for intake, age_s in ages:
            keeper = StreamKeeper(bus, database, store, clock, intake, rows_max=settings.flush_rows, age_s=age_s)
            keeper.counters = counters
            group.create_task(_keep(keeper), name=f"historian {intake.stream}")
        group.create_task(_upkeep(database, store, clock, settings, counters), name="historian upkeep")


class StreamKeeper:
    """One stream on its way into files. ``step`` fetches and, when it is time, flushes; one caller at a time."""

    def __init__(
        self,
        bus: Bus,
        database: Database,
        store: ObjectStore,
        clock: Clock,
        intake: Intake,
        *,
        rows_max: int,
        age_s: float,
    ) -> None:
        self.counters = HistorianCounters()
        self._bus, self._database, self._store, self._clock, self._intake = bus, database, store, clock, intake
        self._rows_max, self._age_s = rows_max, age_s
        self._durable: Durable | None = None
        self.stream = intake.stream
        self._consumer = ""
        # Everything up to `_kept_seq` is in committed files, everything from there to `_seq` is held.
        self._kept_seq = self._seq = 0
        # A gap that was still there when the stream was read anew: those messages are gone.
        self._gap_at = -1
        self._held = _Held()

    async def step(self, wait_s: float = _FETCH_S) -> int:
        """Take what is there, flush if it is time, and return how many messages were taken. Raises Unavailable."""
        if self._durable is None or not self._bus.is_connected:
            self._durable = await self._open()
        if self._is_full():
            # The last flush failed: what we hold is bounded, the rest waits on the stream.
            await self.flush()
        try:
            messages = await self._durable.fetch(_FETCH_MESSAGES, wait_s)
            n_taken = sum(self._take(message) for message in messages)
        except (Unavailable, Gap):
            # Read anew from the position; what we held is still on the stream.
            await self.close()
            raise
        if self._is_due():
            await self.flush()
        return n_taken

    async def flush(self) -> None:
        """Put what is held into files, commit, then acknowledge. Raises Unavailable and holds it still."""
        held = self._held
        if held.last is None:
            return
        mark = held.digest.hexdigest()[:12]
        segment = Segment(self._consumer, mark, self._kept_seq + 1, self._seq, tuple(held.batches))
        try:
            await asyncio.to_thread(self._commit, segment)
        except Conflict:
            await self.close()
            raise
        self._kept_seq = segment.seq_last
        self.counters.seq_of_stream[self.stream] = segment.seq_last
        self._forget()
        if self._durable is not None:
            await self._durable.ack([held.last])

    async def close(self) -> None:
        """Let go of what is held and of the stream; the next step opens it again at the position."""
        self._forget()
        durable, self._durable = self._durable, None
        if durable is not None:
            await durable.close()

    async def _open(self) -> Durable:
        await self.close()
        self._consumer = await position_name(self._bus, "historian", self.stream)
        bounds = await self._bus.seq_bounds(self.stream)
        position, n_lost = await asyncio.to_thread(self._settle_position, *bounds)
        if n_lost:
            self.counters.n_lost += n_lost
            log.error("%s: %d messages were gone before history had them", self.stream, n_lost)
        durable = self._bus.durable(
            self.stream,
            self._intake.subject,
            f"historian-{self.stream.lower()}",
            ack_through=True,
            ack_wait_s=_ACK_WAIT_S,
        )
        await durable.delete()
        await durable.ensure(position + 1)
        self._kept_seq = self._seq = position
        self.counters.seq_of_stream[self.stream] = position
        return durable

    def _settle_position(self, first: int, last: int) -> tuple[int, int]:
        """Return where to go on and how many messages went unread; the stream holds ``first`` to ``last``."""
        with self._database.begin() as connection:
            position = positions.get(connection, self._consumer)
            if position > last:
                # The stream was set back (a power cut): the numbers in between are given out again.
                log.error("%s ends at %d, before the position %d: beginning there", self.stream, last, position)
                position = last
                positions.reset_to(connection, self._consumer, position)
            start = max(position, first - 1)
            n_lost = start - position if position else 0
            if start > position:
                positions.reset_to(connection, self._consumer, start)
            return start, n_lost

    def _take(self, message: KeptMessage) -> bool:
        if message.seq <= self._seq:
            self.counters.n_repeated += 1
            return False
        if message.seq > self._seq + 1 and self._gap_at != self._seq + 1:
            self._gap_at = self._seq + 1
            raise Gap(self.stream, self._seq + 1, message.seq)
        self.counters.n_lost += message.seq - self._seq - 1
        self._seq = message.seq
        held = self._held
        if held.last is None:
            held.since_ns = self._clock.monotonic_ns()
        held.last = message
        held.digest.update(message.payload)
        held.n_messages += 1
        self.counters.n_messages += 1
        try:
            batch = self._intake.decode(message.payload)
            shard = int(message.subject.split(".")[1])
        except (DamagedRecord, ValueError) as wrong:
            self.counters.n_damaged += 1
            log.warning("%s message %d is left out: %s", self.stream, message.seq, wrong)
            return True
        held.batches.append((shard, batch))
        held.n_rows += len(batch)
        return True

    def _is_due(self) -> bool:
        held = self._held
        if held.last is None:
            return False
        return self._is_full() or self._clock.monotonic_ns() - held.since_ns >= self._age_s * NS_PER_S

    def _is_full(self) -> bool:
        return self._held.n_rows >= self._rows_max or self._held.n_messages >= _HELD_MESSAGES_MAX

    def _commit(self, segment: Segment) -> None:
        files = write_segment(self._store, segment)
        with self._database.begin() as connection:
            commit_segment(connection, segment, files, self._clock.wall_ns())
        self.counters.n_files += len(files)
        self.counters.n_rows += sum(file.n_rows for file in files)
        self.counters.n_bytes += sum(file.n_bytes for file in files)

    def _forget(self) -> None:
        self._seq = self._kept_seq
        self._held = _Held()


@dataclass(slots=True)
class _Held:
    """What was taken since the last commit."""

    batches: list[tuple[int, Batch]] = field(default_factory=list)
    n_rows: int = 0
    n_messages: int = 0
    since_ns: int = 0
    last: KeptMessage | None = None
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


class Gap(Exception):
    """Messages are missing between two that came: lost on the way to us, or gone from the stream."""

    def __init__(self, stream: str, expected_seq: int, came_seq: int) -> None:
        super().__init__(f"{stream}: expected {expected_seq}, came {came_seq}")


async def position_name(bus: Bus, reader: str, stream: str) -> str:
    """Return the name under which a reader's position in a stream is kept.

    It holds the instant at which the stream was made: in one made anew (a restore, a lost disk) numbers begin at 1.
    """
    await bus.wait_connected(_CONNECT_S)
    with translated(f"stream {stream}"):
        made_at = (await bus.client.jetstream().stream_info(stream)).created
    assert made_at is not None, "a stream knows when it was made"
    return f"{reader}.{stream}.{made_at:%Y%m%dT%H%M%S.%f}"


async def _keep(keeper: StreamKeeper) -> None:
    backoff = Backoff(f"history of {keeper.stream}")
    try:
        while True:
            try:
                await keeper.step()
                backoff.succeeded()
            except (Unavailable, Conflict, Gap) as wrong:
                await backoff.failed(wrong)
    finally:
        await keeper.close()


async def _upkeep(
    database: Database, store: ObjectStore, clock: Clock, settings: HistorianSettings, counters: HistorianCounters
) -> None:
    backoff = Backoff("history's upkeep")
    while True:
        await asyncio.sleep(settings.upkeep_s)
        try:
            await asyncio.to_thread(keep_house, database, store, clock, settings, counters)
            backoff.succeeded()
        except (Unavailable, Conflict) as wrong:
            await backoff.failed(wrong)


def keep_house(
    database: Database, store: ObjectStore, clock: Clock, settings: HistorianSettings, counters: HistorianCounters
) -> None:
    """Merge what is to be merged, one bounded step after the other, then let go of what is too old."""
    damaged: set[tuple[str, int, int]] = set()
    while True:
        with database.begin() as connection:
            step = compaction.next_step(connection, clock.wall_ns(), settings.compaction, frozenset(damaged))
        if step is None:
            break
        try:
            written = compaction.merge_files(store, step)
        except DamagedRecord as wrong:
            # Its day stays as it is, for `log verify` to tell; the others go on.
            damaged.add((step.kind.name, step.shard, step.day))
            log.warning("not merged: %s", wrong)
            continue
        with database.begin() as connection:
            compaction.commit_merge(connection, step, written, clock.wall_ns())
        counters.n_merged += len(step.files)
    with database.begin() as connection:
        counters.n_expired += retention.expire(connection, clock.wall_ns(), settings.retention_days)
        counters.n_swept += retention.sweep(connection, store, clock.wall_ns())
    if settings.outcomes_days:
        now_ns = clock.wall_ns()
        with database.begin() as connection:
            counters.n_outcomes_expired += dispatches.forget_outcomes(
                connection, now_ns - settings.outcomes_days * NS_PER_DAY, now_ns
            )
