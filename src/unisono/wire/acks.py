"""What devices answered to commands, as JSON: ``{"acks": [[device_no, epoch, seq, code, answered_ms], ...]}``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from unisono.base.errors import InvalidInput
from unisono.base.instants import EARLIEST_NS, LATEST_NS, NS_PER_MS
from unisono.model.batches import AckBatch
from unisono.model.technology import AckCode
from unisono.wire.rules import RowError, cut, shown
from unisono.wire.telemetry import KnownDevices, refused_whole

ACKS_PER_MESSAGE_MAX: Final = 10_000
# A gateway's answer to a lease renewal stands in for all its devices.
RENEWAL_NO: Final = -1

AckRow = tuple[int, int, int, int, int]


class _Acks(msgspec.Struct):
    acks: list[AckRow]


class _LooseAcks(msgspec.Struct):
    acks: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class DecodedAcks:
    """The good answers as a batch, and one RowError for each of the others."""

    batch: AckBatch
    rejected: tuple[RowError, ...]


_DECODER: Final = msgspec.json.Decoder(_Acks)
_LOOSE: Final = msgspec.json.Decoder(_LooseAcks)
_ROW: Final = msgspec.json.Decoder(AckRow)
_ENCODER: Final = msgspec.json.Encoder()


def decode_acks(payload: bytes, gateway_no: int, known: KnownDevices, known_ns: int) -> DecodedAcks:
    """Return the answers of a gateway; raises InvalidInput when it is no list of answers at all."""
    errors: list[RowError] = []
    try:
        rows = _DECODER.decode(payload).acks
        places: Sequence[int] = range(len(rows))
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows, places, errors = _decode_each(payload)
    if len(rows) + len(errors) > ACKS_PER_MESSAGE_MAX:
        raise InvalidInput("acks", len(rows) + len(errors), f"must be at most {ACKS_PER_MESSAGE_MAX} a message")
    claimed = np.fromiter((no if -1 <= no < 2**31 else -2 for no, *_ in rows), np.int32, len(rows))
    owned = np.where(claimed == RENEWAL_NO, 0, known.own_device_nos(gateway_no, np.maximum(claimed, 0)))
    good: list[AckRow] = []
    for at, row in enumerate(rows):
        error = _error(places[at], row, is_known=bool(owned[at] >= 0))
        if error is None:
            good.append(row)
        else:
            errors.append(error)
    errors.sort(key=lambda error: error.row)
    return DecodedAcks(_batch(good, gateway_no, known_ns), tuple(errors))


def encode_acks(rows: list[AckRow]) -> bytes:
    """Return the JSON that a gateway sends."""
    return _ENCODER.encode({"acks": rows})


def _decode_each(payload: bytes) -> tuple[list[AckRow], list[int], list[RowError]]:
    try:
        parts = _LOOSE.decode(payload).acks
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise refused_whole(payload, wrong) from wrong
    rows: list[AckRow] = []
    places: list[int] = []
    errors: list[RowError] = []
    for place, part in enumerate(parts):
        try:
            rows.append(_ROW.decode(part))
            places.append(place)
        except (msgspec.DecodeError, UnicodeDecodeError):
            text = cut(bytes(part).decode("utf-8", "replace"))
            errors.append(
                RowError(
                    place,
                    "acks",
                    text,
                    "must be five whole numbers: [device_no, epoch, seq, code, answered_ms]",
                    "malformed",
                )
            )
    return rows, places, errors


def _error(at: int, row: AckRow, *, is_known: bool) -> RowError | None:
    no, epoch, seq, code, answered_ms = row
    if not is_known:
        return RowError(at, "device_no", shown(no), "must be a device of this gateway", "unknown_device")
    for field, value in (("epoch", epoch), ("seq", seq)):
        if not 0 <= value < 2**63:
            return RowError(at, field, shown(value), "must be a whole number from 0 to 2^63 - 1", "out_of_range")
    if code not in AckCode.__members__.values():
        return RowError(at, "code", shown(code), f"must be one of 0 to {max(AckCode)}", "out_of_range")
    if not EARLIEST_NS <= answered_ms * NS_PER_MS < LATEST_NS:
        rule = "must lie between 2000 and 2100, in ms"
        return RowError(at, "answered_ms", shown(answered_ms), rule, "out_of_range")
    return None


def _batch(rows: list[AckRow], gateway_no: int, known_ns: int) -> AckBatch:
    table = np.array(rows, np.int64).reshape(len(rows), 5)
    return AckBatch.of_columns(
        {"gateway_no": gateway_no, "known_ns": known_ns},
        {
            "device_no": table[:, 0],
            "epoch": table[:, 1],
            "seq": table[:, 2],
            "code": table[:, 3],
            "answered_ns": table[:, 4] * NS_PER_MS,
        },
    )
