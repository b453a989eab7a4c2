"""Bodies of many requests at once into rows of numbers: JSON batches and packed ones, as ``natsbuffer`` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel
from unisono.wire.flatjson import N_FIELDS, NO_ROOM, SURPRISE, json_batch
from unisono.wire.idtable import IdTable
from unisono.wire.judge import GOOD, Judged, judge
from unisono.wire.packedrows import packed_batch
from unisono.wire.telemetry import READINGS_PER_BATCH_MAX

Bytes = NDArray[np.uint8]

_U = 85


@dataclass(frozen=True, slots=True)
class Body:
    """What one gateway sent in one request, as JSON or packed."""

    gateway_no: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class BodiesFound:
    """The readings of the bodies of which every row is good, one behind the other.

    ``parts`` (body, [gateway_no, sequence, readings]); readings are -1 for a body that another decoder must look at,
    and its rows are not among ``readings``.
    """

    readings: Judged
    parts: NDArray[np.int64]


@kernel(
    "void(u1[::1], i8[::1], i4[::1], u8[::1], i8[::1], i4[::1], i4[::1], u1[::1], i4[::1],"
    " i4[:, ::1], f8[:, ::1], i8[:, ::1])"
)
def _scan_bodies(
    buffer: Bytes,
    ends: NDArray[np.int64],
    gateway_nos: NDArray[np.int32],
    hashes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int32],
    values: NDArray[np.int32],
    pool: Bytes,
    gateway_of_device: NDArray[np.int32],
    whose: NDArray[np.int32],
    fields: NDArray[np.float64],
    parts: NDArray[np.int64],
) -> None:
    row, start = 0, 0
    for body in range(ends.size):
        end = int(ends[body])
        if end > start and buffer[start] == _U:
            n, seq = packed_batch(buffer, start, end, gateway_nos[body], gateway_of_device, whose, fields, row)
        else:
            n, seq = json_batch(
                buffer, start, end, gateway_nos[body], hashes, starts, lengths, values, pool,
                gateway_of_device, whose, fields, row,
            )  # fmt: skip
        if n == NO_ROOM or n > READINGS_PER_BATCH_MAX:
            n = SURPRISE
        parts[body, 0], parts[body, 1], parts[body, 2] = gateway_nos[body], seq, n
        row += max(n, 0)
        start = end


class BodyScan:
    """The kernel with its room for rows; a body that finds none any more is left to another decoder."""

    def __init__(self, devices: IdTable, n_rows_max: int = 2 * READINGS_PER_BATCH_MAX) -> None:
        self._devices = devices
        self._whose = np.empty((n_rows_max, 3), np.int32)
        self._fields = np.empty((n_rows_max, N_FIELDS), np.float64)

    def scan(self, bodies: Sequence[Body], gateway_of_device: NDArray[np.int32]) -> BodiesFound:
        """Return what the bodies hold."""
        d = self._devices
        ends = np.cumsum(np.fromiter((len(body.payload) for body in bodies), np.int64, len(bodies)))
        parts = np.empty((len(bodies), 3), np.int64)
        _scan_bodies(
            np.frombuffer(bytearray(b"".join(body.payload for body in bodies)), np.uint8),
            ends,
            np.fromiter((body.gateway_no for body in bodies), np.int32, len(bodies)),
            *(d.hashes, d.starts, d.lengths, d.values, d.pool),
            gateway_of_device,
            *(self._whose, self._fields, parts),
        )
        sizes = np.maximum(parts[:, 2], 0)
        n_rows = int(sizes.sum())
        judged = judge(n_rows, self._whose, self._fields)
        if len(judged.columns["device_no"]) == n_rows:
            return BodiesFound(judged, parts)
        # Who sent a row that is refused is told which and why: that is the other decoder's business.
        body_of_row = np.repeat(np.arange(len(bodies)), sizes)
        is_left = np.zeros(len(bodies), np.bool_)
        is_left[body_of_row[judged.verdict != GOOD]] = True
        is_taken = ~is_left[body_of_row]
        parts[is_left, 2] = SURPRISE
        n_taken = int(is_taken.sum())
        return BodiesFound(judge(n_taken, self._whose[:n_rows][is_taken], self._fields[:n_rows][is_taken]), parts)
