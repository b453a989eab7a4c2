"""Command frames and lease renewals: columns of one shard's cycle -> one JSON message a gateway, and back.

JSON speaks milliseconds and lower-case names; see ``docs`` for the two shapes. ``type`` tells them apart where both
travel in one list (HTTP fetch); over MQTT the topic does too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import Final, TypeVar

import msgspec
import numpy as np

from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_MS
from unisono.model.batches import CommandFrames
from unisono.model.technology import CommandKind, Fallback

T = TypeVar("T")

# A frame of 2,000 commands is some 300 kB of JSON: far below any broker's message limit.
COMMANDS_PER_FRAME_MAX: Final = 2000
AT_ONCE_MS: Final = 0

NAME_OF_KIND: Final = {int(kind): kind.name.lower() for kind in CommandKind}
KIND_OF_NAME: Final = {name: code for code, name in NAME_OF_KIND.items()}
NAME_OF_FALLBACK: Final = {int(fallback): fallback.name.lower() for fallback in Fallback}
FALLBACK_OF_NAME: Final = {name: code for code, name in NAME_OF_FALLBACK.items()}


class CommandMessage(msgspec.Struct, frozen=True, gc=False):
    """One device's command; ``value`` is watts into the grid, kelvin or a level, by ``kind``.

    ``start_ms`` 0: at once.
    """

    no: int
    seq: int
    kind: str
    value: int | float
    start_ms: int
    expires_ms: int
    ttl_s: float
    fallback: str


class Frame(msgspec.Struct, frozen=True, tag_field="type", tag="frame"):
    """Commands for devices behind one gateway."""

    epoch: int
    issued_ms: int
    commands: tuple[CommandMessage, ...]


class Renewal(msgspec.Struct, frozen=True, tag_field="type", tag="renewal"):
    """Renew, for another ttl of its own, every unexpired lease with seq <= ``through_seq``."""

    epoch: int
    through_seq: int
    issued_ms: int
    expires_ms: int


class FetchedFrames(msgspec.Struct, frozen=True):
    """What ``GET /v1/commands`` answers: frames and renewals in order, and the cursor to come back with."""

    frames: tuple[Frame | Renewal, ...]
    next: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for one gateway."""

    gateway_no: int
    message: Frame | Renewal


_ENCODER: Final = msgspec.json.Encoder()


def messages_of(frames: CommandFrames, now_ns: int) -> list[Outgoing]:
    """Return the messages, renewals last per gateway; rows that expired by ``now_ns`` are left out."""
    alive = np.flatnonzero(frames.expires_ns > now_ns)
    order = alive[np.argsort(frames.gateway_no[alive], kind="stable")]
    if order.size == 0:
        return []
    cuts = np.flatnonzero(np.diff(frames.gateway_no[order])) + 1
    return [out for rows in np.split(order, cuts) for out in _of_gateway(frames, rows)]


def encode(message: Frame | Renewal) -> bytes:
    """Return the message's JSON."""
    return _ENCODER.encode(message)


def encode_fetched(fetched: FetchedFrames) -> bytes:
    """Return the JSON of an answer to a fetch."""
    return _ENCODER.encode(fetched)


def decode_frame(payload: bytes) -> Frame:
    """Return the frame a gateway received; raises InvalidInput."""
    return _decode(payload, Frame)


def decode_renewal(payload: bytes) -> Renewal:
    """Return the renewal a gateway received; raises InvalidInput."""
    return _decode(payload, Renewal)


def decode_fetched(payload: bytes) -> FetchedFrames:
    """Return what a gateway fetched; raises InvalidInput."""
    return _decode(payload, FetchedFrames)


def _of_gateway(frames: CommandFrames, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Iterator[Outgoing]:
    gateway_no = int(frames.gateway_no[rows[0]])
    issued_ms = frames.issued_ns // NS_PER_MS
    is_renewal = frames.device_no[rows] == -1
    commands = rows[~is_renewal]
    for start in range(0, commands.size, COMMANDS_PER_FRAME_MAX):
        part = commands[start : start + COMMANDS_PER_FRAME_MAX]
        yield Outgoing(gateway_no, Frame(frames.epoch, issued_ms, tuple(_commands(frames, part))))
    for row in rows[is_renewal]:
        expires_ms = int(frames.expires_ns[row]) // NS_PER_MS
        yield Outgoing(gateway_no, Renewal(frames.epoch, int(frames.seq[row]), issued_ms, expires_ms))


def _commands(frames: CommandFrames, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Iterator[CommandMessage]:
    columns = zip(
        frames.device_no[rows].tolist(),
        frames.seq[rows].tolist(),
        frames.kind[rows].tolist(),
        frames.value[rows].tolist(),
        (frames.start_ns[rows] // NS_PER_MS).tolist(),
        (frames.expires_ns[rows] // NS_PER_MS).tolist(),
        frames.ttl_s[rows].tolist(),
        frames.fallback[rows].tolist(),
        strict=True,
    )
    issued_ms = frames.issued_ns // NS_PER_MS
    for no, seq, kind, value, start_ms, expires_ms, ttl_s, fallback in columns:
        # Whole watts travel as integers; a missing value (RELEASE) as 0, since JSON knows no NaN.
        plain = 0 if isnan(value) else int(value) if value.is_integer() else value
        yield CommandMessage(
            no,
            seq,
            NAME_OF_KIND[kind],
            plain,
            # A receiver whose clock is behind must not wait for an instant that is past.
            start_ms if start_ms > issued_ms else AT_ONCE_MS,
            expires_ms,
            ttl_s,
            NAME_OF_FALLBACK[fallback],
        )


def _decode(payload: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise InvalidInput("body", payload[:80], f"is no {kind.__name__}: {wrong}") from wrong
