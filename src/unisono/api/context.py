"""What the API is given: the database, the bus, the picture, a clock; and the bounded way to block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Protocol, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from sqlalchemy import Connection
from starlette.types import ASGIApp

from unisono.base.clock import Clock
from unisono.base.errors import TooMany, Unavailable
from unisono.engines.room import Room
from unisono.services.picture import Asker, Picture
from unisono.store.database import Database

T = TypeVar("T")

# Fewer than the pool has connections (8): the relay, the alarms and the job worker need theirs too.
THREADS: Final = 4
# Requests that may wait for a thread; at some 5 ms each the last one waits about 0.2 s, beyond that we say so.
WAITING_MAX: Final = 256
# A database that hangs without closing its connections is told to the caller before his own patience (30 s) ends.
ANSWER_S: Final = 20.0


class Bus(Asker, Protocol):
    """The part of the bus that the API needs."""

    @property
    def is_connected(self) -> bool:
        """Whether the server is there at this moment."""
        ...


class HistoryReader(Protocol):
    """What history can be asked; instants are half-open bounds. Blocking: called in a thread."""

    def device_commands(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> Sequence[dict[str, Any]]:
        """Return the newest ``limit`` commands issued to a device, oldest first, with their answers.

        Keys: at_ns, epoch, seq, kind, value, start_ns, expires_ns, dispatch_id, ack_code, answered_ns.
        """
        ...

    def device_readings(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> Sequence[dict[str, Any]]:
        """Return up to ``limit`` readings measured in the window, oldest first."""
        ...

    def device_rollup(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> Sequence[dict[str, Any]]:
        """Return up to ``limit`` quarter-hours that begin in the window, oldest first."""
        ...

    def portfolio_rollup(self, device_nos: Sequence[int], start_ns: int, end_ns: int) -> Sequence[dict[str, Any]]:
        """Return the quarter-hours of these devices together, oldest first."""
        ...

    def device_readings_count(self, device_no: int, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Return how many readings were kept, and the instant of the newest (-1: none)."""
        ...

    def through_ns(self, kind: str) -> int:
        """Return the instant up to which history is written for "commands" or "readings"; -1: nothing yet."""
        ...


@dataclass(kw_only=True)
class ApiContext:
    """Everything that the routes need; made once in ``main``."""

    database: Database
    bus: Bus
    picture: Picture
    clock: Clock
    version: str
    # Raw ASGI app for telemetry push and command fetching; None: not served here.
    telemetry: ASGIApp | None = None
    history: HistoryReader | None = None
    instance: str = "web"
    # The disk of our own engines; None: they are the operator's.
    room: Callable[[], Room] | None = None
    # Set when a job was queued, so that the worker need not wait for its next look.
    job_news: asyncio.Event = field(default_factory=asyncio.Event)
    n_streams: int = 0
    _limiter: anyio.CapacityLimiter | None = None
    _n_waiting: int = 0
    _working: set[asyncio.Task[Any]] = field(default_factory=set)

    async def run(self, work: Callable[[Connection], T], timeout_s: float = ANSWER_S) -> T:
        """Run ``work`` in one transaction in one of a bounded number of threads; raises as `in_thread`."""

        def in_transaction() -> T:
            with self.database.begin() as connection:
                return work(connection)

        return await self.in_thread(in_transaction, timeout_s)

    async def in_thread(self, work: Callable[[], T], timeout_s: float = ANSWER_S) -> T:
        """Run blocking ``work`` in one of the bounded threads; it is finished even when the caller goes away.

        Raises Unavailable after ``timeout_s``: what has begun by then still goes on, what waits is not begun any more;
        TooMany when too many wait.
        """
        if self._n_waiting >= WAITING_MAX:
            raise TooMany("requests that wait for a thread", WAITING_MAX, retry_after_s=1.0)
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(THREADS)
        late = Unavailable("PostgreSQL", f"no answer within {timeout_s:g} s")
        is_given_up = threading.Event()

        def unless_given_up() -> T:
            if is_given_up.is_set():
                raise late
            return work()

        self._n_waiting += 1
        working = asyncio.create_task(anyio.to_thread.run_sync(unless_given_up, limiter=self._limiter))
        self._working.add(working)
        working.add_done_callback(self._note_done)
        finished, _ = await asyncio.wait({working}, timeout=timeout_s)
        if not finished:
            is_given_up.set()
            raise late
        return working.result()

    def _note_done(self, working: asyncio.Task[Any]) -> None:
        self._working.discard(working)
        self._n_waiting -= 1
        if not working.cancelled():
            # Seen, also when nobody waits for it any more.
            working.exception()


def context_of(request: Request) -> ApiContext:
    """Return the context that the app was made with."""
    context = request.app.state.context
    assert isinstance(context, ApiContext)
    return context


Context = Annotated[ApiContext, Depends(context_of)]
