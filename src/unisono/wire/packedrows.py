"""A packed batch (UPK1) straight out of bytes, in a kernel, into the same rows of numbers as JSON."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel
from unisono.model.technology import SourceKind
from unisono.wire.flatjson import NO_ROOM, SOC, ST, SURPRISE, TC, TS, P, V
from unisono.wire.packed import HEADER_BYTES, POWERS_MAGIC, RECORD, SOURCE_MASK

Bytes = NDArray[np.uint8]

_DEVICE: Final = int(SourceKind.DEVICE)
_SOURCE_MAX: Final = int(max(SourceKind))
_MAGIC: Final = tuple(POWERS_MAGIC)
_RECORD_BYTES: Final = RECORD.itemsize
# Where the fields of a record lie; the four values follow one another.
_AT_FLAGS, _AT_STATUS, _AT_MEASURED, _AT_VALUES = (
    RECORD.fields[name][1]  # type: ignore[index]
    for name in ("flags", "status", "measured_ms", "power_w")
)
_COLUMNS: Final = (P, SOC, TC, V)


@kernel("i8(u1[::1], i8, i8)")
def _whole(buffer: Bytes, at: int, n_bytes: int) -> int:
    """Return the little-endian number; what does not fit 63 bits is negative."""
    value = np.int64(0)
    for i in range(n_bytes):
        value |= np.int64(buffer[at + i]) << np.int64(8 * i)
    return int(value)


@kernel("Tuple((i8, i8))(u1[::1], i8, i8, i4, i4[::1], i4[:, ::1], f8[:, ::1], i8)")
def packed_batch(
    buffer: Bytes,
    at: int,
    end: int,
    gateway_no: int,
    gateway_of_device: NDArray[np.int32],
    whose: NDArray[np.int32],
    fields: NDArray[np.float64],
    row: int,
) -> tuple[int, int]:
    """Write the readings of a packed batch from ``row`` on; return (how many, sequence).

    Instead of how many: SURPRISE, hand it to ``packed``; NO_ROOM behind ``row``.
    """
    if end - at < HEADER_BYTES:
        return SURPRISE, 0
    for i in range(4):
        if buffer[at + i] != _MAGIC[i]:
            return SURPRISE, 0
    n, seq = _whole(buffer, at + 4, 4), _whole(buffer, at + 8, 8)
    if seq < 0 or end - at != HEADER_BYTES + n * _RECORD_BYTES:
        return SURPRISE, 0
    if row + n > whose.shape[0]:
        return NO_ROOM, 0
    for k in range(n):
        record = at + HEADER_BYTES + k * _RECORD_BYTES
        device_no = _whole(buffer, record, 4)
        if device_no >= gateway_of_device.size or gateway_of_device[device_no] != gateway_no:
            device_no = -1
        source = (_whole(buffer, record + _AT_FLAGS, 2) & SOURCE_MASK) - 1
        if source < 0 or source > _SOURCE_MAX:
            source = _DEVICE
        whose[row, 0], whose[row, 1], whose[row, 2] = device_no, gateway_no, source
        fields[row, TS] = _whole(buffer, record + _AT_MEASURED, 8)
        fields[row, ST] = _whole(buffer, record + _AT_STATUS, 2)
        for i in range(4):
            bits = np.uint32(_whole(buffer, record + _AT_VALUES + 4 * i, 4))
            fields[row, _COLUMNS[i]] = bits.view(np.float32)
        row += 1
    return n, seq
