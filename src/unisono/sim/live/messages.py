"""What a gateway says and hears in JSON: the device side of the wire, written by itself."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import DamagedRecord
from unisono.base.instants import NS_PER_MS, NS_PER_S
from unisono.model.technology import CommandKind, Fallback
from unisono.sim import leases
from unisono.sim.devices import Answers, Reports

Whole = NDArray[np.int64]

_KIND: Final = {kind.name.lower(): int(kind) for kind in CommandKind}
_FALLBACK: Final = {fallback.name.lower(): int(fallback) for fallback in Fallback}


class CommandItem(msgspec.Struct):
    """One device's command in a frame."""

    no: int
    seq: int
    kind: str
    value: float
    start_ms: int
    expires_ms: int
    ttl_s: float
    fallback: str = "normal_operation"


class Frame(msgspec.Struct, tag_field="type", tag="frame"):
    """Commands for devices behind one gateway."""

    epoch: int
    issued_ms: int
    commands: list[CommandItem]
    shard: int = 0


class Renewal(msgspec.Struct, tag_field="type", tag="renewal"):
    """Another ttl for every lease up to ``through_seq``."""

    epoch: int
    through_seq: int
    issued_ms: int
    expires_ms: int
    shard: int = 0


class Receipt(msgspec.Struct):
    """What the platform has kept."""

    through_seq: int


class Fetched(msgspec.Struct):
    """Answer to a vendor cloud's poll."""

    frames: list[Frame | Renewal]
    next: int


_encode: Final = msgspec.json.Encoder().encode
_frame: Final = msgspec.json.Decoder(Frame)
_renewal: Final = msgspec.json.Decoder(Renewal)
_receipt: Final = msgspec.json.Decoder(Receipt)
_fetched: Final = msgspec.json.Decoder(Fetched)


def decode_downlink(what: str, payload: bytes) -> Frame | Renewal | Receipt:
    """Return what came on c/<gateway>/<what>; raises DamagedRecord."""
    try:
        if what == "f":
            return _frame.decode(payload)
        if what == "r":
            return _renewal.decode(payload)
        return _receipt.decode(payload)
    except msgspec.DecodeError as wrong:
        raise DamagedRecord(f"message on .../{what}", str(wrong)) from wrong


def decode_fetched(payload: bytes) -> Fetched:
    """Return what a poll brought; raises DamagedRecord."""
    try:
        return _fetched.decode(payload)
    except msgspec.DecodeError as wrong:
        raise DamagedRecord("fetched commands", str(wrong)) from wrong


def command_columns(
    frame: Frame, gateway: int, row_of_no: dict[int, int], at_ns: int
) -> tuple[Whole, NDArray[np.float64]]:
    """Return a frame as ``leases.C_*`` columns and watts; devices that the gateway doesn't know are left out."""
    known = [item for item in frame.commands if item.no in row_of_no]
    command = np.empty((leases.N_COMMAND, len(known)), np.int64)
    command[leases.C_GATEWAY], command[leases.C_EPOCH], command[leases.C_AT_NS] = gateway, frame.epoch, at_ns
    command[leases.C_ISSUED_NS] = frame.issued_ms * NS_PER_MS
    values = np.empty(len(known))
    for j, item in enumerate(known):
        command[leases.C_ROW, j], command[leases.C_SEQ, j] = row_of_no[item.no], item.seq
        command[leases.C_KIND, j] = _KIND.get(item.kind, int(CommandKind.SCHEDULE))
        command[leases.C_FALLBACK, j] = _FALLBACK.get(item.fallback, 0)
        command[leases.C_START_NS, j] = item.start_ms * NS_PER_MS
        command[leases.C_EXPIRES_NS, j] = item.expires_ms * NS_PER_MS
        command[leases.C_TTL_NS, j] = round(item.ttl_s * NS_PER_S)
        values[j] = item.value
    return command, values


def encode_acks(answers: Answers, no_of_row: Whole, at_ns: int) -> bytes:
    """Return acknowledgements; row -1 answers a renewal."""
    nos = np.where(answers.row >= 0, no_of_row[answers.row], -1)
    at_ms = at_ns // NS_PER_MS
    columns = zip(nos.tolist(), answers.epoch.tolist(), answers.seq.tolist(), answers.code.tolist(), strict=True)
    return _encode({"acks": [[no, epoch, seq, code, at_ms] for no, epoch, seq, code in columns]})


def readings_of(reports: Reports, at: NDArray[np.intp]) -> list[dict[str, Any]]:
    """Return readings without their devices' names: short keys, missing values left out."""
    readings = []
    for j in at.tolist():
        reading: dict[str, Any] = {
            "ts": int(reports.measured_ns[j]) // NS_PER_MS,
            "p": round(float(reports.power_w[j]), 1),
            "st": int(reports.status[j]),
        }
        soc, temperature = float(reports.soc_frac[j]), float(reports.temperature_degc[j])
        if not math.isnan(soc):
            reading["soc"] = round(soc, 4)
        if not math.isnan(temperature):
            reading["tc"] = round(temperature, 2)
        readings.append(reading)
    return readings


def encode_batch(seq: int, readings: list[dict[str, Any]]) -> bytes:
    """Return a batch with the gateway's sequence."""
    return _encode({"seq": seq, "readings": readings})


def encode_single(reading: dict[str, Any]) -> bytes:
    """Return one reading."""
    return _encode(reading)
