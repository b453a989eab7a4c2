"""The ASGI application behind ``/v1/telemetry``, ``/v1/acks`` and ``/v1/commands``, and its link.

``Authorization: Bearer <gateway_id>.<secret>``; 202 comes after the stream's acknowledgement; errors are problem+json
(RFC 9457) that name field, value and rule. Nothing of a body is kept when it is refused as a whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from unisono.base.clock import Clock
from unisono.base.errors import InvalidInput, NotFound, TooMany, Unavailable, UnisonoError
from unisono.base.problems import MEDIA_TYPE, MethodNotAllowed, Told, Unauthenticated, told_of
from unisono.links.contract import (
    UNIT_OF_FIELD,
    Addressed,
    CommandWay,
    Handed,
    Intake,
    Manifest,
    Promise,
    Quality,
    Sign,
)
from unisono.links.http_push.held import HeldCommands
from unisono.links.http_push.slow_bodies import BODY_TIMEOUT_S, SlowBodies
from unisono.links.http_push.together import SMALL_BYTES, Together
from unisono.links.identity import GatewayEntry
from unisono.links.reception import Reception
from unisono.wire.acks import decode_acks
from unisono.wire.packed import decode_packed
from unisono.wire.rules import RowError
from unisono.wire.telemetry import decode_batch, decode_ndjson

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_BYTES_MAX: Final = 4 << 20
# Requests being read or kept at a time, and the bytes that their bodies may have: small ones are many, large ones few.
IN_FLIGHT_MAX: Final = 1024
IN_FLIGHT_BYTES_MAX: Final = 256 << 20
ROW_ERRORS_MAX: Final = 1000
NEEDS: Final = "needs the header Authorization: Bearer <gateway_id>.<secret>, of a gateway that is not revoked"

MANIFEST: Final = Manifest(
    name="http",
    title="HTTP push and fetch",
    protocol="HTTP/1.1",
    unit_of_field=UNIT_OF_FIELD,
    sign=Sign.INTO_GRID,
    quality=Quality.DEVICE,
    promise_of_way={"POST /v1/telemetry": Promise.ACKNOWLEDGED_IS_KEPT, "POST /v1/acks": Promise.ACKNOWLEDGED_IS_KEPT},
    command_way=CommandWay.FETCHED,
    telemetry_period_min_s=1.0,
    # As long as the gateway's own fetching period.
    command_latency_s=10.0,
    command_latency_worst_s=60.0,
    body_bytes_max=BODY_BYTES_MAX,
)

_DECODERS: Final = {
    "application/json": decode_batch,
    "application/x-ndjson": decode_ndjson,
    "application/vnd.unisono.packed": decode_packed,
}
_JSON: Final = msgspec.json.Encoder()


class TelemetryApp:
    """Raw ASGI: mount it, or run it alone. Answers only the three paths; others are 404."""

    def __init__(self, reception: Reception, intake: Intake, held: HeldCommands, clock: Clock) -> None:
        self._reception = reception
        self._intake = intake
        self._held = held
        self._clock = clock
        self._together = Together(reception, intake, clock)
        self._slow_bodies = SlowBodies()
        self._n_in_flight = self._n_bytes_in_flight = 0
        self._routes = {
            ("POST", "/v1/telemetry"): self._telemetry,
            ("POST", "/v1/acks"): self._acks,
            ("GET", "/v1/commands"): self._commands,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (or the server's lifespan)."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            status, body = await self._answer(scope, receive)
            await _respond(send, status, body)
        except UnisonoError as wrong:
            told = problem_of(wrong)
            headers = [(name.lower().encode(), value.encode()) for name, value in told.headers.items()]
            await _respond(send, told.status, _JSON.encode(told.body(scope["path"])), headers, MEDIA_TYPE.encode())
        except _Disconnected:
            return

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        path = scope["path"]
        handler = self._routes.get((scope["method"], path))
        if handler is None:
            if allowed := [method for method, known in self._routes if path == known]:
                raise MethodNotAllowed(scope["method"], allowed)
            raise NotFound("path", path)
        if not self._reception.identity.is_complete.is_set():
            # Who is told now that his devices are unknown would believe it, and let their readings go.
            raise Unavailable("telemetry intake", "the registry is being read")
        headers = {name: value for name, value in scope["headers"]}  # noqa: C416 - a later one wins
        gateway = self._authenticated(headers.get(b"authorization", b""))
        declared = headers.get(b"content-length", b"")
        n_bytes = min(int(declared), BODY_BYTES_MAX) if declared.isdigit() else BODY_BYTES_MAX
        if self._n_in_flight >= IN_FLIGHT_MAX or self._n_bytes_in_flight + n_bytes > IN_FLIGHT_BYTES_MAX:
            raise Unavailable("telemetry intake", f"{self._n_in_flight} requests are in progress")
        self._n_in_flight += 1
        self._n_bytes_in_flight += n_bytes
        try:
            return await handler(gateway, scope, headers, receive)
        finally:
            self._n_in_flight -= 1
            self._n_bytes_in_flight -= n_bytes

    def _authenticated(self, header: bytes) -> GatewayEntry:
        scheme, _, token = header.decode("latin-1").partition(" ")
        gateway_id, _, secret = token.strip().partition(".")
        entry = self._reception.identity.authenticate(gateway_id, secret) if scheme.lower() == "bearer" else None
        if entry is None:
            raise Unauthenticated(NEEDS)
        return entry

    async def _telemetry(
        self, gateway: GatewayEntry, scope: Scope, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, bytes]:
        media_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        decode = _DECODERS.get(media_type)
        if decode is None:
            raise UnsupportedMedia(media_type)
        self._refuse_flood(gateway.gateway_no)
        body = await _body(headers, receive, self._slow_bodies)
        is_packed = body[:3] == b"UPK"
        if len(body) <= SMALL_BYTES and decode is (decode_packed if is_packed else decode_batch):
            n_kept = await self._together.keep(gateway.gateway_no, body)
            if n_kept is not None:
                self._owe(gateway.gateway_no, n_kept)
                return 202, b'{"accepted":%d,"rejected":[]}' % n_kept
        try:
            decoded = decode(body, gateway.gateway_no, self._reception.identity, self._clock.wall_ns())
        except InvalidInput:
            self._reception.tally.add_message(gateway.gateway_no, "malformed")
            raise
        if len(decoded.batch):
            await self._intake.keep(decoded.batch)
        # Counted only now: what was not kept comes again.
        self._reception.readings(decoded, gateway.gateway_no)
        self._owe(gateway.gateway_no, len(decoded.batch))
        return 202, _JSON.encode({"accepted": len(decoded.batch), "rejected": _told(decoded.rejected)})

    def _refuse_flood(self, gateway_no: int) -> None:
        """Raise TooMany when the gateway has sent more than it may; a request that is let in may go beyond it."""
        allowances = self._reception.allowances
        wait_s = 0 if allowances is None else allowances.wait_s(gateway_no)
        if allowances is not None and wait_s:
            self._reception.tally.add_message(gateway_no, "rate_limited")
            raise TooMany("readings of this gateway a second", int(allowances.per_s(gateway_no)), wait_s)

    def _owe(self, gateway_no: int, n_readings: int) -> None:
        if self._reception.allowances is not None:
            self._reception.allowances.owe(gateway_no, n_readings)

    async def _acks(
        self, gateway: GatewayEntry, scope: Scope, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, bytes]:
        body = await _body(headers, receive, self._slow_bodies)
        acks = decode_acks(body, gateway.gateway_no, self._reception.identity, self._clock.wall_ns())
        if len(acks.batch):
            await self._intake.keep(acks.batch)
        self._reception.tally.add_errors(gateway.gateway_no, acks.rejected)
        return 202, _JSON.encode({"accepted": len(acks.batch), "rejected": _told(acks.rejected)})

    async def _commands(
        self, gateway: GatewayEntry, scope: Scope, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, bytes]:
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        text = query.get("after", ["0"])[-1]
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise InvalidInput("after", text, "must be the `next` of an earlier answer, or 0")
        return 200, self._held.fetch(gateway.gateway_no, int(text), self._clock.wall_ns())


class HttpPushLink:
    """The link's side for services: messages are held until they are fetched."""

    manifest = MANIFEST

    def __init__(self, held: HeldCommands) -> None:
        self._held = held
        self.is_up = True

    async def run(self) -> None:
        """Wait: the web server that runs ``TelemetryApp`` does the work."""
        await asyncio.Event().wait()

    async def deliver(self, messages: Sequence[Addressed], cursor: int) -> list[Handed]:
        """Hold them for their gateways."""
        for _, message in messages:
            self._held.hold(message, cursor)
        return [Handed.HELD] * len(messages)


class _Disconnected(Exception):
    """The client went away in the middle of its body."""


class UnsupportedMedia(InvalidInput):
    """A body in a form that readings don't come in."""

    def __init__(self, media_type: str) -> None:
        super().__init__("Content-Type", media_type, "must be one of " + ", ".join(_DECODERS))


async def _body(headers: dict[bytes, bytes], receive: Receive, slow_bodies: SlowBodies) -> bytes:
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > BODY_BYTES_MAX:
        raise TooMany("bytes of a body", BODY_BYTES_MAX)
    parts: list[bytes] = []
    n_bytes = 0
    try:
        async with slow_bodies:
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise _Disconnected
                part = event.get("body", b"")
                n_bytes += len(part)
                if n_bytes > BODY_BYTES_MAX:
                    raise TooMany("bytes of a body", BODY_BYTES_MAX)
                parts.append(part)
                if not event.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as late:
        raise InvalidInput("body", n_bytes, f"must arrive within {BODY_TIMEOUT_S:.0f} s") from late


def _told(errors: tuple[RowError, ...]) -> list[dict[str, object]]:
    return [
        {"row": error.row, "field": error.field, "value": error.value, "rule": error.rule}
        for error in errors[:ROW_ERRORS_MAX]
    ]


def problem_of(wrong: UnisonoError) -> Told:
    """Return the problem that an error is answered with: that of the API, with this port's status for a bad body."""
    told = told_of(wrong)
    assert told is not None, "an error that is answered"
    match wrong:
        case UnsupportedMedia():
            return told._replace(status=415)
        case InvalidInput():
            return told._replace(status=400)
        case _:
            return told


async def _respond(
    send: Send,
    status: int,
    body: bytes,
    headers: list[tuple[bytes, bytes]] | None = None,
    media_type: bytes = b"application/json",
) -> None:
    length = str(len(body)).encode()
    all_headers = [(b"content-type", media_type), (b"content-length", length), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return
