"""Readings as JSON: one reading (MQTT), a batch with a sequence (MQTT, HTTP), one reading a line (NDJSON, HTTP).

``{"ts": ms, "p": W, "soc": 0..1, "tc": degC, "v": V, "st": int}``; ``ts`` is required, and so is ``p`` or, in its
place, ``energy_kwh`` with ``interval_start_ms``, or ``register_kwh``; in batches also ``id`` (text) or ``no``
(device_no). Unknown keys are ignored. All three are positive into the grid on this wire already. One bad row never
spoils a batch: it comes back as a RowError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import InvalidInput
from unisono.base.rule_words import MUST_BE_GIVEN, field_and_rule_of_msgspec
from unisono.model.technology import SourceKind
from unisono.wire.energies import WH_PER_KWH, Energies
from unisono.wire.rules import MISSING_NO, VALUE_CHARS_MAX, DecodedReadings, RawReadings, RowError, cut, settle

READINGS_PER_BATCH_MAX: Final = 10_000

SOURCE_OF_NAME: Final = {source.name.lower(): int(source) for source in SourceKind}
_DEVICE: Final = int(SourceKind.DEVICE)


class Reading(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """One reading on the wire: a power, an interval's energy (``ts`` is its end) or a register.

    ``src`` (meter, vendor_cloud, estimate) only when it is not the device itself.
    """

    id: str = ""
    no: int = MISSING_NO
    ts: int
    p: float | None = None
    soc: float | None = None
    tc: float | None = None
    v: float | None = None
    st: int | None = None
    src: str | None = None
    energy_kwh: float | None = None
    interval_start_ms: int | None = None
    register_kwh: float | None = None


class _Batch(msgspec.Struct):
    seq: int
    readings: list[Reading]


class _LooseBatch(msgspec.Struct):
    seq: int
    readings: list[msgspec.Raw]


class KnownDevices(Protocol):
    """Who is behind which gateway (``links.identity``); -1 for a device that is not this gateway's."""

    def device_nos_of_ids(self, gateway_no: int, ids: Sequence[str]) -> NDArray[np.int32]:
        """Return the device_no of each id."""
        ...

    def own_device_nos(self, gateway_no: int, device_nos: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return each device_no, or -1 where it is not this gateway's."""
        ...


_READING: Final = msgspec.json.Decoder(Reading)
_BATCH: Final = msgspec.json.Decoder(_Batch)
_LOOSE: Final = msgspec.json.Decoder(_LooseBatch)
_ENCODER: Final = msgspec.json.Encoder()
# Some encoders write these, which JSON does not know: as texts they spoil no more than their row.
_NOT_A_NUMBER: Final = re.compile(rb"(?<=[:\[,\s])(NaN|-?Infinity)(?=\s*[,}\]])")
_PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_batch(payload: bytes, gateway_no: int, known: KnownDevices, known_ns: int) -> DecodedReadings:
    """Return the readings of a batch with its sequence; raises InvalidInput when it is no batch at all."""
    errors: list[RowError] = []
    rows: Sequence[int]
    try:
        whole = _BATCH.decode(payload)
        seq, readings, n_rows = whole.seq, whole.readings, len(whole.readings)
        rows = range(n_rows)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            loose = _LOOSE.decode(_NOT_A_NUMBER.sub(rb'"\1"', payload))
        except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
            raise refused_whole(payload, wrong) from wrong
        seq, n_rows = loose.seq, len(loose.readings)
        readings, rows, errors = _decode_each(enumerate(loose.readings))
    if not 0 <= seq < 2**63:
        raise InvalidInput("seq", seq, "must be a whole number from 0 to 2^63 - 1")
    _check_count(n_rows)
    return settle(
        raw_columns(readings, rows, resolve(readings, gateway_no, known)),
        errors,
        known_ns=known_ns,
        gateway_no=gateway_no,
        batch_seq=seq,
    )


def decode_ndjson(payload: bytes, gateway_no: int, known: KnownDevices, known_ns: int) -> DecodedReadings:
    """Return the readings of a text with one JSON object a line. It has no sequence.

    Empty lines are skipped, but they count: the ``row`` of an error is its line's place in the text, from 0.
    """
    lines = {at: line for at, line in enumerate(payload.splitlines()) if line.strip()}
    _check_count(len(lines))
    readings, rows, errors = _decode_each(lines.items())
    return settle(
        raw_columns(readings, rows, resolve(readings, gateway_no, known)),
        errors,
        known_ns=known_ns,
        gateway_no=gateway_no,
    )


def decode_single(payload: bytes) -> Reading | RowError:
    """Return the one reading, or why it is none."""
    try:
        return _READING.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        return _malformed(0, payload, wrong)


def encode_single(reading: Reading) -> bytes:
    """Return the reading's JSON."""
    return _ENCODER.encode(reading)


def encode_batch(seq: int, readings: Iterable[Reading]) -> bytes:
    """Return the batch's JSON."""
    return _ENCODER.encode({"seq": seq, "readings": list(readings)})


def encode_ndjson(readings: Iterable[Reading]) -> bytes:
    """Return one line per reading."""
    return _ENCODER.encode_lines(readings)


def resolve(readings: Sequence[Reading], gateway_no: int, known: KnownDevices) -> NDArray[np.int32]:
    """Return each reading's device_no by its ``id``, or by its ``no`` when it has no id; -1 if not this gateway's."""
    nos = np.fromiter((reading.no if -1 <= reading.no < 2**31 else -1 for reading in readings), np.int32, len(readings))
    nos = known.own_device_nos(gateway_no, nos)
    named = [at for at, reading in enumerate(readings) if reading.id]
    if named:
        nos[named] = known.device_nos_of_ids(gateway_no, [readings[at].id for at in named])
    return nos


def raw_columns(readings: Sequence[Reading], rows: Sequence[int], device_nos: NDArray[np.int32]) -> RawReadings:
    """Return the columns of these readings; ``rows`` are their positions in what was sent."""
    n = len(readings)
    # Whole numbers beyond 63 bits can't be columns; they break the rule anyway.
    measured_ms = np.fromiter((_within_63_bits(r.ts) for r in readings), np.int64, n)
    power_w = _floats(readings, "p")
    return RawReadings(
        row=np.fromiter(rows, np.int64, n),
        device_no=device_nos,
        # An unknown source's name counts as the device's own word: the least that is meant by it.
        source_kind=np.fromiter((SOURCE_OF_NAME.get(r.src or "", _DEVICE) for r in readings), np.uint8, n),
        measured_ms=measured_ms,
        status=np.fromiter((0 if r.st is None else _within_63_bits(r.st) for r in readings), np.int64, n),
        power_w=power_w,
        soc_frac=_floats(readings, "soc"),
        temperature_degc=_floats(readings, "tc"),
        voltage_v=_floats(readings, "v"),
        energies=_energies(readings, power_w, measured_ms),
        sent=_sent(readings),
    )


def _floats(readings: Sequence[Reading], field: str) -> NDArray[np.float64]:
    # numpy makes None NaN; without a generator it takes a third of the time.
    return np.fromiter(map(attrgetter(field), readings), np.float64, len(readings))


def _energies(
    readings: Sequence[Reading], power_w: NDArray[np.float64], measured_ms: NDArray[np.int64]
) -> Energies | None:
    """Return the columns of energies and registers; None when every reading is a power and nothing else."""
    # A list, because that takes half the time of `any`.
    others = [
        r for r in readings if r.energy_kwh is not None or r.register_kwh is not None or r.interval_start_ms is not None
    ]
    if not others and not np.isnan(power_w).any():
        return None
    starts = (r.interval_start_ms for r in readings)
    start_ms = np.fromiter((None if ms is None else _within_63_bits(ms) for ms in starts), np.float64, len(readings))
    # What overflows to infinity breaks its rule.
    with np.errstate(over="ignore"):
        energy_wh, register_wh = (_floats(readings, name) * WH_PER_KWH for name in ("energy_kwh", "register_kwh"))
    return Energies(energy_wh, register_wh, interval_ms=measured_ms - start_ms)


def _sent(readings: Sequence[Reading]) -> Callable[[int, str], object]:
    def sent(at: int, field: str) -> object:
        reading = readings[at]
        return (reading.id or reading.no) if field == "id" else getattr(reading, field)

    return sent


def _decode_each(parts: Iterable[tuple[int, bytes | msgspec.Raw]]) -> tuple[list[Reading], list[int], list[RowError]]:
    readings: list[Reading] = []
    rows: list[int] = []
    errors: list[RowError] = []
    for row, part in parts:
        try:
            readings.append(_READING.decode(part))
            rows.append(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
            errors.append(_malformed(row, part, wrong))
    return readings, rows, errors


def _malformed(row: int, part: bytes | msgspec.Raw, wrong: Exception) -> RowError:
    field, rule = field_and_rule_of_msgspec(wrong)
    value = "null" if rule == MUST_BE_GIVEN else _text_of(part, field)
    return RowError(row, field or "body", value, rule, "malformed")


def refused_whole(payload: bytes, wrong: Exception) -> InvalidInput:
    """Return why a body is refused as a whole: the field with its value, or the beginning of the body as text."""
    field, rule = field_and_rule_of_msgspec(wrong)
    if rule == MUST_BE_GIVEN:
        return InvalidInput(field, None, rule)
    try:
        return InvalidInput(field, msgspec.json.decode(_PARTS.decode(payload)[field]), rule)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return InvalidInput(field or "body", payload[:80].decode("utf-8", "replace"), rule)


def _text_of(part: bytes | msgspec.Raw, field: str) -> str:
    """Return the JSON of a field as it was sent; of the whole part when that can't be found."""
    text = bytes(part)
    if field:
        try:
            text = bytes(_PARTS.decode(part).get(field, part))
        except (msgspec.DecodeError, UnicodeDecodeError):
            # What follows the field is no JSON either.
            field = ""
    # A character takes 4 bytes at the most.
    return cut(text[: 4 * VALUE_CHARS_MAX + 4].decode("utf-8", "replace"))


def _within_63_bits(value: int) -> int:
    return value if -(2**63) <= value < 2**63 else -1


def _check_count(n_rows: int) -> None:
    if n_rows > READINGS_PER_BATCH_MAX:
        raise InvalidInput("readings", n_rows, f"must be at most {READINGS_PER_BATCH_MAX} a batch")
