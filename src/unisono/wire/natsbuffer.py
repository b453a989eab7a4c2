"""Readings straight out of a NATS socket buffer: subjects, ids, flat JSON and packed records into columns, in kernels.

Takes ``u.<gateway>.<device>.t`` (a reading), ``u.<gateway>.b`` (a batch, JSON) and ``u.<gateway>.p`` (a batch, UPK1);
costs some 500 ns a single reading with both ids looked up, where an object per message costs 7,000 (measured). Whatever
surprises it (another subject or form, an unknown gateway's batch) is handed out as a ``Spill`` for the msgspec path,
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
from unisono.model.technology import SourceKind
from unisono.wire.flatjson import N_FIELDS, NO_ROOM, SURPRISE, json_batch, json_object, past_spaces
from unisono.wire.idtable import IdTable, slot_of
from unisono.wire.judge import GOOD, Judged, judge
from unisono.wire.packedrows import packed_batch
from unisono.wire.telemetry import READINGS_PER_BATCH_MAX

# Single readings, and readings of batches, that one scan finds at the most; a batch alone must fit.
ROWS_PER_SCAN: Final = 4096
BATCH_ROWS_PER_SCAN: Final = 3 * READINGS_PER_BATCH_MAX
PARTS_PER_SCAN: Final = 4096

Bytes = NDArray[np.uint8]

_SPACE, _MINUS, _DOT, _ZERO, _NINE, _NEWLINE = 32, 45, 46, 48, 57, 10
_H, _I, _M, _P, _BATCH, _PACKED, _TELEMETRY, _U = 72, 73, 77, 80, 98, 112, 116, 117
_DEVICE: Final = int(SourceKind.DEVICE)
_MQTT_QOS: Final = np.frombuffer(bytearray(b"Nmqtt-Pub:"), np.uint8)


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


@kernel("Tuple((i8, i8, i8, i8))(u1[::1], i8, i8)")
def _levels(buffer: Bytes, start: int, end: int) -> tuple[int, int, int, int]:
    """Return (last level's letter, end of the gateway, start and end of the device) of a subject ``u.<gateway>...``.

    The letter is 0 for a subject that is none of ours; a batch's subject has no device.
    """
    if end - start < 5 or buffer[start] != _U or buffer[start + 1] != _DOT or buffer[end - 2] != _DOT:
        return 0, 0, 0, 0
    middle = -1
    for at in range(start + 2, end - 2):
        if buffer[at] == _DOT:
            if middle >= 0:
                return 0, 0, 0, 0
            middle = at
    letter = int(buffer[end - 1])
    if letter == _TELEMETRY:
        if middle <= start + 2 or middle + 1 >= end - 2:
            return 0, 0, 0, 0
        return letter, middle, middle + 1, end - 2
    if middle >= 0 or end - 2 == start + 2:
        return 0, 0, 0, 0
    return letter, end - 2, 0, 0


@kernel("Tuple((i8, i8, i8, i8, i8))(u1[::1], i8, i8)")
def _framed(buffer: Bytes, at: int, end: int) -> tuple[int, int, int, int, int]:
    """Return (behind it, subject, header, body, body's end) of the message or line of control at ``at``.

    Behind it -1: a part only. Subject -1: no message. Without a header, header and body are one place.
    """
    line_end = at
    while line_end < end and buffer[line_end] != _NEWLINE:
        line_end += 1
    if line_end >= end:
        return -1, -1, 0, 0, 0
    has_header = buffer[at] == _H
    if not has_header and buffer[at] != _M:
        return line_end + 1, -1, 0, 0, 0
    n_total, before = _number_before(buffer, line_end - 2)
    n_header = 0
    if has_header:
        n_header, before = _number_before(buffer, before - 1)
    stop = line_end + 1 + n_total
    if stop + 2 > end:
        return -1, -1, 0, 0, 0
    return stop + 2, at + (5 if has_header else 4), line_end + 1, line_end + 1 + n_header, stop


@kernel("i8(u1[::1], i8)")
def _word_end(buffer: Bytes, at: int) -> int:
    while buffer[at] != _SPACE:
        at += 1
    return at


@kernel("i8(i8[:, ::1], i8, i8, i8, i8, i8)")
def _noted(spills: NDArray[np.int64], n: int, subject: int, subject_end: int, body: int, body_end: int) -> int:
    """Note where a message lies that is for the slow path; return how many there are now."""
    spills[n, 0], spills[n, 1], spills[n, 2], spills[n, 3] = subject, subject_end - subject, body, body_end - body
    return n + 1


@kernel("i4(i4, i4, i4[::1])")
def _own(device_no: int, gateway_no: int, gateway_of_device: NDArray[np.int32]) -> int:
    """Return the device if it is that gateway's, else -1."""
    if device_no < 0 or gateway_no < 0 or device_no >= gateway_of_device.size:
        return -1
    return device_no if gateway_of_device[device_no] == gateway_no else -1


@kernel(
    "Tuple((i8, i8, i8, i8, i8, i8, i8, i8))(u1[::1], i8, u1[::1],"
    " u8[::1], i8[::1], i4[::1], i4[::1], u1[::1], u8[::1], i8[::1], i4[::1], i4[::1], u1[::1],"
    " i4[::1], i4[:, ::1], f8[:, ::1], i4[:, ::1], f8[:, ::1], i8[:, ::1], i8[:, ::1])"
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
    batch_whose: NDArray[np.int32],
    batch_fields: NDArray[np.float64],
    parts: NDArray[np.int64],
    spills: NDArray[np.int64],
) -> tuple[int, int, int, int, int, int, int, int]:
    # (bytes consumed, rows, rows of batches, batches, spills, pings, acknowledged, errors); stops at a part, or full.
    at, n_rows, n_batch_rows, n_parts, n_spills, n_pings, n_skipped, n_errors = 0, 0, 0, 0, 0, 0, 0, 0
    while at < end and n_rows < whose.shape[0] and n_spills < spills.shape[0] and n_parts < parts.shape[0]:
        behind, subject, header, body, stop = _framed(buffer, at, end)
        if behind < 0:
            break
        if subject < 0 or _is_acknowledged(buffer, header, body, qos_name):
            n_skipped += subject >= 0
            n_pings += subject < 0 and buffer[at] == _P and buffer[at + 1] == _I
            n_errors += subject < 0 and buffer[at] == _MINUS
            at = behind
            continue
        subject_end = _word_end(buffer, subject)
        letter, gateway_end, device, device_end = _levels(buffer, subject, subject_end)
        gateway_no = -1
        if letter in (_TELEMETRY, _BATCH, _PACKED):
            n_name = gateway_end - subject - 2
            # -1 in a free slot.
            gateway_no = gw_values[slot_of(buffer, subject + 2, n_name, gw_hashes, gw_starts, gw_lengths, gw_pool)]
        n_found, seq = SURPRISE, 0
        if letter == _TELEMETRY:
            past, _, _ = json_object(buffer, past_spaces(buffer, body, stop), stop, False, fields[n_rows])
            if past >= 0 and past_spaces(buffer, past, stop) == stop:
                slot = slot_of(buffer, device, device_end - device, dev_hashes, dev_starts, dev_lengths, dev_pool)
                device_no = _own(dev_values[slot], gateway_no, gateway_of_device)
                whose[n_rows, 0], whose[n_rows, 1], whose[n_rows, 2] = device_no, gateway_no, _DEVICE
                n_rows, n_found = n_rows + 1, 1
        elif gateway_no >= 0 and letter == _BATCH:
            n_found, seq = json_batch(
                buffer, body, stop, gateway_no,
                dev_hashes, dev_starts, dev_lengths, dev_values, dev_pool,
                gateway_of_device, batch_whose, batch_fields, n_batch_rows,
            )  # fmt: skip
        elif gateway_no >= 0 and letter == _PACKED:
            n_found, seq = packed_batch(
                buffer, body, stop, gateway_no, gateway_of_device, batch_whose, batch_fields, n_batch_rows
            )
        if n_found == NO_ROOM and n_batch_rows > 0:
            break
        at = behind
        if n_found < 0 or n_found > READINGS_PER_BATCH_MAX:
            n_spills = _noted(spills, n_spills, subject, subject_end, body, stop)
        elif letter != _TELEMETRY:
            parts[n_parts, 0], parts[n_parts, 1], parts[n_parts, 2] = gateway_no, seq, n_found
            n_parts += 1
            n_batch_rows += n_found
    return at, n_rows, n_batch_rows, n_parts, n_spills, n_pings, n_skipped, n_errors


@dataclass(frozen=True, slots=True)
class Spill:
    """A message for the slow path."""

    subject: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Scanned:
    """What one scan found: single readings, the readings of batches, and what is for the slow path.

    ``parts`` (batch, [gateway_no, sequence, readings]) says how many of the rows in ``batches`` are of which batch, in
    their order, good and bad.
    """

    n_consumed: int
    singles: Judged
    batches: Judged
    parts: NDArray[np.int64]
    spills: tuple[Spill, ...]
    n_pings: int
    n_acknowledged: int
    n_errors: int

    def good_parts(self) -> NDArray[np.int64]:
        """Return ``parts`` with the good readings only counted."""
        good = self.parts.copy()
        ends = np.cumsum(self.parts[:, 2])
        n_good_before = np.concatenate([[0], np.cumsum(self.batches.verdict == GOOD)])
        good[:, 2] = n_good_before[ends] - n_good_before[ends - self.parts[:, 2]]
        return good


class NatsBuffer:
    """The kernels, their tables, their room for rows. ``gateway_of_device`` may be replaced by a longer array."""

    def __init__(self, gateways: IdTable, devices: IdTable, n_rows_max: int = ROWS_PER_SCAN) -> None:
        self._gateways = gateways
        self._devices = devices
        self._whose = np.empty((n_rows_max, 3), np.int32)
        self._fields = np.empty((n_rows_max, N_FIELDS), np.float64)
        self._batch_whose = np.empty((BATCH_ROWS_PER_SCAN, 3), np.int32)
        self._batch_fields = np.empty((BATCH_ROWS_PER_SCAN, N_FIELDS), np.float64)
        self._parts = np.empty((PARTS_PER_SCAN, 3), np.int64)
        self._spills = np.empty((n_rows_max, 4), np.int64)

    def scan(self, buffer: Bytes, n_bytes: int, gateway_of_device: NDArray[np.int32]) -> Scanned:
        """Return the whole messages at the front of ``buffer[:n_bytes]``; call again with the rest while any."""
        g, d = self._gateways, self._devices
        consumed, n_rows, n_batch_rows, n_parts, n_spills, n_pings, n_skipped, n_errors = _scan(
            buffer,
            n_bytes,
            _MQTT_QOS,
            *(g.hashes, g.starts, g.lengths, g.values, g.pool),
            *(d.hashes, d.starts, d.lengths, d.values, d.pool),
            gateway_of_device,
            *(self._whose, self._fields, self._batch_whose, self._batch_fields),
            *(self._parts, self._spills),
        )
        return Scanned(
            n_consumed=consumed,
            singles=judge(n_rows, self._whose, self._fields),
            batches=judge(n_batch_rows, self._batch_whose, self._batch_fields),
            parts=self._parts[:n_parts].copy(),
            spills=tuple(_spill(buffer, *place) for place in self._spills[:n_spills].tolist()),
            n_pings=n_pings,
            n_acknowledged=n_skipped,
            n_errors=n_errors,
        )


def _spill(buffer: Bytes, subject: int, n_subject: int, payload: int, n_payload: int) -> Spill:
    name = buffer[subject : subject + n_subject].tobytes().decode("utf-8", "replace")
    return Spill(name, buffer[payload : payload + n_payload].tobytes())
