"""Text ids -> small integers by an open-addressing hash table in numpy arrays, so that kernels can look them up.

64-bit FNV-1a of the id's bytes, finished with a multiply-shift mix so that neighbours spread; linear probing at most
half full; a hit is verified by its bytes, so that two ids of one hash stay two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

NOT_FOUND: Final = -1
_SLOTS_MIN: Final = 64

Bytes = NDArray[np.uint8]
# Text, or its UTF-8 in an array of a fixed width.
Ids = Sequence[str] | NDArray[np.bytes_]


@kernel("u8(u1[::1], i8, i8)")
def hash_of(text: Bytes, start: int, length: int) -> np.uint64:
    """Return the 64-bit hash of ``text[start : start + length]`` (FNV-1a, isthe.com/chongo/tech/comp/fnv)."""
    value = np.uint64(0xCBF29CE484222325)
    for at in range(start, start + length):
        value = (value ^ np.uint64(text[at])) * np.uint64(0x100000001B3)
    value ^= value >> np.uint64(32)
    value *= np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(29))


@kernel("i8(u1[::1], i8, i8, u8[::1], i8[::1], i4[::1], u1[::1])")
def slot_of(
    text: Bytes,
    start: int,
    length: int,
    hashes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int32],
    pool: Bytes,
) -> np.int64:
    """Return the slot that holds the id, or the free slot where it belongs (there ``lengths`` is 0)."""
    mask = hashes.size - 1
    wanted = hash_of(text, start, length)
    slot = np.int64(wanted & np.uint64(mask))
    while lengths[slot] != 0:
        if hashes[slot] == wanted and lengths[slot] == length:
            at = 0
            while at < length and pool[starts[slot] + at] == text[start + at]:
                at += 1
            if at == length:
                return slot
        slot = (slot + 1) & mask
    return slot


@kernel("void(u1[::1], i8[::1], i8[::1], i4[::1], u8[::1], i8[::1], i4[::1], i4[::1], u1[::1])")
def _insert(
    text: Bytes,
    text_starts: NDArray[np.int64],
    text_lengths: NDArray[np.int64],
    text_values: NDArray[np.int32],
    hashes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int32],
    values: NDArray[np.int32],
    pool: Bytes,
) -> None:
    # ``text`` is already a part of ``pool`` at the same offsets, so that starts can be taken over.
    for i in range(text_starts.size):
        start, length = text_starts[i], text_lengths[i]
        slot = slot_of(text, start, length, hashes, starts, lengths, pool)
        if lengths[slot] == 0:
            hashes[slot] = hash_of(text, start, length)
            starts[slot] = start
            lengths[slot] = length
        values[slot] = text_values[i]


@kernel("void(u1[::1], i8[::1], i8[::1], u8[::1], i8[::1], i4[::1], i4[::1], u1[::1], i4[::1])")
def _find(
    text: Bytes,
    text_starts: NDArray[np.int64],
    text_lengths: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int32],
    values: NDArray[np.int32],
    pool: Bytes,
    found: NDArray[np.int32],
) -> None:
    for i in range(text_starts.size):
        found[i] = -1
        if text_lengths[i] > 0:
            slot = slot_of(text, text_starts[i], text_lengths[i], hashes, starts, lengths, pool)
            if lengths[slot] != 0:
                found[i] = values[slot]


class IdTable:
    """A growing map of ids to int32; the arrays are public for kernels and change only in ``put``."""

    def __init__(self) -> None:
        self._n = 0
        self._pool_end = 0
        self.pool: Bytes = np.zeros(4096, np.uint8)
        self._allocate(_SLOTS_MIN)

    def __len__(self) -> int:
        return self._n

    def put(self, ids: Ids, values: NDArray[np.int32]) -> None:
        """Map each id to its value; one that is there already gets the new value."""
        assert len(ids) == values.size, "one value an id"
        text, starts, lengths = _joined(ids)
        assert lengths.all(), "an id has at least one character"
        is_new = self.find(ids) == NOT_FOUND
        self._n += int(np.unique(np.asarray(ids)[is_new]).size)
        offset = self._append(text)
        if 2 * self._n > self.hashes.size:
            self._rebuild()
        self._insert(starts + offset, lengths, values.astype(np.int32))

    def find(self, ids: Ids) -> NDArray[np.int32]:
        """Return the value of each id, NOT_FOUND where there is none."""
        found = np.empty(len(ids), np.int32)
        text, starts, lengths = _joined(ids)
        _find(text, starts, lengths, self.hashes, self.starts, self.lengths, self.values, self.pool, found)
        return found

    def _allocate(self, n_slots: int) -> None:
        self.hashes: NDArray[np.uint64] = np.zeros(n_slots, np.uint64)
        self.starts: NDArray[np.int64] = np.zeros(n_slots, np.int64)
        self.lengths: NDArray[np.int32] = np.zeros(n_slots, np.int32)
        self.values: NDArray[np.int32] = np.full(n_slots, NOT_FOUND, np.int32)

    def _append(self, text: Bytes) -> int:
        offset = self._pool_end
        self._pool_end += text.size
        if self._pool_end > self.pool.size:
            pool = np.zeros(2 * self._pool_end, np.uint8)
            pool[:offset] = self.pool[:offset]
            self.pool = pool
        self.pool[offset : self._pool_end] = text
        return offset

    def _rebuild(self) -> None:
        used = self.lengths != 0
        starts, lengths, values = self.starts[used], self.lengths[used].astype(np.int64), self.values[used]
        n_slots = self.hashes.size
        while n_slots < 4 * self._n:
            n_slots *= 2
        self._allocate(n_slots)
        self._insert(starts, lengths, values)

    def _insert(self, starts: NDArray[np.int64], lengths: NDArray[np.int64], values: NDArray[np.int32]) -> None:
        _insert(self.pool, starts, lengths, values, self.hashes, self.starts, self.lengths, self.values, self.pool)


def _joined(ids: Ids) -> tuple[Bytes, NDArray[np.int64], NDArray[np.int64]]:
    if isinstance(ids, np.ndarray):
        width = ids.dtype.itemsize
        text = np.ascontiguousarray(ids).view(np.uint8)
        return text, np.arange(ids.size, dtype=np.int64) * width, np.strings.str_len(ids).astype(np.int64)
    parts = [text.encode("utf-8", "surrogatepass") for text in ids]
    lengths = np.fromiter((len(part) for part in parts), np.int64, len(parts))
    starts = np.zeros(len(parts), np.int64)
    np.cumsum(lengths[:-1], out=starts[1:])
    return np.frombuffer(bytearray(b"".join(parts)), np.uint8), starts, lengths
