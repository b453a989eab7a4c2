"""One connection to NATS: publish, publish and know it kept, ask and answer, read a stream.

It reconnects for ever. While NATS is away, calls wait up to their timeout and then raise ``Unavailable``; no exception
of the client library leaves this module. Reading streams is in ``consumers``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from unisono.base.errors import Unavailable
from unisono.bus.client import NatsClient
from unisono.bus.consumers import Durable, StreamReader
from unisono.bus.subjects import STREAMS, Stream

log = logging.getLogger(__name__)

# A silent server is noticed after two missed pings: well within the 10 s for which leases bridge an outage.
PING_INTERVAL_S = 5
# Fast enough that a restarted server (0.5 s) is found at once; connection refused costs nothing.
RECONNECT_WAIT_S = 0.25
PUBLISH_TIMEOUT_S = 5.0

Handler = Callable[[str, bytes], Awaitable[None]]
Answerer = Callable[[bytes], Awaitable[bytes]]


async def connect(url: str, user: str = "", password: str = "", name: str = "unisono", timeout_s: float = 10.0) -> Bus:
    """Return a live connection; raises Unavailable when none is made within ``timeout_s`` or the login is refused."""
    bus = Bus(NatsClient())
    with translated("NATS"):
        async with asyncio.timeout(timeout_s):
            await bus.client.connect(
                url,
                user=user or None,
                password=password or None,
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds; the library only sleeps on it
                connect_timeout=2,
                ping_interval=PING_INTERVAL_S,
                max_outstanding_pings=2,
                error_cb=bus.note_error,
                disconnected_cb=bus.note_lost,
                reconnected_cb=bus.note_back,
                closed_cb=bus.note_closed,
            )
    bus.mark_connected()
    return bus


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the client library's and the socket's exceptions into Unavailable."""
    try:
        yield
    except (nats.errors.Error, OSError, TimeoutError) as wrong:
        raise Unavailable(what, f"{type(wrong).__name__} {wrong}".strip()) from wrong


class Bus:
    """What services and the web talk through. Make it with ``connect``; use it from one event loop."""

    def __init__(self, client: NatsClient) -> None:
        self.client = client
        self._jetstream = client.jetstream(timeout=PUBLISH_TIMEOUT_S)
        self._connected = asyncio.Event()
        self._is_closing = False
        self.back_listeners: set[Callable[[], None]] = set()

    @property
    def is_connected(self) -> bool:
        """Whether the server is there at this moment."""
        return self._connected.is_set()

    @property
    def is_closed(self) -> bool:
        """Whether this connection is over for good (closed by us, or its login was withdrawn)."""
        return bool(self.client.is_closed)

    async def close(self) -> None:
        """Close the connection; what was published is flushed first if the server is there."""
        self._is_closing = True
        if self.client.is_closed:
            return
        with translated("NATS"):
            if self.is_connected:
                await self.client.flush(2.0)
            await self.client.close()

    async def ensure_streams(self, streams: tuple[Stream, ...] = STREAMS) -> None:
        """Create the streams that are not there yet and bring the others to their declared bounds."""
        await self.wait_connected(PUBLISH_TIMEOUT_S)
        with translated("JetStream"):
            for stream in streams:
                config = StreamConfig(
                    name=stream.name,
                    subjects=list(stream.subjects),
                    retention=RetentionPolicy.LIMITS,
                    storage=StorageType.FILE,
                    max_bytes=stream.bytes_max,
                    max_age=float(stream.age_max_s),
                    # A registry that forgot its oldest record would be wrong in silence; a full one refuses.
                    discard=DiscardPolicy.OLD if stream.age_max_s or stream.name != "REGISTRY" else DiscardPolicy.NEW,
                    duplicate_window=120,
                )
                try:
                    await self._jetstream.add_stream(config)
                except nats.js.errors.BadRequestError:
                    # It is there with other bounds.
                    await self._jetstream.update_stream(config)

    async def publish(self, subject: str, payload: bytes) -> None:
        """Send without any promise; raises Unavailable at once while the server is away (nothing is sent later)."""
        if not self.is_connected:
            raise Unavailable("NATS", "not connected")
        with translated("NATS"):
            await self.client.publish(subject, payload)

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send many (subject, payload) like ``publish``, some MiB at a time; some may have left at Unavailable."""
        if not self.is_connected:
            raise Unavailable("NATS", "not connected")
        with translated("NATS"):
            await self.client.publish_all(messages)

    async def flush(self, timeout_s: float = 2.0) -> None:
        """Return when the server has taken everything that was published so far."""
        with translated("NATS"):
            await self.client.flush(timeout_s)

    async def publish_kept(
        self, subject: str, payload: bytes, message_id: str | None = None, timeout_s: float = PUBLISH_TIMEOUT_S
    ) -> int:
        """Return the stream sequence under which the message is now kept.

        With a ``message_id`` a repetition within two minutes is dropped by the server and returns the first sequence.
        After Unavailable the message may or may not be on the stream: repeat it with the same id.
        """
        await self.wait_connected(timeout_s)
        headers = None if message_id is None else {"Nats-Msg-Id": message_id}
        with translated(f"stream of {subject}"):
            answer = await self.client.request(subject, payload, timeout_s, headers=headers)
        return _kept_seq(subject, answer.data)

    async def request(self, subject: str, payload: bytes, timeout_s: float = 2.0) -> bytes:
        """Return the answer of whoever serves ``subject``; raises Unavailable when nobody does, or too late."""
        await self.wait_connected(timeout_s)
        with translated(subject):
            return bytes((await self.client.request(subject, payload, timeout_s)).data)

    async def serve(self, subject: str, answerer: Answerer, queue: str = "") -> Subscribed:
        """Answer each request on ``subject`` with what ``answerer`` returns; of one ``queue`` one server does."""

        async def on_request(message: Msg) -> None:
            answer = await answerer(message.data)
            if message.reply:
                await self.client.publish(message.reply, answer)

        with translated("NATS"):
            return await self._subscribed(subject, queue, on_request)

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscribed:
        """Call ``handler(subject, payload)`` for each message that passes from now on (no promise, in order)."""

        async def on_message(message: Msg) -> None:
            await handler(message.subject, message.data)

        with translated("NATS"):
            return await self._subscribed(subject, queue, on_message)

    async def _subscribed(self, subject: str, queue: str, on_message: Callable[[Msg], Awaitable[None]]) -> Subscribed:
        subscription = await self.client.subscribe(subject, queue=queue, cb=on_message)
        # A round trip: when it returns, the server has the subscription too.
        await self.client.flush(2.0)
        return Subscribed(subscription)

    def replay(
        self, stream: str, subject: str, from_seq: int, since_ns: int | None = None
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (sequence, payload) of every message from ``from_seq`` on (or since that instant), then live, for ever.

        In order and without gaps as far as the stream still holds them, across reconnections.
        """
        return self.reader(stream, subject, from_seq, since_ns).one_by_one()

    def reader(self, stream: str, subject: str, from_seq: int, since_ns: int | None = None) -> StreamReader:
        """Return the same as ``replay`` for those who want whole lists at once."""
        return StreamReader(self, stream, subject, from_seq=from_seq, since_ns=since_ns)

    def durable(
        self, stream: str, subject: str, name: str, *, ack_through: bool = False, ack_wait_s: float = 30.0
    ) -> Durable:
        """Return a named place in a stream, remembered by the server; what was not acknowledged comes again.

        ``ack_through``: an acknowledgement covers everything before it too (cheap for bulk; one process only).
        """
        return Durable(self, stream, subject, name, ack_through=ack_through, ack_wait_s=ack_wait_s)

    async def last_seq(self, stream: str) -> int:
        """Return the sequence of the stream's newest message; 0 when there never was one."""
        return (await self.seq_bounds(stream))[1]

    async def last_seq_of(self, stream: str, subject: str) -> int:
        """Return the sequence of the newest message that the stream holds of a subject (or pattern); 0: none."""
        await self.wait_connected(PUBLISH_TIMEOUT_S)
        with translated(f"stream {stream}"):
            try:
                newest = await self._jetstream.get_last_msg(stream, subject)
            except nats.js.errors.NotFoundError:
                # The stream is there, or `stream_info` says that it is not.
                await self._jetstream.stream_info(stream)
                return 0
        return int(newest.seq or 0)

    async def seq_bounds(self, stream: str) -> tuple[int, int]:
        """Return the sequences of the oldest and the newest message of the stream."""
        await self.wait_connected(PUBLISH_TIMEOUT_S)
        with translated(f"stream {stream}"):
            state = (await self._jetstream.stream_info(stream)).state
        return int(state.first_seq), int(state.last_seq)

    async def size_bytes(self, stream: str) -> int:
        """Return how much the stream holds."""
        await self.wait_connected(PUBLISH_TIMEOUT_S)
        with translated(f"stream {stream}"):
            return int((await self._jetstream.stream_info(stream)).state.bytes)

    async def trim(self, stream: str, below_seq: int) -> None:
        """Let go of every message before ``below_seq``: its readers are past them."""
        await self.wait_connected(PUBLISH_TIMEOUT_S)
        with translated(f"stream {stream}"):
            await self._jetstream.purge_stream(stream, seq=below_seq)

    async def wait_connected(self, timeout_s: float) -> None:
        """Return when the server is there; raises Unavailable after ``timeout_s`` or when closed for good."""
        if self._connected.is_set():
            return
        if self.is_closed:
            raise Unavailable("NATS", "the connection is closed")
        with translated("NATS"):
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()

    def mark_connected(self) -> None:
        """Note that the server is there."""
        self._connected.set()

    async def note_lost(self) -> None:
        """The client library lost the server; it goes on trying."""
        if self._connected.is_set() and not self._is_closing:
            log.warning("NATS lost")
        self._connected.clear()

    async def note_back(self) -> None:
        """The client library has the server again."""
        log.warning("NATS is back")
        self._connected.set()
        for listener in tuple(self.back_listeners):
            listener()

    async def note_closed(self) -> None:
        """The client library gave up for good: the login was refused, or we closed."""
        self._connected.clear()
        if not self._is_closing:
            log.error("NATS closed the connection for good: %s", self.client.last_error)

    async def note_error(self, wrong: Exception) -> None:
        """An error outside of any call: loss and return are logged elsewhere, so only a live connection's is told."""
        if self._connected.is_set() and not self._is_closing:
            log.warning("NATS: %s %s", type(wrong).__name__, wrong)


class _Kept(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None


def _kept_seq(subject: str, answer: bytes) -> int:
    try:
        kept = msgspec.json.decode(answer, type=_Kept)
    except msgspec.DecodeError as wrong:
        raise Unavailable(f"stream of {subject}", f"its answer can't be read: {wrong}") from wrong
    if kept.error is not None:
        raise Unavailable(f"stream of {subject}", str(kept.error.get("description", kept.error)))
    return kept.seq


class Subscribed:
    """A running subscription; ``stop`` ends it."""

    def __init__(self, subscription: object) -> None:
        self._subscription = subscription

    async def stop(self) -> None:
        """End the subscription."""
        with translated("NATS"):
            await self._subscription.unsubscribe()  # type: ignore[attr-defined]
