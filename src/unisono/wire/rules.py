"""What a reading must hold to be taken in: one table of bounds, and the check of whole columns against it.

A reading that breaks a rule is counted and refused, never mended; the rest of its batch is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import EARLIEST_NS, LATEST_NS, NS_PER_MS
from unisono.model.batches import NO_SEQ, ReadingBatch
from unisono.model.technology import SourceKind

MISSING_NO: Final = -1
_EARLIEST_MS: Final = EARLIEST_NS // NS_PER_MS
_LATEST_MS: Final = LATEST_NS // NS_PER_MS


@dataclass(frozen=True, slots=True)
class Rule:
    """``field`` on the wire, column ``column`` here, must lie in [low, high]; NaN passes unless ``is_required``."""

    field: str
    column: str
    low: float
    high: float
    is_required: bool
    words: str


RULES: Final = (
    Rule("ts", "measured_ms", _EARLIEST_MS, _LATEST_MS - 1, True, "must lie between 2000 and 2100, in ms"),
    # A gigawatt at one device is a unit mistake.
    Rule("p", "power_w", -1e9, 1e9, True, "must be finite and within +-1e9 W"),
    Rule("soc", "soc_frac", 0.0, 1.0, False, "must lie between 0 and 1"),
    # From arctic air to a gas engine's exhaust.
    Rule("tc", "temperature_degc", -100.0, 1000.0, False, "must lie between -100 and 1000 degC"),
    # The highest transmission voltages in service are 1.1 MV.
    Rule("v", "voltage_v", 0.0, 1.2e6, False, "must lie between 0 and 1.2e6 V"),
    Rule("st", "status", 0, 65535, False, "must lie between 0 and 65535"),
)


class RowError(msgspec.Struct, frozen=True):
    """Why one row of a batch was refused; ``cause`` is the counter it goes to (``totals.COUNTER_NAMES``)."""

    row: int
    field: str
    rule: str
    cause: str


@dataclass(frozen=True, slots=True)
class RawReadings:
    """Columns as they came, before the check: values as float64, NaN where missing."""

    row: NDArray[np.int64]
    device_no: NDArray[np.int32]
    source_kind: NDArray[np.uint8]
    measured_ms: NDArray[np.int64]
    status: NDArray[np.int64]
    power_w: NDArray[np.float64]
    soc_frac: NDArray[np.float64]
    temperature_degc: NDArray[np.float64]
    voltage_v: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DecodedReadings:
    """What became of one payload: the good rows as a batch, and one RowError for each of the others."""

    batch: ReadingBatch
    rejected: tuple[RowError, ...]

    @property
    def n_received(self) -> int:
        """Rows that came, good and bad."""
        return len(self.batch) + len(self.rejected)

    def count(self, cause: str) -> int:
        """Return how many rows were refused for that cause."""
        return sum(error.cause == cause for error in self.rejected)


def broken_rule(readings: RawReadings) -> NDArray[np.int8]:
    """Return for each row the index in RULES of the first rule it breaks, -1 if none."""
    broken = np.full(readings.measured_ms.size, -1, np.int8)
    for index in reversed(range(len(RULES))):
        rule = RULES[index]
        values = getattr(readings, rule.column)
        is_good = (values >= rule.low) & (values <= rule.high)
        if not rule.is_required:
            is_good |= np.isnan(values)
        broken[~is_good] = index
    return broken


def settle(
    readings: RawReadings,
    earlier: list[RowError],
    *,
    known_ns: int,
    gateway_no: int = MISSING_NO,
    batch_seq: int = NO_SEQ,
) -> DecodedReadings:
    """Return the outcome: rows with ``device_no`` -1 are unknown devices, the others are held against RULES."""
    is_unknown = readings.device_no == MISSING_NO
    broken = broken_rule(readings)
    is_good = ~is_unknown & (broken < 0)
    errors = list(earlier)
    for at in np.flatnonzero(~is_good):
        row = int(readings.row[at])
        if is_unknown[at]:
            errors.append(RowError(row, "id", "is no device of this gateway", "unknown_device"))
        else:
            rule = RULES[broken[at]]
            errors.append(RowError(row, rule.field, rule.words, "out_of_range"))
    errors.sort(key=lambda error: error.row)
    return DecodedReadings(_batch(readings, is_good, known_ns, gateway_no, batch_seq), tuple(errors))


def _batch(
    readings: RawReadings, is_good: NDArray[np.bool_], known_ns: int, gateway_no: int, batch_seq: int
) -> ReadingBatch:
    n = int(np.count_nonzero(is_good))
    return ReadingBatch.of_columns(
        {"gateway_no": gateway_no, "batch_seq": batch_seq, "known_ns": known_ns},
        {
            "device_no": readings.device_no[is_good],
            "source_kind": readings.source_kind[is_good],
            "reading_kind": np.zeros(n, np.uint8),
            "quality": np.zeros(n, np.uint8),
            "status": readings.status[is_good],
            "measured_ns": readings.measured_ms[is_good] * NS_PER_MS,
            "power_w": readings.power_w[is_good],
            "soc_frac": readings.soc_frac[is_good],
            "temperature_degc": readings.temperature_degc[is_good],
            "voltage_v": readings.voltage_v[is_good],
        },
    )


def default_sources(n: int) -> NDArray[np.uint8]:
    """Return ``n`` times DEVICE: what a reading that names no source comes from."""
    return np.full(n, int(SourceKind.DEVICE), np.uint8)
