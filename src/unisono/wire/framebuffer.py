"""Commands straight into JSON: the columns of many devices into one buffer, frame by frame, in one kernel.

Writes what msgspec writes of ``frames.Frame``, byte for byte, in some 150 ns a command (measured): whole watts and
seconds only. A frame with anything else in it (``is_plain``) is for the msgspec path.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_MS
from unisono.base.kernel import kernel
from unisono.model.technology import CommandKind, Fallback

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

_ZERO, _MINUS = 48, 45
# Exact in a float64 and in JSON's numbers.
_WHOLE_MAX: Final = 1e15
# Six numbers of 20 characters at most, and all the words around them; twice what a command takes.
_BYTES_PER_COMMAND: Final = 300
_PIECE_BYTES: Final = 1 << 20
# A frame has one command at least.
_PIECE_FRAMES: Final = _PIECE_BYTES // _BYTES_PER_COMMAND


class Columns(NamedTuple):
    """The columns of commands in the order in which they are to be written."""

    device_no: NDArray[np.int32]
    seq: Ints
    kind: NDArray[np.uint8]
    fallback: NDArray[np.uint8]
    value: NDArray[np.float32]
    start_ns: Ints
    expires_ns: Ints
    ttl_s: NDArray[np.float32]


def is_plain(columns: Columns) -> NDArray[np.bool_]:
    """Return which commands the kernel can write: whole value (or none), whole ttl, known words."""
    value = np.nan_to_num(columns.value, nan=0.0, posinf=np.inf, neginf=-np.inf)
    is_whole = (np.rint(value) == value) & (np.abs(value) < _WHOLE_MAX)
    is_known = (columns.kind < len(_KINDS)) & (columns.fallback < len(_FALLBACKS))
    ttl_s = columns.ttl_s
    plain: NDArray[np.bool_] = is_known & is_whole & (np.rint(ttl_s) == ttl_s) & (ttl_s >= 0.0) & (ttl_s < _WHOLE_MAX)
    return plain


def write_frames(head: bytes, columns: Columns, firsts: Ints, ends: Ints, issued_ns: int) -> list[bytes]:
    """Return each frame's JSON: ``head``, its commands, the end. Frame k is of rows ``firsts[k]:ends[k]``, never empty.

    ``head`` is a frame without commands, less its end. The rows must be plain.
    """
    # One buffer again and again, small enough for the processor's cache: new memory would cost as much as the writing.
    room = (ends - firsts) * _BYTES_PER_COMMAND + len(head) + _WIDTH
    out = np.empty(max(_PIECE_BYTES, int(room.max(initial=0))), np.uint8)
    stops = np.empty(firsts.size, np.int64)
    frames: list[bytes] = []
    while len(frames) < firsts.size:
        first = len(frames)
        n = max(1, int(np.searchsorted(np.cumsum(room[first : first + _PIECE_FRAMES]), out.size, "right")))
        piece = slice(first, first + n)
        issued_ms = issued_ns // NS_PER_MS
        _write(*columns, firsts[piece], ends[piece], issued_ms, _bytes(head), *_WORDS, _DIGITS, out, stops)
        frames += [out[at:stop].tobytes() for at, stop in pairwise([0, *stops[:n].tolist()])]
    return frames


def _bytes(text: bytes) -> Bytes:
    return np.frombuffer(bytearray(text), np.uint8)


def _padded(words: Sequence[str]) -> tuple[Bytes, NDArray[np.uint64]]:
    """Return the words as rows of one width, and how long each is."""
    encoded = [word.encode() for word in words]
    assert max(map(len, encoded)) <= _WIDTH, "no word is wider than what is copied"
    padded = [np.frombuffer(word.ljust(_WIDTH), np.uint8) for word in encoded]
    return np.stack(padded), np.array([len(word) for word in encoded], np.uint64)


# Words are copied in one piece of this width, what is too much of it is written over.
_WIDTH: Final = 48
_KINDS: Final = [kind.name.lower() for kind in sorted(CommandKind)]
_FALLBACKS: Final = [fallback.name.lower() for fallback in sorted(Fallback)]
assert sorted(CommandKind) == list(range(len(_KINDS))), "kinds have no gaps"
assert sorted(Fallback) == list(range(len(_FALLBACKS))), "fallbacks have no gaps"
# What stands between two numbers.
_NO, _SEQ, _START, _EXPIRES, _TTL, _FIRST_KIND = 0, 1, 2, 3, 4, 5
_FIRST_FALLBACK: Final = _FIRST_KIND + len(_KINDS)
_WORDS: Final = _padded(
    [
        '{"no":',
        ',"seq":',
        ',"start_ms":',
        ',"expires_ms":',
        ',"ttl_s":',
        *(f',"kind":"{name}","value":' for name in _KINDS),
        *(f'.0,"fallback":"{name}"}},' for name in _FALLBACKS),
    ]
)
_DIGITS: Final = _bytes("".join(f"{pair:02d}" for pair in range(100)).encode())


# Places are unsigned: a signed one might count from the end, and numba would ask that of each byte.
@kernel("u8(u1[::1], u8, u1[:, ::1], u8[::1], i8)")
def _put_word(out: Bytes, at: np.uint64, words: Bytes, lengths: NDArray[np.uint64], word: int) -> np.uint64:
    """Copy a word; return the position behind it."""
    for k in range(_WIDTH):
        out[at + np.uint64(k)] = words[word, k]
    return np.uint64(at + lengths[word])


@kernel("u8(u1[::1], u8, i8, u1[::1])")
def _put_number(out: Bytes, at: np.uint64, value: int | np.int64, digits: Bytes) -> np.uint64:
    """Write a decimal, two digits at a time; return the position behind it."""
    if value < 0:
        out[at] = _MINUS
        at += np.uint64(1)
    rest = np.uint64(abs(int(value)))
    end = at + np.uint64(1)
    limit = np.uint64(10)
    while rest >= limit:
        limit *= np.uint64(10)
        end += np.uint64(1)
    k = end
    while k >= at + np.uint64(2):
        more = rest // np.uint64(100)
        pair = np.uint64(2) * (rest - more * np.uint64(100))
        k -= np.uint64(2)
        out[k] = digits[pair]
        out[k + np.uint64(1)] = digits[pair + np.uint64(1)]
        rest = more
    if k > at:
        out[at] = _ZERO + rest
    return end


@kernel(
    "void(i4[::1], i8[::1], u1[::1], u1[::1], f4[::1], i8[::1], i8[::1], f4[::1],"
    " i8[::1], i8[::1], i8, u1[::1], u1[:, ::1], u8[::1], u1[::1], u1[::1], i8[::1])"
)
def _write(
    device_no: NDArray[np.int32],
    seq: Ints,
    kind: NDArray[np.uint8],
    fallback: NDArray[np.uint8],
    value: NDArray[np.float32],
    start_ns: Ints,
    expires_ns: Ints,
    ttl_s: NDArray[np.float32],
    firsts: Ints,
    ends: Ints,
    issued_ms: int,
    head: Bytes,
    words: Bytes,
    lengths: NDArray[np.uint64],
    digits: Bytes,
    out: Bytes,
    stops: Ints,
) -> None:
    at = np.uint64(0)
    for frame in range(firsts.size):
        for k in range(head.size):
            out[at + np.uint64(k)] = head[k]
        at += np.uint64(head.size)
        for row in range(firsts[frame], ends[frame]):
            at = _put_number(out, _put_word(out, at, words, lengths, _NO), device_no[row], digits)
            at = _put_number(out, _put_word(out, at, words, lengths, _SEQ), seq[row], digits)
            # A missing value (RELEASE) travels as 0: JSON knows no NaN.
            whole = np.int64(0) if np.isnan(value[row]) else np.int64(value[row])
            at = _put_number(out, _put_word(out, at, words, lengths, _FIRST_KIND + kind[row]), whole, digits)
            start_ms = start_ns[row] // NS_PER_MS
            if start_ms <= issued_ms:
                start_ms = np.int64(0)
            at = _put_number(out, _put_word(out, at, words, lengths, _START), start_ms, digits)
            expires_ms = expires_ns[row] // NS_PER_MS
            at = _put_number(out, _put_word(out, at, words, lengths, _EXPIRES), expires_ms, digits)
            at = _put_number(out, _put_word(out, at, words, lengths, _TTL), np.int64(ttl_s[row]), digits)
            at = _put_word(out, at, words, lengths, _FIRST_FALLBACK + fallback[row])
        # The end of the frame replaces the last comma.
        out[at - np.uint64(1)] = 93  # ]
        out[at] = 125  # }
        at += np.uint64(1)
        stops[frame] = at
