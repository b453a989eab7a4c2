"""Publishes what the outbox holds onto its streams, in order, once and only once as far as streams can tell.

One relay at a time in the whole platform: it holds a PostgreSQL advisory lock for as long as its session lives, so
that another process takes over within a second of its death. A crash between publishing and marking publishes again
with the same message id: the stream drops the repetition (within two minutes), and receivers are idempotent anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import Connection, text

from unisono.base.clock import Clock
from unisono.base.errors import Unavailable
from unisono.base.instants import NS_PER_S
from unisono.services.registry_compaction import Compaction, Stream
from unisono.store import outbox
from unisono.store.database import Database

log = logging.getLogger(__name__)

# Any number, the same for all relays of one database.
RELAY_LOCK: Final = 7_233_002
# A request reaches its shard this much after its commit at worst; ten small indexed queries a second cost nothing.
POLL_S: Final = 0.1
# While a stream or PostgreSQL is away: first try again soon (a restart takes 0.5 s), then every 2 s.
BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 2.0
# Rows a round: bounds the transaction and the memory (a registry message has 0.7 MB, and may have 6 MB).
ROWS_PER_ROUND: Final = 20
# Published rows stay for a day, for a look at what happened; the streams hold the messages themselves.
KEEP_PUBLISHED_S: Final = 24 * 3600
PRUNE_EVERY_S: Final = 600


class Publisher(Protocol):
    """The part of the bus that the relay needs."""

    async def publish_kept(self, subject: str, payload: bytes, message_id: str | None = None) -> int:
        """Return the stream sequence under which the message is now kept."""
        ...


@dataclass
class RelayState:
    """What health and metrics show of the relay."""

    is_leader: bool = False
    n_published: int = 0
    problem: str = ""


class _Standby(Exception):
    """Another process relays."""


class Relay:
    """One relay: ``round`` publishes what waits; ``run`` calls it for ever."""

    def __init__(
        self,
        database: Database,
        bus: Publisher,
        clock: Clock,
        state: RelayState | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self.state = state or RelayState()
        self._lock: ExitStack | None = None
        self._lock_connection: Connection | None = None
        self._pruned_ns = clock.monotonic_ns()
        self._compaction = compaction
        self._compacting: asyncio.Task[bool] | None = None

    async def round(self) -> int:
        """Publish what waits, oldest first, and mark it; return how many. Stops at the first that can't be published.

        Raises Unavailable when a stream or the database is away; what was published before is marked.
        """
        rows = await asyncio.to_thread(self._waiting)
        published: list[int] = []
        try:
            for row in rows:
                await self._bus.publish_kept(row.subject, row.payload, message_id=row.message_id)
                published.append(row.outbox_id)
        finally:
            if published:
                await asyncio.shield(asyncio.to_thread(self._mark, published))
                self.state.n_published += len(published)
        return len(published)

    async def run(self) -> None:
        """Relay until cancelled."""
        backoff_s = BACKOFF_MIN_S
        try:
            while True:
                try:
                    n_published = await self.round()
                    self.state.problem = ""
                    backoff_s = BACKOFF_MIN_S
                    await asyncio.sleep(0 if n_published == ROWS_PER_ROUND else POLL_S)
                    await self._prune_now_and_then()
                except _Standby:
                    self.state.is_leader = False
                    await asyncio.sleep(1.0)
                except Unavailable as away:
                    if str(away) != self.state.problem:
                        log.warning("the outbox waits", extra={"why": str(away)})
                    self.state.problem = str(away)
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
        finally:
            if self._compacting is not None:
                self._compacting.cancel()
            await asyncio.shield(asyncio.to_thread(self.release))

    def release(self) -> None:
        """Give the lock back."""
        lock, self._lock, self._lock_connection = self._lock, None, None
        self.state.is_leader = False
        if lock is not None:
            _quietly(lock.close)

    def _waiting(self) -> list[outbox.OutboxRow]:
        connection = self._locked()
        try:
            # The lock lives in this transaction; reading here proves that it is still ours.
            return outbox.waiting(connection, ROWS_PER_ROUND)
        except Exception as wrong:
            lock, self._lock, self._lock_connection = self._lock, None, None
            self.state.is_leader = False
            if lock is not None:
                # The database rolls back, and says the same in our words.
                lock.__exit__(type(wrong), wrong, wrong.__traceback__)
            raise

    def _locked(self) -> Connection:
        if self._lock_connection is not None:
            return self._lock_connection
        with ExitStack() as stack:
            connection = stack.enter_context(self._database.begin())
            # The transaction stands for as long as we lead; else the server would end it after a minute's pause.
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            statement = text("SELECT pg_try_advisory_xact_lock(:key)")
            if not connection.execute(statement, {"key": RELAY_LOCK}).scalar_one():
                raise _Standby
            self._lock_connection = connection
            self._lock = stack.pop_all()
        self.state.is_leader = True
        log.info("relaying the outbox")
        return connection

    def _mark(self, outbox_ids: list[int]) -> None:
        with self._database.begin() as connection:
            outbox.mark_published(connection, outbox_ids, self._clock.wall_ns())

    async def _prune_now_and_then(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._pruned_ns >= PRUNE_EVERY_S * NS_PER_S:
            self._pruned_ns = now_ns
            await asyncio.to_thread(self._prune)
            if self._compaction is not None and self._compacting is None:
                # Beside the rounds: requests need not wait for it.
                self._compacting = asyncio.create_task(self._compaction.look())
        if self._compacting is not None and self._compacting.done():
            compacting, self._compacting = self._compacting, None
            compacting.result()

    def _prune(self) -> None:
        with self._database.begin() as connection:
            outbox.prune(connection, self._clock.wall_ns() - KEEP_PUBLISHED_S * NS_PER_S)


def _quietly(close: Callable[[], None]) -> None:
    try:
        close()
    except Unavailable as away:
        log.debug("the lock's session is gone already: %s", away)


async def run(database: Database, bus: Stream, clock: Clock, state: RelayState | None = None) -> None:
    """Relay the outbox until cancelled; waits in standby while another process does it."""
    await Relay(database, bus, clock, state, Compaction(database, bus, clock)).run()
