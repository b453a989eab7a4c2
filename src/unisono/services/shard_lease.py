"""The right to command a shard: a lease in PostgreSQL with a growing epoch, kept while it can be renewed."""

from __future__ import annotations

import asyncio
import logging

from unisono.base.clock import Clock
from unisono.base.errors import Unavailable, UnisonoError
from unisono.base.instants import NS_PER_S
from unisono.store import leases
from unisono.store.database import Database

log = logging.getLogger(__name__)


class LostLease(UnisonoError):
    """The lease could not be renewed within its bound: this owner must stop commanding at once."""

    def __init__(self, shard: int, epoch: int) -> None:
        super().__init__(f"the lease of shard {shard} (epoch {epoch}) is lost; this owner stops")
        self.shard = shard
        self.epoch = epoch


class ShardLease:
    """Held from ``acquire`` until ``keep`` raises LostLease; its end is judged on the monotonic clock."""

    def __init__(self, database: Database, clock: Clock, *, shard: int, owner: str, duration_s: float) -> None:
        self._database = database
        self._clock = clock
        self._shard = shard
        self._owner = owner
        self._duration_s = duration_s
        self._ends_monotonic_ns = 0
        self.epoch = 0

    async def acquire(self) -> int:
        """Wait until the shard is free (or its last owner's lease is over) and return the new epoch."""
        while True:
            asked_ns = self._clock.monotonic_ns()
            try:
                epoch = await asyncio.to_thread(self._try_acquire)
            except Unavailable as away:
                log.warning("the lease's database is away", extra={"why": str(away)})
                epoch = None
            if epoch is not None:
                self.epoch = epoch
                self._ends_monotonic_ns = asked_ns + round(self._duration_s * NS_PER_S)
                log.info("shard acquired", extra={"shard": self._shard, "epoch": epoch})
                return epoch
            await asyncio.sleep(1.0)

    def is_held(self) -> bool:
        """Return True while commanding is allowed, whatever the database says meanwhile."""
        return self._clock.monotonic_ns() < self._ends_monotonic_ns

    async def keep(self) -> None:
        """Renew at a sixth of the duration; raise LostLease when another owns it or the bound is reached."""
        is_database_away = False
        while True:
            await asyncio.sleep(self._duration_s / 6)
            asked_ns = self._clock.monotonic_ns()
            try:
                async with asyncio.timeout(self._duration_s / 6):
                    is_ours = await asyncio.to_thread(self._try_renew)
            except (Unavailable, TimeoutError) as away:
                if not is_database_away:
                    log.warning("the lease can't be renewed", extra={"why": str(away) or "no answer in time"})
                is_database_away = True
                if not self.is_held():
                    raise LostLease(self._shard, self.epoch) from away
                continue
            if is_database_away:
                log.info("the lease is renewed again", extra={"shard": self._shard})
                is_database_away = False
            if not is_ours:
                raise LostLease(self._shard, self.epoch)
            self._ends_monotonic_ns = asked_ns + round(self._duration_s * NS_PER_S)

    async def release(self) -> None:
        """Give the shard up, so that a successor need not wait; an absent database is no reason to fail."""
        try:
            async with asyncio.timeout(2.0):
                await asyncio.to_thread(self._try_release)
        except (Unavailable, TimeoutError) as away:
            why = str(away) or "no answer in time"
            log.warning("the lease was not released; it runs out by itself", extra={"why": why})

    def _try_acquire(self) -> int | None:
        with self._database.begin() as connection:
            return leases.acquire(connection, self._shard, self._owner, self._duration_s)

    def _try_renew(self) -> bool:
        with self._database.begin() as connection:
            return leases.renew(connection, self._shard, self._owner, self.epoch, self._duration_s)

    def _try_release(self) -> None:
        with self._database.begin() as connection:
            leases.release(connection, self._shard, self._owner, self.epoch)
