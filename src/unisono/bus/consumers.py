"""Reading streams by pulling: an ordered replay that goes on live, and a durable place with acknowledgements.

Both pull over one inbox of their own (``_Pull``): messages are handed over as they come, never waiting for a batch
to fill, and never more than asked for, so that a slow reader holds nobody up.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from unisono.base.errors import Unavailable
from unisono.base.instants import NS_PER_S
from unisono.bus.client import NatsClient

log = logging.getLogger(__name__)

# Fetching 500 at a time replays 10 M readings/s (measured); more only costs memory.
PULL_MESSAGES: Final = 500
PULL_BYTES: Final = 64 << 20
# How long one pull stands on the server before it is asked anew; bounds how long a lost consumer goes unnoticed.
PULL_EXPIRES_S: Final = 5.0
# A reader whose process died leaves a consumer that the server drops after this time.
INACTIVE_S: Final = 30.0
RETRY_S: Final = 0.25


class Connection(Protocol):
    """What reading needs of ``connection.Bus``."""

    client: NatsClient
    # Called after each reconnection: whatever stood open on the server is lost.
    back_listeners: set[Callable[[], None]]

    @property
    def is_connected(self) -> bool:
        """Whether the server is there."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether it is over for good."""
        ...

    async def wait_connected(self, timeout_s: float) -> None:
        """Return when the server is there, else raise Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class KeptMessage:
    """A message of a stream: its sequence there, how often it was delivered, its subject and bytes."""

    seq: int
    n_deliveries: int
    subject: str
    payload: bytes
    reply: str


class _Gone(Exception):
    """The consumer is no longer on the server; make it again."""


class _Pull:
    """Standing requests for messages of one consumer."""

    def __init__(self, bus: Connection, stream: str, consumer: str) -> None:
        self._bus = bus
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = bus.client.new_inbox()
        self._arrived: deque[Msg] = deque()
        self._news = asyncio.Event()
        self._n_open = 0
        self._open_until_s = 0.0
        self._is_gone = False
        self._subscription: object | None = None

    async def start(self) -> None:
        self._bus.back_listeners.add(self._ask_anew)
        self._subscription = await self._bus.client.subscribe(
            self._inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def stop(self) -> None:
        self._bus.back_listeners.discard(self._ask_anew)
        if self._subscription is not None and not self._bus.is_closed:
            try:
                await self._subscription.unsubscribe()  # type: ignore[attr-defined]
            except (nats.errors.Error, OSError) as wrong:
                log.debug("unsubscribing from %s: %s", self._inbox, wrong)

    async def take(self, n_max: int, wait_s: float) -> list[Msg]:
        """Return what is there, at most ``n_max``, waiting up to ``wait_s`` for the first. Raises _Gone."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        while not self._arrived:
            if self._is_gone:
                raise _Gone
            now_s = loop.time()
            if now_s >= until_s:
                return []
            if self._n_open <= 0 or now_s >= self._open_until_s:
                await self._ask(n_max, now_s)
            self._news.clear()
            # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes together with the news.
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(until_s, self._open_until_s)):
                    await self._news.wait()
        return [self._arrived.popleft() for _ in range(min(n_max, len(self._arrived)))]

    def _ask_anew(self) -> None:
        self._n_open = 0
        self._news.set()

    async def _ask(self, n_max: int, now_s: float) -> None:
        body = {"batch": n_max, "expires": int(PULL_EXPIRES_S * NS_PER_S), "max_bytes": PULL_BYTES}
        self._n_open = n_max
        self._open_until_s = now_s + PULL_EXPIRES_S + 1.0
        await self._bus.client.publish(self._subject, json.dumps(body).encode(), reply=self._inbox)

    async def _on_message(self, message: Msg) -> None:
        status = message.headers.get("Status") if message.headers and not message.reply else None
        if status is None:
            self._n_open -= 1
            self._arrived.append(message)
        elif status != "100":
            self._n_open = 0
            told = (message.headers or {}).get("Description", "").lower()
            # 503: nobody answers for this consumer; 409: it was deleted (others: the request ran out, or was too big).
            self._is_gone = self._is_gone or status == "503" or (status == "409" and "deleted" in told)
        self._news.set()


class StreamReader:
    """An ordered replay from a sequence, then live, for ever; a lost consumer or a gap is mended by starting anew.

    A stream that ends before the sequence to go on from is another one of that name: it is read from its start.
    """

    def __init__(
        self, bus: Connection, stream: str, subject: str, *, from_seq: int, since_ns: int | None = None
    ) -> None:
        self._bus, self._stream, self._subject = bus, stream, subject
        self._next_seq = max(from_seq, 1)
        self._since_ns = since_ns
        self._delivered = 0
        self._pull: _Pull | None = None

    async def one_by_one(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (sequence, payload) for ever."""
        while True:
            for message in await self.take(PULL_MESSAGES, wait_s=PULL_EXPIRES_S):
                yield message.seq, message.payload

    async def take(self, n_max: int, wait_s: float) -> list[KeptMessage]:
        """Return the next messages in order, waiting up to ``wait_s`` for the first; [] when none came.

        Raises Unavailable only when the connection is closed for good.
        """
        try:
            if self._pull is None:
                await self._begin()
            assert self._pull is not None
            messages = [_kept(message) for message in await self._pull.take(n_max, wait_s)]
            return await self._in_order(messages)
        except (_Gone, nats.errors.Error, OSError, TimeoutError) as wrong:
            if self._bus.is_closed:
                raise Unavailable("NATS", "the connection is closed") from wrong
            await self._drop()
            await asyncio.sleep(min(RETRY_S, wait_s))
            return []

    async def close(self) -> None:
        """Stop pulling."""
        await self._drop()

    async def _begin(self) -> None:
        by_time = self._since_ns is not None
        await self._bus.wait_connected(PULL_EXPIRES_S)
        if not by_time:
            last_seq = int((await self._bus.client.jetstream().stream_info(self._stream)).state.last_seq)
            if self._next_seq > last_seq + 1:
                log.warning(
                    "stream %s ends at %d, before %d: it was made anew, and is read from its start",
                    self._stream, last_seq, self._next_seq,
                )  # fmt: skip
                self._next_seq = 1
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_TIME if by_time else DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=None if by_time else self._next_seq,
            opt_start_time=datetime.fromtimestamp((self._since_ns or 0) / NS_PER_S, UTC) if by_time else None,
            ack_policy=AckPolicy.NONE,
            filter_subject=self._subject,
            inactive_threshold=INACTIVE_S,
            mem_storage=True,
        )
        made = await self._bus.client.jetstream().add_consumer(self._stream, config)
        self._delivered = 0
        self._pull = _Pull(self._bus, self._stream, made.name)
        await self._pull.start()

    async def _in_order(self, messages: list[KeptMessage]) -> list[KeptMessage]:
        for at, message in enumerate(messages):
            if _consumer_seq(message.reply) != self._delivered + 1:
                # Something was lost on the way (a reconnection): go on behind the last one that came in order.
                await self._drop()
                return messages[:at]
            self._delivered += 1
            self._next_seq = message.seq + 1
            self._since_ns = None
        return messages

    async def _drop(self) -> None:
        if self._pull is not None:
            pull, self._pull = self._pull, None
            await pull.stop()


class Durable:
    """A named place in a stream; fetch, work, acknowledge. Two processes may share one unless ``ack_through``."""

    def __init__(
        self, bus: Connection, stream: str, subject: str, name: str, *, ack_through: bool, ack_wait_s: float
    ) -> None:
        self._bus, self._stream, self._subject, self.name = bus, stream, subject, name
        self._ack_through = ack_through
        self._ack_wait_s = ack_wait_s
        self._pull: _Pull | None = None
        # Deliveries seen so far; None: not known, since another process may have begun.
        self._delivered: int | None = None

    async def ensure(self, start_seq: int | None = None) -> None:
        """Create it on the server when it is not there; from then on messages are kept for it. Raises Unavailable."""
        await self._bus.wait_connected(PULL_EXPIRES_S)
        config = ConsumerConfig(
            durable_name=self.name,
            deliver_policy=DeliverPolicy.ALL if start_seq is None else DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=start_seq,
            ack_policy=AckPolicy.ALL if self._ack_through else AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait_s,
            max_ack_pending=200_000 if self._ack_through else 20_000,
            filter_subject=self._subject,
        )
        jetstream = self._bus.client.jetstream()
        try:
            try:
                found = await jetstream.consumer_info(self._stream, self.name)
                assert found.config.filter_subject == self._subject, f"durable {self.name} filters something else"
            except nats.js.errors.NotFoundError:
                await jetstream.add_consumer(self._stream, config)
                self._delivered = 0
        except (nats.errors.Error, OSError, TimeoutError) as wrong:
            raise Unavailable(f"stream {self._stream}", f"{type(wrong).__name__} {wrong}") from wrong

    async def fetch(self, n_max: int = PULL_MESSAGES, wait_s: float = 1.0) -> list[KeptMessage]:
        """Return up to ``n_max`` messages, waiting up to ``wait_s`` for the first. Raises Unavailable.

        With ``ack_through`` also when a delivery was lost on the way (a reconnection): to acknowledge what follows
        would cover it too, so the reader must begin a new place behind ``ack_floor``.
        """
        try:
            if self._pull is None:
                await self.ensure()
                self._pull = _Pull(self._bus, self._stream, self.name)
                await self._pull.start()
            messages = await self._pull.take(n_max, wait_s)
            if self._ack_through:
                self._check_gap(messages)
            return [_kept(message) for message in messages]
        except (_Gone, nats.errors.Error, OSError, TimeoutError) as wrong:
            if self._pull is not None:
                pull, self._pull = self._pull, None
                await pull.stop()
            raise Unavailable(f"durable {self.name}", type(wrong).__name__) from wrong

    def _check_gap(self, messages: Sequence[Msg]) -> None:
        for message in messages:
            delivered = _consumer_seq(message.reply)
            if self._delivered is not None and delivered != self._delivered + 1:
                raise Unavailable(f"durable {self.name}", "a delivery was lost on the way")
            self._delivered = delivered

    async def ack(self, messages: Sequence[KeptMessage]) -> None:
        """Tell the server that these are done (with ``ack_through`` only the last is told). Raises Unavailable."""
        if not self._bus.is_connected:
            raise Unavailable("NATS", "not connected")
        try:
            for message in messages[-1:] if self._ack_through else messages:
                await self._bus.client.publish(message.reply, b"+ACK")
        except (nats.errors.Error, OSError) as wrong:
            raise Unavailable("NATS", type(wrong).__name__) from wrong

    async def ack_floor(self) -> int | None:
        """Return the stream sequence up to which everything is acknowledged; None: there is no such durable."""
        try:
            found = await self._bus.client.jetstream().consumer_info(self._stream, self.name)
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, OSError, TimeoutError) as wrong:
            raise Unavailable(f"durable {self.name}", type(wrong).__name__) from wrong
        return int(found.ack_floor.stream_seq) if found.ack_floor else 0

    async def delete(self) -> None:
        """Give the place up; messages are no longer kept for it. Nothing happens when it is not there."""
        await self.close()
        try:
            await self._bus.client.jetstream().delete_consumer(self._stream, self.name)
        except nats.js.errors.NotFoundError:
            return
        except (nats.errors.Error, OSError, TimeoutError) as wrong:
            raise Unavailable(f"durable {self.name}", type(wrong).__name__) from wrong

    async def close(self) -> None:
        """Stop pulling; the place stays on the server."""
        if self._pull is not None:
            pull, self._pull = self._pull, None
            await pull.stop()


def _kept(message: Msg) -> KeptMessage:
    # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>...; with a domain two tokens more in front.
    tokens = message.reply.split(".")
    at = 4 if len(tokens) == 9 else 6
    return KeptMessage(int(tokens[at + 1]), int(tokens[at]), message.subject, message.data, message.reply)


def _consumer_seq(reply: str) -> int:
    tokens = reply.split(".")
    return int(tokens[6 if len(tokens) == 9 else 8])
