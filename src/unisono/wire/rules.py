"""What a reading must hold to be taken in: one table of bounds, and the check of whole columns against it.

A reading that breaks a rule is counted and refused, never mended; the rest of its batch is taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import EARLIEST_NS, LATEST_NS, NS_PER_MS
from unisono.model.batches import NO_SEQ, ReadingBatch
from unisono.model.technology import SourceKind
from unisono.wire.energies import ENERGY_WH_MAX, INTERVAL_S_MAX, REGISTER_WH_MAX, Energies, misfit_of

MISSING_NO: Final = -1
# A refused value is told so far: enough to find it, and a thousand of them still make a short answer.
VALUE_CHARS_MAX: Final = 60
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


POWER_RULE: Final = Rule("p", "power_w", -1e9, 1e9, True, "must be finite and within +-1e9 W")
RULES: Final = (
    Rule("ts", "measured_ms", _EARLIEST_MS, _LATEST_MS - 1, True, "must lie between 2000 and 2100, in ms"),
    # A gigawatt at one device is a unit mistake.
    POWER_RULE,
    Rule("soc", "soc_frac", 0.0, 1.0, False, "must lie between 0 and 1"),
    # From arctic air to a gas engine's exhaust.
    Rule("tc", "temperature_degc", -100.0, 1000.0, False, "must lie between -100 and 1000 degC"),
    # The highest transmission voltages in service are 1.1 MV.
    Rule("v", "voltage_v", 0.0, 1.2e6, False, "must lie between 0 and 1.2e6 V"),
    Rule("st", "status", 0, 65535, False, "must lie between 0 and 65535"),
)
# Of the columns in ``Energies``.
ENERGY_RULES: Final = (
    Rule("energy_kwh", "energy_wh", -ENERGY_WH_MAX, ENERGY_WH_MAX, False, "must be within +-2.5e7 kWh"),
    Rule("register_kwh", "register_wh", -REGISTER_WH_MAX, REGISTER_WH_MAX, False, "must be within +-1e12 kWh"),
    Rule("interval_start_ms", "interval_ms", 1, 1000 * INTERVAL_S_MAX, False, "must lie before ts, by at most 25 h"),
)
_ALL_RULES: Final = (*RULES, *ENERGY_RULES)
# Above every index of a rule: the row holds none, or more than one, of what makes a reading.
_MISFIT: Final = 100


class RowError(msgspec.Struct, frozen=True):
    """Why one row of a batch was refused: the field, its value as JSON (cut short), the rule that it breaks.

    ``cause`` is the counter it goes to (``ingest.COUNTER_NAMES``).
    """

    row: int
    field: str
    value: str
    rule: str
    cause: str


def shown(value: object) -> str:
    """Return a value as JSON, cut to VALUE_CHARS_MAX characters."""
    return cut(json.dumps(value))


def cut(text: str) -> str:
    """Return the text's first VALUE_CHARS_MAX characters, with dots when there are more."""
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 3] + "..."


def nothing_sent(at: int, field: str) -> None:
    """Stand in for ``RawReadings.sent`` where nobody is told what became of a row."""


@dataclass(frozen=True, slots=True)
class RawReadings:
    """Columns as they came, before the check: values as float64, NaN where missing.

    ``energies`` None: every row is a power. ``sent`` tells what stood in a field (by its name on the wire; ``id`` for
    either name of the device) of the row at a position, None for nothing: asked only for rows that are refused.
    """

    row: NDArray[np.int64]
    device_no: NDArray[np.int32]
    source_kind: NDArray[np.uint8]
    measured_ms: NDArray[np.int64]
    status: NDArray[np.int64]
    power_w: NDArray[np.float64]
    soc_frac: NDArray[np.float64]
    temperature_degc: NDArray[np.float64]
    voltage_v: NDArray[np.float64]
    energies: Energies | None = None
    sent: Callable[[int, str], object] = nothing_sent


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
    """Return for each row the index of the first rule it breaks in RULES, then ENERGY_RULES; -1 if none."""
    energies = readings.energies
    broken = np.full(readings.measured_ms.size, -1, np.int8)
    for index in reversed(range(len(RULES if energies is None else _ALL_RULES))):
        rule = _ALL_RULES[index]
        values = getattr(readings if index < len(RULES) else energies, rule.column)
        is_good = (values >= rule.low) & (values <= rule.high)
        if not rule.is_required or (rule is POWER_RULE and energies is not None):
            is_good |= np.isnan(values)
        broken[~is_good] = index
    if energies is not None:
        broken[energies.misfits(readings.power_w)] = _MISFIT
    return broken


def settle(
    readings: RawReadings,
    earlier: list[RowError],
    *,
    known_ns: int,
    gateway_no: int = MISSING_NO,
    batch_seq: int = NO_SEQ,
) -> DecodedReadings:
    """Return the outcome: rows with ``device_no`` -1 are unknown devices, the others are held against the rules."""
    broken = broken_rule(readings)
    is_good = (readings.device_no != MISSING_NO) & (broken < 0)
    errors = [*earlier, *(_row_error(readings, int(at), int(broken[at])) for at in np.flatnonzero(~is_good))]
    errors.sort(key=lambda error: error.row)
    return DecodedReadings(_batch(readings, is_good, known_ns, gateway_no, batch_seq), tuple(errors))


def _row_error(readings: RawReadings, at: int, broken: int) -> RowError:
    sent = partial(readings.sent, at)
    if readings.device_no[at] == MISSING_NO:
        field, rule, cause = "id", "must be a device of this gateway", "unknown_device"
    elif broken == _MISFIT:
        (field, rule), cause = misfit_of(sent), "malformed"
    else:
        field, rule, cause = _ALL_RULES[broken].field, _ALL_RULES[broken].words, "out_of_range"
    return RowError(int(readings.row[at]), field, shown(sent(field)), rule, cause)


def _batch(
    readings: RawReadings, is_good: NDArray[np.bool_], known_ns: int, gateway_no: int, batch_seq: int
) -> ReadingBatch:
    columns = {
        "device_no": readings.device_no[is_good],
        "source_kind": readings.source_kind[is_good],
        "status": readings.status[is_good],
        "measured_ns": readings.measured_ms[is_good] * NS_PER_MS,
        "power_w": readings.power_w[is_good],
        "soc_frac": readings.soc_frac[is_good],
        "temperature_degc": readings.temperature_degc[is_good],
        "voltage_v": readings.voltage_v[is_good],
    }
    if readings.energies is not None:
        columns |= readings.energies.batch_columns(readings.measured_ms, is_good)
    return ReadingBatch.of_columns({"gateway_no": gateway_no, "batch_seq": batch_seq, "known_ns": known_ns}, columns)


def default_sources(n: int) -> NDArray[np.uint8]:
    """Return ``n`` times DEVICE: what a reading that names no source comes from."""
    return np.full(n, int(SourceKind.DEVICE), np.uint8)
