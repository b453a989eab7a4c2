"""Single readings straight out of a NATS socket buffer: subjects, ids and flat JSON into columns in one kernel.

Takes ``u.<gateway>.<device>.t`` messages with the plain keys of ``telemetry``; costs some 500 ns a reading with both
ids looked up, where an object per message costs 7,000 (measured). Anything that surprises it (another subject, an
escape, an exponent, nesting, an unknown key, more than 15 digits) is handed out as a ``Spill`` for the msgspec path,
which decides.

Protocol: docs.nats.io/reference/reference-protocols/nats-protocol. nats-server puts a header ``Nmqtt-Pub:0`` (its QoS)
on what came by MQTT; what came with QoS 1 is skipped, because the durable consumer of ``$MQTT_msgs`` brings it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel
from unisono.wire.idtable import IdTable, slot_of
from unisono.wire.rules import RawReadings, default_sources

ROWS_PER_SCAN: Final = 4096

Bytes = NDArray[np.uint8]

_SPACE, _QUOTE, _COMMA, _MINUS, _DOT, _ZERO, _NINE, _COLON = 32, 34, 44, 45, 46, 48, 57, 58
_OPEN, _CLOSE = 123, 125
_TS, _P, _SOC, _TC, _V, _ST = 0, 1, 2, 3, 4, 5
# Mantissas below 10^15 and powers of ten up to 10^22 are exact doubles: one division rounds right (Clinger 1990).
_DIGITS_MAX = 15
_MQTT_QOS: Final = np.frombuffer(bytearray(b"Nmqtt-Pub:"), np.uint8)


@kernel("Tuple((i8, f8, b1))(u1[::1], i8, i8)")
def _number(buffer: Bytes, at: int, end: int) -> tuple[int, float, bool]:
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
            return at + 3, _P
        if a == 118:  # v
            return at + 3, _V
    elif c == _QUOTE:
        if a == 116 and b == 115:  # ts
            return at + 4, _TS
        if a == 116 and b == 99:  # tc
            return at + 4, _TC
        if a == 115 and b == 116:  # st
            return at + 4, _ST
    elif d == _QUOTE and a == 115 and b == 111 and c == 99:  # soc
        return at + 5, _SOC
    return at, -1


@kernel("i8(u1[::1], i8, i8)")
def _past_spaces(buffer: Bytes, at: int, end: int) -> int:
    while at < end and buffer[at] == _SPACE:
        at += 1
    return at


@kernel("b1(u1[::1], i8, i8, f8[::1])")
def _flat_json(buffer: Bytes, at: int, end: int, fields: NDArray[np.float64]) -> bool:
    """Write the six values of a flat object into ``fields`` (NaN: not there); False: hand it to msgspec."""
    fields[:] = np.nan
    fields[_ST] = 0.0
    at = _past_spaces(buffer, at, end)
    if at >= end or buffer[at] != _OPEN:
        return False
    more = True
    while more:
        at, field = _key(buffer, _past_spaces(buffer, at + 1, end), end)
        at = _past_spaces(buffer, at, end)
        if field < 0 or at >= end or buffer[at] != _COLON:
            return False
        at, value, has_fraction = _number(buffer, _past_spaces(buffer, at + 1, end), end)
        if at < 0 or (has_fraction and field in (_TS, _ST)):
            return False
        fields[field] = value
        at = _past_spaces(buffer, at, end)
        if at >= end or (buffer[at] != _COMMA and buffer[at] != _CLOSE):
            return False
        more = buffer[at] == _COMMA
    if _past_spaces(buffer, at + 1, end) != end:
        return False
    return not (np.isnan(fields[_TS]) or np.isnan(fields[_P]))


@kernel("b1(u1[::1], i8, i8, u1[::1])")
def _is_acknowledged(buffer: Bytes, start: int, end: int, name: Bytes) -> bool:
    """Whether the header block says that the message came by MQTT with QoS 1 or 2."""
    for at in range(start, end - name.size):
        same = 0
        while same < name.size and buffer[at + same] == name[same]:
            same += 1
        if same == name.size:
            return bool(buffer[at + same] != _ZERO)
    return False


@kernel("Tuple((i8, i8))(u1[::1], i8)")
def _number_before(buffer: Bytes, at: int) -> tuple[int, int]:
    """Return (value, position in front) of the decimal that ends at ``at``."""
    value, weight = 0, 1
    while _ZERO <= buffer[at] <= _NINE:
        value += (buffer[at] - _ZERO) * weight
        weight *= 10
        at -= 1
    return value, at


@kernel("Tuple((i8, i8))(u1[::1], i8, i8)")
def _dots_of_single(buffer: Bytes, start: int, end: int) -> tuple[int, int]:
    """Return where the device's level of ``u.<gateway>.<device>.t`` begins and ends; (-1, -1) for another subject."""
    if end - start < 7 or buffer[start] != 117 or buffer[start + 1] != _DOT:
        return -1, -1
    if buffer[end - 1] != 116 or buffer[end - 2] != _DOT:
        return -1, -1
    middle = -1
    for at in range(start + 2, end - 2):
        if buffer[at] == _DOT:
            if middle >= 0:
                return -1, -1
            middle = at
    if middle <= start + 2 or middle + 1 >= end - 2:
        return -1, -1
    return middle + 1, end - 2


@kernel(
    "Tuple((i8, i8, i8, i8, i8, i8))(u1[::1], i8, u1[::1],"
    " u8[::1], i8[::1], i4[::1], i4[::1], u1[::1], u8[::1], i8[::1], i4[::1], i4[::1], u1[::1],"
    " i4[::1], i4[:, ::1], f8[:, ::1], i8[:, ::1])"
)
def _scan(
    buffer: Bytes,
    end: int,
    qos_name: Bytes,
    gw_hashes: NDArray[np.uint64],
    gw_starts: NDArray[np.int64],
    gw_lengths: NDArray[np.int32],
    gw_values: NDArray[np.int32],
    gw_pool: Bytes,
    dev_hashes: NDArray[np.uint64],
    dev_starts: NDArray[np.int64],
    dev_lengths: NDArray[np.int32],
    dev_values: NDArray[np.int32],
    dev_pool: Bytes,
    gateway_of_device: NDArray[np.int32],
    whose: NDArray[np.int32],
    fields: NDArray[np.float64],
    spills: NDArray[np.int64],
) -> tuple[int, int, int, int, int, int]:
    """Return (bytes consumed, rows, spills, pings, acknowledged, errors); stops at a part message or when full."""
    at, n_rows, n_spills, n_pings, n_skipped, n_errors = 0, 0, 0, 0, 0, 0
    while at < end and n_rows < whose.shape[0] and n_spills < spills.shape[0]:
        line_end = at
        while line_end < end and buffer[line_end] != 10:
            line_end += 1
        if line_end >= end:
            break
        has_header = buffer[at] == 72  # H
        if not has_header and buffer[at] != 77:  # M
            n_pings += buffer[at] == 80 and buffer[at + 1] == 73  # PI
            n_errors += buffer[at] == _MINUS
            at = line_end + 1
            continue
        n_total, before = _number_before(buffer, line_end - 2)
        n_header = 0
        if has_header:
            n_header, before = _number_before(buffer, before - 1)
        body, stop = line_end + 1, line_end + 1 + n_total
        if stop + 2 > end:
            break
        subject = at + (5 if has_header else 4)
        subject_end = subject
        while buffer[subject_end] != _SPACE:
            subject_end += 1
        at = stop + 2
        if has_header and _is_acknowledged(buffer, body, body + n_header, qos_name):
            n_skipped += 1
            continue
        device, device_end = _dots_of_single(buffer, subject, subject_end)
        if device < 0 or not _flat_json(buffer, body + n_header, stop, fields[n_rows]):
            spills[n_spills, 0], spills[n_spills, 1] = subject, subject_end - subject
            spills[n_spills, 2], spills[n_spills, 3] = body + n_header, stop - body - n_header
            n_spills += 1
            continue
        slot = slot_of(buffer, subject + 2, device - subject - 3, gw_hashes, gw_starts, gw_lengths, gw_pool)
        gateway_no = gw_values[slot]  # -1 in a free slot
        slot = slot_of(buffer, device, device_end - device, dev_hashes, dev_starts, dev_lengths, dev_pool)
        device_no = dev_values[slot]
        if device_no >= gateway_of_device.size or gateway_no < 0:
            device_no = -1
        if device_no >= 0 and gateway_of_device[device_no] != gateway_no:
            device_no = -1
        whose[n_rows, 0], whose[n_rows, 1] = device_no, gateway_no
        n_rows += 1
    return at, n_rows, n_spills, n_pings, n_skipped, n_errors


@dataclass(frozen=True, slots=True)
class Spill:
    """A message for the slow path."""

    subject: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Scanned:
    """What one scan found. ``readings`` are unchecked; ``gateway_no`` is each row's, -1 for an unknown gateway."""

    n_consumed: int
    readings: RawReadings
    gateway_no: NDArray[np.int32]
    spills: tuple[Spill, ...]
    n_pings: int
    n_acknowledged: int
    n_errors: int


class NatsBuffer:
    """The kernel with its tables and its room for rows. ``gateway_of_device`` may be replaced by a longer array."""

    def __init__(self, gateways: IdTable, devices: IdTable, n_rows_max: int = ROWS_PER_SCAN) -> None:
        self._gateways = gateways
        self._devices = devices
        self._whose = np.empty((n_rows_max, 2), np.int32)
        self._fields = np.empty((n_rows_max, 6), np.float64)
        self._spills = np.empty((n_rows_max, 4), np.int64)

    def scan(self, buffer: Bytes, n_bytes: int, gateway_of_device: NDArray[np.int32]) -> Scanned:
        """Return the whole messages at the front of ``buffer[:n_bytes]``; call again with the rest while any."""
        g, d = self._gateways, self._devices
        consumed, n_rows, n_spills, n_pings, n_skipped, n_errors = _scan(
            buffer,
            n_bytes,
            _MQTT_QOS,
            *(g.hashes, g.starts, g.lengths, g.values, g.pool),
            *(d.hashes, d.starts, d.lengths, d.values, d.pool),
            gateway_of_device,
            self._whose,
            self._fields,
            self._spills,
        )
        return Scanned(
            n_consumed=consumed,
            readings=self._readings(n_rows),
            gateway_no=self._whose[:n_rows, 1].copy(),
            spills=tuple(_spill(buffer, *place) for place in self._spills[:n_spills].tolist()),
            n_pings=n_pings,
            n_acknowledged=n_skipped,
            n_errors=n_errors,
        )

    def _readings(self, n: int) -> RawReadings:
        fields = self._fields[:n]
        return RawReadings(
            row=np.arange(n, dtype=np.int64),
            device_no=self._whose[:n, 0].copy(),
            source_kind=default_sources(n),
            measured_ms=fields[:, _TS].astype(np.int64),
            status=fields[:, _ST].astype(np.int64),
            power_w=fields[:, _P].copy(),
            soc_frac=fields[:, _SOC].copy(),
            temperature_degc=fields[:, _TC].copy(),
            voltage_v=fields[:, _V].copy(),
        )


def _spill(buffer: Bytes, subject: int, n_subject: int, payload: int, n_payload: int) -> Spill:
    name = buffer[subject : subject + n_subject].tobytes().decode("utf-8", "replace")
    return Spill(name, buffer[payload : payload + n_payload].tobytes())
