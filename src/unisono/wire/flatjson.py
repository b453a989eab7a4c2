"""Flat JSON straight out of bytes, in kernels: one reading's object, or a batch of them, into a row of numbers each.

Takes the plain keys of ``telemetry``. Anything that surprises it (an escape, an exponent, nesting, an unknown key, more
than 15 digits) is left to the msgspec path, which decides.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel
from unisono.model.technology import SourceKind
from unisono.wire.idtable import slot_of

Bytes = NDArray[np.uint8]

_SPACE, _QUOTE, _COMMA, _MINUS, _DOT, _ZERO, _NINE, _COLON = 32, 34, 44, 45, 46, 48, 57, 58
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST, _BACKSLASH, _DELETE = 123, 125, 91, 93, 92, 127
# Columns of a row of numbers.
TS, P, SOC, TC, V, ST, NO = 0, 1, 2, 3, 4, 5, 6
N_FIELDS: Final = 7
_ID = 7
# What a reading that names no source comes from.
_DEVICE: Final = int(SourceKind.DEVICE)
# What `json_batch` says instead of a number of rows.
SURPRISE, NO_ROOM = -1, -2
# Mantissas below 10^15 and powers of ten up to 10^22 are exact doubles: one division rounds right (Clinger 1990).
_DIGITS_MAX = 15


@kernel("Tuple((i8, f8, b1))(u1[::1], i8, i8)")
def number(buffer: Bytes, at: int, end: int) -> tuple[int, float, bool]:
    """Return (position behind, value, has a fraction); position -1 for anything but a plain JSON decimal."""
    negative = at < end and buffer[at] == _MINUS
    if negative:
        at += 1
    mantissa = np.int64(0)
    n_whole = 0
    first = at
    while at < end and _ZERO <= buffer[at] <= _NINE and n_whole <= _DIGITS_MAX:
        mantissa = mantissa * 10 + (buffer[at] - _ZERO)
        n_whole += 1
        at += 1
    if n_whole == 0 or (n_whole > 1 and buffer[first] == _ZERO):
        return -1, 0.0, False
    n_fraction = 0
    has_fraction = at < end and buffer[at] == _DOT
    if has_fraction:
        at += 1
        while at < end and _ZERO <= buffer[at] <= _NINE and n_whole + n_fraction <= _DIGITS_MAX:
            mantissa = mantissa * 10 + (buffer[at] - _ZERO)
            n_fraction += 1
            at += 1
        if n_fraction == 0:
            return -1, 0.0, False
    if n_whole + n_fraction > _DIGITS_MAX or (negative and mantissa == 0):
        return -1, 0.0, False
    value = float(mantissa)
    if n_fraction > 0:
        power = 1.0
        for _ in range(n_fraction):
            power *= 10.0
        value /= power
    return at, -value if negative else value, has_fraction


@kernel("Tuple((i8, i8))(u1[::1], i8, i8)")
def _key(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return (position behind the closing quote, which field) of a quoted key; field -1 for any other."""
    if at + 5 > end or buffer[at] != _QUOTE:
        return at, -1
    a, b, c, d = buffer[at + 1], buffer[at + 2], buffer[at + 3], buffer[at + 4]
    if b == _QUOTE:
        if a == 112:  # p
            return at + 3, P
        if a == 118:  # v
            return at + 3, V
    elif c == _QUOTE:
        if a == 116 and b == 115:  # ts
            return at + 4, TS
        if a == 116 and b == 99:  # tc
            return at + 4, TC
        if a == 115 and b == 116:  # st
            return at + 4, ST
        if a == 105 and b == 100:  # id
            return at + 4, _ID
        if a == 110 and b == 111:  # no
            return at + 4, NO
    elif d == _QUOTE and a == 115 and b == 111 and c == 99:  # soc
        return at + 5, SOC
    return at, -1


@kernel("i8(u1[::1], i8, i8)")
def past_spaces(buffer: Bytes, at: int, end: int) -> int:
    """Return the position of the first byte that is no space."""
    while at < end and buffer[at] == _SPACE:
        at += 1
    return at


@kernel("i8(u1[::1], i8, i8)")
def _past_name(buffer: Bytes, at: int, end: int) -> int:
    """Return where a plain quoted text that begins in front of ``at`` ends (its closing quote); -1 for any other."""
    while at < end and buffer[at] != _QUOTE:
        if buffer[at] < _SPACE or buffer[at] == _BACKSLASH or buffer[at] >= _DELETE:
            return -1
        at += 1
    return at if at < end else -1


@kernel("Tuple((i8, i8, i8))(u1[::1], i8, i8, b1, f8[::1])")
def json_object(buffer: Bytes, at: int, end: int, is_named: bool, fields: NDArray[np.float64]) -> tuple[int, int, int]:
    """Write the values of a flat object into ``fields`` (NaN: not there); ``at`` is its opening brace.

    Return (position behind it, start and length of its ``id``); position -1: hand it to msgspec. ``id`` and ``no`` are
    keys only where it ``is_named``.
    """
    fields[:] = np.nan
    fields[ST] = 0.0
    name, n_name = 0, 0
    if at >= end or buffer[at] != _OPEN:
        return -1, 0, 0
    more = True
    while more:
        at, field = _key(buffer, past_spaces(buffer, at + 1, end), end)
        at = past_spaces(buffer, at, end)
        if field < 0 or (field >= NO and not is_named) or at >= end or buffer[at] != _COLON:
            return -1, 0, 0
        at = past_spaces(buffer, at + 1, end)
        if field == _ID:
            if at >= end or buffer[at] != _QUOTE:
                return -1, 0, 0
            name = at + 1
            at = _past_name(buffer, name, end)
            if at < 0:
                return -1, 0, 0
            n_name = at - name
            at += 1
        else:
            at, value, has_fraction = number(buffer, at, end)
            if at < 0 or (has_fraction and (field in (TS, ST, NO))):
                return -1, 0, 0
            fields[field] = value
        at = past_spaces(buffer, at, end)
        if at >= end or (buffer[at] != _COMMA and buffer[at] != _CLOSE):
            return -1, 0, 0
        more = buffer[at] == _COMMA
    if np.isnan(fields[TS]) or np.isnan(fields[P]):
        return -1, 0, 0
    return at + 1, name, n_name


@kernel("i8(u1[::1], i8, i8)")
def _past_readings(buffer: Bytes, at: int, end: int) -> int:
    """Return the position of the first object of ``"readings":[``, or of the closing bracket; -1 for any other."""
    name = (114, 101, 97, 100, 105, 110, 103, 115)
    if at + 10 > end or buffer[at] != _QUOTE or buffer[at + 9] != _QUOTE:
        return -1
    for i in range(8):
        if buffer[at + 1 + i] != name[i]:
            return -1
    at = past_spaces(buffer, at + 10, end)
    if at >= end or buffer[at] != _COLON:
        return -1
    at = past_spaces(buffer, at + 1, end)
    if at >= end or buffer[at] != _OPEN_LIST:
        return -1
    return past_spaces(buffer, at + 1, end)


@kernel("Tuple((i8, i8))(u1[::1], i8, i8)")
def _seq(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return (position behind, value) of ``"seq":`` with a whole number that is not negative; position -1 otherwise."""
    if at + 6 > end or buffer[at] != _QUOTE or buffer[at + 4] != _QUOTE:
        return -1, 0
    if buffer[at + 1] != 115 or buffer[at + 2] != 101 or buffer[at + 3] != 113:
        return -1, 0
    at = past_spaces(buffer, at + 4 + 1, end)
    if at >= end or buffer[at] != _COLON:
        return -1, 0
    at, value, has_fraction = number(buffer, past_spaces(buffer, at + 1, end), end)
    if at < 0 or has_fraction or value < 0.0:
        return -1, 0
    return past_spaces(buffer, at, end), int(value)


@kernel(
    "Tuple((i8, i8))(u1[::1], i8, i8, i4, u8[::1], i8[::1], i4[::1], i4[::1], u1[::1], i4[::1],"
    " i4[:, ::1], f8[:, ::1], i8)"
)
def json_batch(
    buffer: Bytes,
    at: int,
    end: int,
    gateway_no: int,
    hashes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int32],
    values: NDArray[np.int32],
    pool: Bytes,
    gateway_of_device: NDArray[np.int32],
    whose: NDArray[np.int32],
    fields: NDArray[np.float64],
    row: int,
) -> tuple[int, int]:
    """Write the readings of ``{"seq": n, "readings": [...]}`` from ``row`` on; return (how many, sequence).

    Instead of how many: SURPRISE, hand it to msgspec; NO_ROOM behind ``row``. ``whose`` gets (device_no
    or -1, gateway, source).
    """
    at = past_spaces(buffer, at, end)
    if at >= end or buffer[at] != _OPEN:
        return SURPRISE, 0
    at, seq = _seq(buffer, past_spaces(buffer, at + 1, end), end)
    if at < 0 or at >= end or buffer[at] != _COMMA:
        return SURPRISE, 0
    at = _past_readings(buffer, past_spaces(buffer, at + 1, end), end)
    if at < 0:
        return SURPRISE, 0
    first, more = row, True
    while more:
        if row >= whose.shape[0]:
            return NO_ROOM, 0
        at, name, n_name = json_object(buffer, at, end, True, fields[row])
        if at < 0:
            return SURPRISE, 0
        device_no = -1
        if n_name > 0:
            device_no = int(values[slot_of(buffer, name, n_name, hashes, starts, lengths, pool)])
        elif fields[row, NO] >= 0.0 and fields[row, NO] < 2147483648.0:
            device_no = int(fields[row, NO])
        if device_no < 0 or device_no >= gateway_of_device.size or gateway_of_device[device_no] != gateway_no:
            device_no = -1
        whose[row, 0], whose[row, 1], whose[row, 2] = device_no, gateway_no, _DEVICE
        row += 1
        at = past_spaces(buffer, at, end)
        if at >= end or (buffer[at] != _COMMA and buffer[at] != _CLOSE_LIST):
            return SURPRISE, 0
        more = buffer[at] == _COMMA
        at = past_spaces(buffer, at + 1, end)
    if at >= end or buffer[at] != _CLOSE or past_spaces(buffer, at + 1, end) != end:
        return SURPRISE, 0
    return row - first, seq
