"""Command frames and lease renewals: columns of one shard's cycle -> one JSON message a gateway, and back.

JSON speaks milliseconds and lower-case names; see ``docs`` for the two shapes. ``type`` tells them apart where both
travel in one list (HTTP fetch); over MQTT the topic does too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isnan
from typing import Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_MS
from unisono.model.batches import CommandFrames
from unisono.model.technology import CommandKind, Fallback
from unisono.wire.framebuffer import Columns, is_plain, write_frames
from unisono.wire.topics import Down

T = TypeVar("T")
Rows = NDArray[np.intp]

# A frame of 2,000 commands is some 300 kB of JSON: far below any broker's message limit.
COMMANDS_PER_FRAME_MAX: Final = 2000
AT_ONCE_MS: Final = 0
U2_MAX: Final = 0xFFFF

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


class Frame(msgspec.Struct, frozen=True, tag_field="type", tag="frame", omit_defaults=True):
    """Commands for devices behind one gateway. Epochs are compared within a shard; one that is not told is 0."""

    epoch: int
    issued_ms: int
    commands: tuple[CommandMessage, ...]
    shard: int = 0


class Renewal(msgspec.Struct, frozen=True, tag_field="type", tag="renewal", omit_defaults=True):
    """Renew, for another ttl of its own, every unexpired lease of this epoch with seq <= ``through_seq``."""

    epoch: int
    through_seq: int
    issued_ms: int
    expires_ms: int
    shard: int = 0


class FetchedFrames(msgspec.Struct, frozen=True):
    """What ``GET /v1/commands`` answers: frames and renewals in order, and the cursor to come back with."""

    frames: tuple[Frame | Renewal, ...]
    next: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for one gateway, ready to be sent; from ``expires_ms`` on nothing in it holds any more."""

    gateway_no: int
    what: Down
    epoch: int
    expires_ms: int
    payload: bytes
    shard: int = 0


_ENCODER: Final = msgspec.json.Encoder()


def messages_of(frames: CommandFrames, now_ns: int, is_wanted: Callable[[int], bool] | None = None) -> list[Outgoing]:
    """Return the messages by gateway, its renewals last; rows that expired by ``now_ns`` are left out.

    ``is_wanted`` is asked once of each gateway number whether it is to get anything. Costs some 250 ns a command
    (measured), and 20 ns one that is for nobody.
    """
    is_due = frames.expires_ns > now_ns
    if is_wanted is not None:
        wanted = [gateway_no for gateway_no in np.unique(frames.gateway_no).tolist() if is_wanted(gateway_no)]
        if not wanted:
            return []
        is_due &= np.isin(frames.gateway_no, wanted)
    rows = np.flatnonzero(is_due)
    is_renewal = frames.device_no[rows] == -1
    renewals = [_renewal(frames, row) for row in rows[is_renewal].tolist()]
    messages = [*_frames(frames, rows[~is_renewal]), *renewals]
    return sorted(messages, key=_gateway_no) if renewals else messages


def encode(message: Frame | Renewal) -> bytes:
    """Return the message's JSON."""
    return _ENCODER.encode(message)


def encode_fetched(messages: Iterable[Outgoing], cursor: int) -> bytes:
    """Return the JSON of an answer to a fetch."""
    return b'{"frames":[%b],"next":%d}' % (b",".join(message.payload for message in messages), cursor)


def outgoing(gateway_no: int, message: Frame | Renewal) -> Outgoing:
    """Return the message for that gateway."""
    if isinstance(message, Renewal):
        return Outgoing(gateway_no, Down.RENEWAL, message.epoch, message.expires_ms, encode(message), message.shard)
    expires_ms = max((command.expires_ms for command in message.commands), default=0)
    return Outgoing(gateway_no, Down.FRAME, message.epoch, expires_ms, encode(message), message.shard)


def decode_frame(payload: bytes) -> Frame:
    """Return the frame a gateway received; raises InvalidInput."""
    return _decode(payload, Frame)


def decode_renewal(payload: bytes) -> Renewal:
    """Return the renewal a gateway received; raises InvalidInput."""
    return _decode(payload, Renewal)


def decode_fetched(payload: bytes) -> FetchedFrames:
    """Return what a gateway fetched; raises InvalidInput."""
    return _decode(payload, FetchedFrames)


def _gateway_no(message: Outgoing) -> int:
    return message.gateway_no


def _renewal(frames: CommandFrames, row: int) -> Outgoing:
    expires_ms = int(frames.expires_ns[row]) // NS_PER_MS
    renewal = Renewal(frames.epoch, int(frames.seq[row]), frames.issued_ns // NS_PER_MS, expires_ms, frames.shard)
    return outgoing(int(frames.gateway_no[row]), renewal)


def _frames(frames: CommandFrames, rows: Rows) -> list[Outgoing]:
    """Return frames of these commands by gateway, each in the order of its rows."""
    if rows.size == 0:
        return []
    rows = rows[_order(frames.gateway_no[rows])]
    firsts, ends = _cuts(frames.gateway_no[rows])
    # Decoding gives views at odd places of a message; gathering makes them arrays of their own.
    columns = Columns(*(getattr(frames, name)[rows] for name in Columns._fields))
    is_plain_frame = np.logical_and.reduceat(is_plain(columns), firsts)
    plain, odd = np.flatnonzero(is_plain_frame), np.flatnonzero(~is_plain_frame)
    head = encode(Frame(frames.epoch, frames.issued_ns // NS_PER_MS, ())).removesuffix(b"]}")
    if frames.shard:
        head = head.replace(b'"frame",', b'"frame","shard":%d,' % frames.shard, 1)
    payloads = dict(
        zip(plain.tolist(), write_frames(head, columns, firsts[plain], ends[plain], frames.issued_ns), strict=True)
    )
    payloads |= {k: encode(frame_of(frames, rows[firsts[k] : ends[k]])) for k in odd.tolist()}
    expires_ms = np.maximum.reduceat(columns.expires_ns, firsts) // NS_PER_MS
    columns_of_frames = zip(
        frames.gateway_no[rows[firsts]].tolist(), expires_ms.tolist(), range(firsts.size), strict=True
    )
    return [
        Outgoing(gateway, Down.FRAME, frames.epoch, until_ms, payloads[k], frames.shard)
        for gateway, until_ms, k in columns_of_frames
    ]


def _order(gateway_no: NDArray[np.int32]) -> Rows:
    """Return the order by gateway, which keeps that of the rows behind each."""
    # numpy sorts 16 bits by radix.
    keys = gateway_no.astype(np.uint16) if gateway_no.min() >= 0 and gateway_no.max() <= U2_MAX else gateway_no
    return np.argsort(keys, kind="stable")


def _cuts(gateway_no: NDArray[np.int32]) -> tuple[Rows, Rows]:
    """Return where each frame begins and ends: at another gateway, and where it is full."""
    starts = np.flatnonzero(np.diff(gateway_no, prepend=-2))
    place = np.arange(gateway_no.size) - np.repeat(starts, np.diff(starts, append=gateway_no.size))
    firsts = np.flatnonzero(place % COMMANDS_PER_FRAME_MAX == 0)
    return firsts, np.append(firsts[1:], gateway_no.size)


def frame_of(frames: CommandFrames, rows: Rows) -> Frame:
    """Return the frame of these rows, in plain Python: what ``write_frames`` can't write, and its twin."""
    return Frame(frames.epoch, frames.issued_ns // NS_PER_MS, tuple(_commands(frames, rows)), frames.shard)


def _commands(frames: CommandFrames, rows: Rows) -> Iterator[CommandMessage]:
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
