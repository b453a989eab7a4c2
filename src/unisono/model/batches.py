"""Columnar batches: readings and acknowledgements coming in, command frames going out.

Each batch is a few equal-length numpy arrays plus scalars. Bytes on a stream: 4 magic bytes, a MessagePack
header's length (uint32), the header, then the columns one after the other, little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import DamagedRecord

NO_SEQ: Final = -1
# Some 4.6 MB, where NATS takes 8 MiB. History tells the messages of a cycle apart by it: it can only be changed
# together with a way to tell what was written before.
COMMANDS_PER_MESSAGE_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class _Columns:
    """Shared packing of a batch; subclasses declare scalars in HEADER and arrays in DTYPES (both in order)."""

    MAGIC: ClassVar[bytes]
    HEADER: ClassVar[tuple[str, ...]]
    DTYPES: ClassVar[dict[str, str]]

    def __len__(self) -> int:
        return int(getattr(self, next(iter(self.DTYPES))).size)

    def encode(self) -> bytes:
        """Return the batch's bytes."""
        header = msgspec.msgpack.encode([len(self), *(getattr(self, name) for name in self.HEADER), *self._more()])
        parts = [self.MAGIC, len(header).to_bytes(4, "little"), header]
        for name, dtype in self.DTYPES.items():
            column = np.ascontiguousarray(getattr(self, name), dtype=np.dtype(dtype).newbyteorder("<"))
            assert column.size == len(self), f"column {name} has another length"
            parts.append(column.tobytes())
        return b"".join(parts)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Return the batch; its arrays are read-only views of ``payload``. Raises DamagedRecord."""
        if payload[:4] != cls.MAGIC:
            raise DamagedRecord(cls.__name__, f"starts with {payload[:4]!r}, not {cls.MAGIC!r}")
        try:
            header_end = 8 + int.from_bytes(payload[4:8], "little")
            n, *scalars = msgspec.msgpack.decode(payload[8:header_end])
            more = scalars[len(cls.HEADER) :]
            values: dict[str, Any] = dict(zip(cls.HEADER, scalars[: len(cls.HEADER)], strict=True))
            values |= cls._read_more(n, *more)
            at = header_end
            for name, dtype in cls.DTYPES.items():
                values[name] = np.frombuffer(payload, np.dtype(dtype), n, at)
                at += values[name].nbytes
        except (ValueError, TypeError, msgspec.DecodeError) as wrong:
            raise DamagedRecord(cls.__name__, str(wrong)) from wrong
        if at != len(payload):
            raise DamagedRecord(cls.__name__, f"has {len(payload)} bytes, its header says {at}")
        return cls(**values)

    def _more(self) -> list[Any]:
        """Return what came into the header with a later version, where there is any."""
        return []

    @classmethod
    def _read_more(cls, n_rows: int) -> dict[str, Any]:
        """Return the fields of ``_more``; raises TypeError or ValueError when they are not right."""
        assert n_rows >= 0, "a header without more"
        return {}

    @classmethod
    def of_columns(cls, scalars: dict[str, Any], columns: dict[str, Any]) -> Self:
        """Return a batch, each column cast to its dtype; a column left out is filled with its missing value."""
        n = next(len(column) for column in columns.values())
        values: dict[str, Any] = dict(scalars)
        for name, dtype in cls.DTYPES.items():
            given = columns.get(name)
            values[name] = _missing(n, dtype) if given is None else np.asarray(given, dtype=dtype)
        return cls(**values)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Return the names of all scalars and columns."""
        return tuple(field.name for field in fields(cls))


def _no_parts() -> NDArray[np.int64]:
    return np.zeros((0, 3), np.int64)


def _missing(n: int, dtype: str) -> NDArray[Any]:
    kind = np.dtype(dtype).kind
    return np.full(n, np.nan if kind == "f" else -1 if kind == "i" else 0, dtype=dtype)


@dataclass(frozen=True, slots=True)
class _Incoming(_Columns):
    """A message of one gateway's rows, or of several gateways' batches one after the other (``parts``).

    ``parts`` (part, [gateway_no, batch_seq, rows]); where there are any, ``gateway_no`` and ``batch_seq`` are -1.
    """

    def pieces(self) -> NDArray[np.int64]:
        """Return (piece, [gateway_no, batch_seq, rows]): the parts, or all of it as one."""
        parts: NDArray[np.int64] = self.parts  # type: ignore[attr-defined]
        if len(parts):
            return parts
        return np.array([[self.gateway_no, getattr(self, "batch_seq", NO_SEQ), len(self)]], np.int64)  # type: ignore[attr-defined]

    def gateway_of_row(self) -> NDArray[np.int32]:
        """Return the gateway_no of each row."""
        pieces = self.pieces()
        return np.repeat(pieces[:, 0], pieces[:, 2]).astype(np.int32)

    def only(self, kept: NDArray[np.bool_]) -> Self:
        """Return the rows that are kept, with their gateways and sequences; a part that keeps none of its rows goes."""
        if kept.all():
            return self
        columns = {name: getattr(self, name)[kept] for name in self.DTYPES}
        parts: NDArray[np.int64] = self.parts  # type: ignore[attr-defined]
        if len(parts):
            n_kept = np.bincount(np.repeat(np.arange(len(parts)), parts[:, 2])[kept], minlength=len(parts))
            stays = (n_kept > 0) | (parts[:, 2] == 0)
            parts = np.column_stack([parts[:, :2], n_kept])[stays]
        return replace(self, **columns, parts=parts)  # type: ignore[call-arg]  # both kinds have them

    def _more(self) -> list[Any]:
        parts: NDArray[np.int64] = self.parts  # type: ignore[attr-defined]
        return [parts.astype("<i8").tobytes()] if len(parts) else []

    @classmethod
    def _read_more(cls, n_rows: int, parts: bytes = b"") -> dict[str, Any]:
        if not parts:
            return {}
        found = np.frombuffer(parts, "<i8").reshape(-1, 3)
        if found[:, 2].min() < 0 or found[:, 2].sum() != n_rows:
            raise ValueError(f"its parts have {found[:, 2].sum()} rows, its header says {n_rows}")
        return {"parts": found}


@dataclass(frozen=True, slots=True)
class ReadingBatch(_Incoming):
    """Readings of many devices from one gateway or one front's buffer.

    ``gateway_no`` -1: singles of many gateways. ``batch_seq`` -1: no sequence; else the fold drops (gateway_no,
    batch_seq) that it has seen. ``known_ns``: wall instant at the front. Missing values: NaN, and -1 for instants.
    ``power_w`` is positive into the grid, already converted by the codec. For INTERVAL_ENERGY ``energy_wh`` counts
    from ``interval_start_ns`` to ``measured_ns``; for REGISTER it is the register.
    """

    gateway_no: int
    batch_seq: int
    known_ns: int
    device_no: NDArray[np.int32]
    source_kind: NDArray[np.uint8]
    reading_kind: NDArray[np.uint8]
    quality: NDArray[np.uint8]
    status: NDArray[np.uint16]
    measured_ns: NDArray[np.int64]
    interval_start_ns: NDArray[np.int64]
    power_w: NDArray[np.float32]
    energy_wh: NDArray[np.float64]
    soc_frac: NDArray[np.float32]
    temperature_degc: NDArray[np.float32]
    voltage_v: NDArray[np.float32]
    parts: NDArray[np.int64] = field(default_factory=_no_parts)

    MAGIC: ClassVar[bytes] = b"URB1"
    HEADER: ClassVar[tuple[str, ...]] = ("gateway_no", "batch_seq", "known_ns")
    DTYPES: ClassVar[dict[str, str]] = {
        "device_no": "<i4",
        "source_kind": "u1",
        "reading_kind": "u1",
        "quality": "u1",
        "status": "<u2",
        "measured_ns": "<i8",
        "interval_start_ns": "<i8",
        "power_w": "<f4",
        "energy_wh": "<f8",
        "soc_frac": "<f4",
        "temperature_degc": "<f4",
        "voltage_v": "<f4",
    }


@dataclass(frozen=True, slots=True)
class AckBatch(_Incoming):
    """What devices answered: to command ``seq`` under ``epoch``, with an AckCode. Also travels on ``readings.<shard>``.

    A gateway's answer to a lease renewal is one row with ``device_no`` -1 and the renewal's ``seq``.
    """

    gateway_no: int
    known_ns: int
    device_no: NDArray[np.int32]
    epoch: NDArray[np.int64]
    seq: NDArray[np.int64]
    code: NDArray[np.uint8]
    answered_ns: NDArray[np.int64]
    parts: NDArray[np.int64] = field(default_factory=_no_parts)

    MAGIC: ClassVar[bytes] = b"UAB1"
    HEADER: ClassVar[tuple[str, ...]] = ("gateway_no", "known_ns")
    DTYPES: ClassVar[dict[str, str]] = {
        "device_no": "<i4",
        "epoch": "<i8",
        "seq": "<i8",
        "code": "u1",
        "answered_ns": "<i8",
    }

    @classmethod
    def together(cls, batches: Sequence[AckBatch]) -> AckBatch:
        """Return the answers of several gateways, in their order, as one batch that was known when the last one was."""
        if len(batches) == 1:
            return batches[0]
        columns = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in cls.DTYPES}
        known_ns = max(batch.known_ns for batch in batches)
        return cls(-1, known_ns, **columns, parts=np.concatenate([batch.pieces() for batch in batches]))


@dataclass(frozen=True, slots=True)
class CommandFrames(_Columns):
    """The commands one shard sends in one cycle: one row a device; written to ``commands.<shard>`` before they leave.

    A cycle of more than COMMANDS_PER_MESSAGE_MAX travels in several messages (``parts``), each with the place of its
    ``first_row`` in the cycle.

    ``seq`` grows for each device within an epoch. ``value`` means by ``kind``: POWER_SETPOINT watts (whole, positive
    into the grid), IMPORT_EXPORT_LIMIT watts, TEMPERATURE_OFFSET kelvin, SHED_LEVEL 0..3, RELEASE unused.
    ``ttl_s`` counts from receipt on the device's monotonic clock; ``expires_ns`` is the instant after which a device
    that has not begun may not begin, by the receiver's own clock where that is known to be ahead. A row with
    ``device_no`` -1 renews every lease of ``gateway_no`` whose seq is <= ``seq``.
    """

    shard: int
    epoch: int
    cycle: int
    issued_ns: int
    device_no: NDArray[np.int32]
    gateway_no: NDArray[np.int32]
    dispatch_no: NDArray[np.int32]
    seq: NDArray[np.int64]
    kind: NDArray[np.uint8]
    fallback: NDArray[np.uint8]
    value: NDArray[np.float32]
    start_ns: NDArray[np.int64]
    expires_ns: NDArray[np.int64]
    ttl_s: NDArray[np.float32]
    first_row: int = 0

    MAGIC: ClassVar[bytes] = b"UCF1"
    HEADER: ClassVar[tuple[str, ...]] = ("shard", "epoch", "cycle", "issued_ns")
    DTYPES: ClassVar[dict[str, str]] = {
        "device_no": "<i4",
        "gateway_no": "<i4",
        "dispatch_no": "<i4",
        "seq": "<i8",
        "kind": "u1",
        "fallback": "u1",
        "value": "<f4",
        "start_ns": "<i8",
        "expires_ns": "<i8",
        "ttl_s": "<f4",
    }

    def _more(self) -> list[Any]:
        return [self.first_row] if self.first_row else []

    @classmethod
    def _read_more(cls, n_rows: int, first_row: int = 0) -> dict[str, Any]:
        assert n_rows >= 0, "a part of any length"
        return {"first_row": first_row}

    def parts(self, n_max: int = COMMANDS_PER_MESSAGE_MAX) -> Iterator[CommandFrames]:
        """Yield a whole cycle's frames in order in pieces that a message holds; views, and at least one."""
        if len(self) <= n_max:
            yield self
            return
        for first in range(0, len(self), n_max):
            rows = slice(first, first + n_max)
            yield replace(self, first_row=first, **{name: getattr(self, name)[rows] for name in self.DTYPES})


def decode_incoming(payload: bytes) -> ReadingBatch | AckBatch:
    """Return whichever batch a ``readings.<shard>`` message holds; raises DamagedRecord."""
    return AckBatch.decode(payload) if payload[:4] == AckBatch.MAGIC else ReadingBatch.decode(payload)
