"""Commands straight into JSON: the columns of many devices into one buffer, frame by frame, in one kernel.

Writes what msgspec writes of ``frames.Frame``, byte for byte, at a tenth of its cost (measured): whole watts and
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
# Five numbers of 20 characters at most, and all the words around them; twice what a command takes.
_BYTES_PER_COMMAND: Final = 300


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
    n_rows = int((ends - firsts).sum())
    out = np.empty(firsts.size * (len(head) + 2) + n_rows * _BYTES_PER_COMMAND, np.uint8)
    stops = np.empty(firsts.size, np.int64)
    _write(*columns, firsts, ends, issued_ns // NS_PER_MS, _bytes(head), *_WORDS, out, stops)
    return [out[at:stop].tobytes() for at, stop in pairwise([0, *stops.tolist()])]


def _bytes(text: bytes) -> Bytes:
    return np.frombuffer(bytearray(text), np.uint8)


def _pool(words: Sequence[str]) -> tuple[Bytes, Ints]:
    """Return the words one after the other, and where each begins (and the last ends)."""
    encoded = [word.encode() for word in words]
    return _bytes(b"".join(encoded)), np.cumsum([0, *map(len, encoded)]).astype(np.int64)


_KINDS: Final = [kind.name.lower() for kind in sorted(CommandKind)]
_FALLBACKS: Final = [fallback.name.lower() for fallback in sorted(Fallback)]
assert sorted(CommandKind) == list(range(len(_KINDS))), "kinds have no gaps"
assert sorted(Fallback) == list(range(len(_FALLBACKS))), "fallbacks have no gaps"
# What stands between two numbers: words 0 to 3 by themselves, then those with a kind and those with a fallback in them.
_N_PLAIN: Final = 4
_WORDS: Final = _pool(
    [
        '{"no":',
        ',"seq":',
        ',"expires_ms":',
        ',"ttl_s":',
        *(f',"kind":"{name}","value":' for name in _KINDS),
        *(f'.0,"fallback":"{name}"}}' for name in _FALLBACKS),
        ',"start_ms":',
    ]
)
_FIRST_FALLBACK: Final = _N_PLAIN + len(_KINDS)
_START: Final = _FIRST_FALLBACK + len(_FALLBACKS)


@kernel("i8(u1[::1], i8, u1[::1], i8[::1], i8)")
def _put_word(out: Bytes, at: int, pool: Bytes, places: Ints, word: int) -> int:
    """Copy a word; return the position behind it."""
    first = places[word]
    n = places[word + 1] - first
    for k in range(n):
        out[at + k] = pool[first + k]
    return int(at + n)


@kernel("i8(u1[::1], i8, i8)")
def _put_number(out: Bytes, at: int, value: np.int64 | int) -> int:
    """Write a decimal; return the position behind it."""
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    n = 1
    rest = value // 10
    while rest > 0:
        rest //= 10
        n += 1
    for k in range(at + n - 1, at - 1, -1):
        rest = value // 10
        out[k] = _ZERO + (value - 10 * rest)
        value = rest
    return at + n


@kernel(
    "void(i4[::1], i8[::1], u1[::1], u1[::1], f4[::1], i8[::1], i8[::1], f4[::1],"
    " i8[::1], i8[::1], i8, u1[::1], u1[::1], i8[::1], u1[::1], i8[::1])"
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
    pool: Bytes,
    places: Ints,
    out: Bytes,
    stops: Ints,
) -> None:
    at = 0
    for frame in range(firsts.size):
        for k in range(head.size):
            out[at + k] = head[k]
        at += head.size
        for row in range(firsts[frame], ends[frame]):
            at = _put_number(out, _put_word(out, at, pool, places, 0), device_no[row])
            at = _put_number(out, _put_word(out, at, pool, places, 1), seq[row])
            # A missing value (RELEASE) travels as 0: JSON knows no NaN.
            whole = 0 if np.isnan(value[row]) else np.int64(value[row])
            at = _put_number(out, _put_word(out, at, pool, places, _N_PLAIN + kind[row]), whole)
            start_ms = start_ns[row] // NS_PER_MS
            if start_ms <= issued_ms:
                start_ms = 0
            at = _put_number(out, _put_word(out, at, pool, places, _START), start_ms)
            at = _put_number(out, _put_word(out, at, pool, places, 2), expires_ns[row] // NS_PER_MS)
            at = _put_number(out, _put_word(out, at, pool, places, 3), np.int64(ttl_s[row]))
            at = _put_word(out, at, pool, places, _FIRST_FALLBACK + fallback[row])
            out[at] = 44  # a comma, which the end of the frame replaces
            at += 1
        out[at - 1], out[at] = 93, 125  # ]}
        at += 1
        stops[frame] = at
