"""Rows of numbers as a kernel found them, held against the rules of ``rules`` and made columns of the stream's types.

The kernel twin of ``rules.settle`` for powers that nobody is told of row by row: a refused row is only counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_MS
from unisono.base.kernel import kernel
from unisono.model.batches import NO_SEQ, ReadingBatch
from unisono.wire.flatjson import SOC, ST, TC, TS, P, V
from unisono.wire.rules import RULES

# What became of a row.
GOOD, UNKNOWN_DEVICE, OUT_OF_RANGE = 0, 1, 2
CAUSES: Final = ("", "unknown_device", "out_of_range")

_COLUMN_OF_RULE: Final = {"ts": TS, "p": P, "soc": SOC, "tc": TC, "v": V, "st": ST}
# (field, [low, high, whether it must be given]) in the order of the row's numbers.
_BOUNDS: Final = np.zeros((len(_COLUMN_OF_RULE), 3))
for _rule in RULES:
    _BOUNDS[_COLUMN_OF_RULE[_rule.field]] = _rule.low, _rule.high, _rule.is_required


@dataclass(frozen=True, slots=True)
class Judged:
    """Good rows as columns of a ReadingBatch, and for every row that came its gateway and what became of it."""

    columns: dict[str, NDArray[Any]]
    gateway_no: NDArray[np.int32]
    verdict: NDArray[np.uint8]

    def batch(self, known_ns: int, **header: int | NDArray[np.int64]) -> ReadingBatch:
        """Return the good rows as one message; ``header``: gateway_no and batch_seq, or parts, if they have any."""
        return ReadingBatch.of_columns(
            {"gateway_no": -1, "batch_seq": NO_SEQ, "known_ns": known_ns} | header, self.columns
        )


@kernel(
    "i8(i8, i4[:, ::1], f8[:, ::1], f8[:, ::1], u1[::1],"
    " i4[::1], u1[::1], u2[::1], i8[::1], f4[::1], f4[::1], f4[::1], f4[::1])"
)
def _judge(
    n: int,
    whose: NDArray[np.int32],
    fields: NDArray[np.float64],
    bounds: NDArray[np.float64],
    verdict: NDArray[np.uint8],
    device_no: NDArray[np.int32],
    source_kind: NDArray[np.uint8],
    status: NDArray[np.uint16],
    measured_ns: NDArray[np.int64],
    power_w: NDArray[np.float32],
    soc_frac: NDArray[np.float32],
    temperature_degc: NDArray[np.float32],
    voltage_v: NDArray[np.float32],
) -> int:
    """Write the good rows one after the other; return how many."""
    n_good = 0
    for row in range(n):
        if whose[row, 0] < 0:
            verdict[row] = UNKNOWN_DEVICE
            continue
        is_good = True
        for field in range(bounds.shape[0]):
            value = fields[row, field]
            if not (bounds[field, 0] <= value <= bounds[field, 1]) and (bounds[field, 2] != 0.0 or not np.isnan(value)):
                is_good = False
        if not is_good:
            verdict[row] = OUT_OF_RANGE
            continue
        verdict[row] = GOOD
        device_no[n_good] = whose[row, 0]
        source_kind[n_good] = whose[row, 2]
        status[n_good] = np.uint16(fields[row, ST])
        measured_ns[n_good] = np.int64(fields[row, TS]) * NS_PER_MS
        power_w[n_good] = fields[row, P]
        soc_frac[n_good] = fields[row, SOC]
        temperature_degc[n_good] = fields[row, TC]
        voltage_v[n_good] = fields[row, V]
        n_good += 1
    return n_good


_TYPES: Final = {
    "device_no": np.int32,
    "source_kind": np.uint8,
    "status": np.uint16,
    "measured_ns": np.int64,
    "power_w": np.float32,
    "soc_frac": np.float32,
    "temperature_degc": np.float32,
    "voltage_v": np.float32,
}


def judge(n: int, whose: NDArray[np.int32], fields: NDArray[np.float64]) -> Judged:
    """Judge the first ``n`` rows; ``whose`` holds (device_no or -1, gateway_no or -1, source kind)."""
    verdict = np.empty(n, np.uint8)
    columns: dict[str, NDArray[Any]] = {name: np.empty(n, dtype) for name, dtype in _TYPES.items()}
    n_good = _judge(n, whose, fields, _BOUNDS, verdict, *columns.values())
    return Judged({name: column[:n_good] for name, column in columns.items()}, whose[:n, 1].copy(), verdict)
