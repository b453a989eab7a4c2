"""A shard's whole state as bytes, and back: replay from a checkpoint gives the same frames.

Layout: magic, CRC-32 of the rest, digest of the schema, length of a MessagePack header, the header, then all arrays one
after the other. Arrays are told apart by their order alone: a checkpoint of another schema is refused, never guessed.
Monotonic clocks belong to a process: inside the state runs one that goes on where the checkpoint left it, as much
later as the wall clocks say (never earlier).
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from mmap import MADV_DONTNEED, mmap
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import DamagedRecord
from unisono.brain.dispatch.controller import ActiveDispatch
from unisono.brain.dispatch.members import Members, member_dtypes
from unisono.brain.dispatch.sums import SUM_NAMES
from unisono.fleet.columns import GROUPS, N_SOURCES, columns_of
from unisono.fleet.table import ID_DTYPE, FleetTable, Portfolio
from unisono.model.dispatch import Dispatch
from unisono.model.ingest import FOLD_COUNTER_NAMES
from unisono.model.totals import LogEntry
from unisono.plant.state import PlantConfig, PlantState, first_seq

_MAGIC: Final = b"UCP2"
# Half a SHA-256: no two schemas ever share it.
_DIGEST_BYTES: Final = 16
_CRC_BYTES: Final = 4
_NO_LOCK: Final = nullcontext()
# Copied at once while an image is written: 2 ms, for which the worker waits at the most, and what it takes of memory.
PIECE_BYTES: Final = 16 * 2**20
_GROUP_FIELDS: Final = ("nameplate", "slots", "picture", "leases", "sites", "gateways")


class Unsent(msgspec.Struct, frozen=True, array_like=True):
    """A message that is not on its stream for certain; (subject, message id) makes a repetition known for one."""

    subject: str
    message_id: str
    payload: bytes


class Carried(msgspec.Struct, frozen=True):
    """What a checkpoint holds besides the state: the streams' sequences folded, and what still has to be sent."""

    positions: dict[str, int] = {}
    unsent: tuple[Unsent, ...] = ()


class _PortfolioPart(msgspec.Struct, array_like=True):
    portfolio_no: int
    portfolio_id: str
    organisation_id: str
    revision: int


class _DispatchPart(msgspec.Struct, array_like=True):
    spec: Dispatch
    dispatch_no: int
    accepted_ns: int
    frozen_ns: int
    fleet_version: int
    state: str
    sign: int
    gap_w: float
    asked_w: float
    n_short: int
    is_short: bool
    short_since_ns: int
    largest_shortfall_w: float
    delivered_wh: float
    targeted_wh: float
    share_round: int
    share_frac: float
    elsewhere_w: float


class _Header(msgspec.Struct):
    shard: int
    epoch: int
    wall_ns: int
    mono_ns: int
    carried: Carried
    next_seq: int
    next_dispatch_no: int
    cycle: int
    epoch_mono_ns: int
    clear_sky_mono_ns: int
    counters_mono_ns: int
    indexed_version: int
    folded_mono_ns: int
    n_devices: int
    n_sites: int
    n_gateways: int
    version: int
    organisations: list[str]
    zones: list[str]
    opt_outs_of_row: dict[int, list[tuple[int, int]]]
    asked_opt_outs_of_row: dict[int, dict[str, tuple[int, int]]]
    opt_outs_due_ns: int
    portfolios: list[_PortfolioPart]
    dispatches: list[_DispatchPart]
    ended: dict[str, tuple[int, str]]
    pending_log: list[LogEntry]
    trimmed: dict[str, dict[str, int]]
    # (dtype, shape) of each array that follows.
    arrays: list[tuple[str, list[int]]]


_DISPATCH_FIELDS: Final = tuple(name for name in _DispatchPart.__struct_fields__)
_STATE_FIELDS: Final = (
    "next_seq", "next_dispatch_no", "cycle", "epoch_mono_ns", "clear_sky_mono_ns", "counters_mono_ns",
    "indexed_version", "folded_mono_ns", "ended", "pending_log", "trimmed",
)  # fmt: skip
_TABLE_FIELDS: Final = (
    "n_devices", "n_sites", "n_gateways", "version", "organisations",
    "zones", "opt_outs_of_row", "asked_opt_outs_of_row", "opt_outs_due_ns",
)  # fmt: skip
# What the table keeps besides its columns, in this order.
_TABLE_ARRAYS: Final = {
    "counters": np.dtype(np.int64),
    "row_of_device": np.dtype(np.int32),
    "device_ids": ID_DTYPE,
    "organisation": np.dtype(np.int32),
    "site_of_no": np.dtype(np.int32),
    "gateway_of_no": np.dtype(np.int32),
    "gateway_revision": np.dtype(np.int64),
}


class Image:
    """The bytes of a state at one instant, while the state goes on: each piece is copied when it is to be written.

    Whoever is about to change the state calls ``settle`` first, which copies what has not been written yet: nothing if
    the writer was quick enough, all of it (0.7 kB a device) at the worst. It is written once. With a ``lock``, held
    while bytes are copied, another thread may write than the one that settles.
    """

    def __init__(
        self,
        state: PlantState,
        carried: Carried,
        now_ns: int,
        monotonic_ns: int,
        lock: AbstractContextManager[Any] = _NO_LOCK,
    ) -> None:
        arrays = _arrays(state)
        head = msgspec.msgpack.encode(_header(state, arrays, carried, now_ns, monotonic_ns))
        self._head = SCHEMA_DIGEST + len(head).to_bytes(8, "little") + head
        # What is neither written nor copied yet.
        self._left = deque(array.ravel().view(np.uint8) for array in arrays if array.size)
        self._lock = lock
        self._is_settled = False

    def settle(self) -> None:
        """Copy what is left, unless that is done: from here on the state may change."""
        with self._lock:
            if self._is_settled:
                return
            # All in one block, for the system to take back when it is written.
            room, at = np.empty(sum(array.size for array in self._left), np.uint8), 0
            while self._left:
                array = self._left.popleft()
                room[at : at + array.size] = array
                at += array.size
            self._left.append(room)
            self._is_settled = True

    def write(self, file: BinaryIO) -> None:
        """Write all bytes to ``file``, from its beginning."""
        file.write(_MAGIC + bytes(_CRC_BYTES) + self._head)
        crc = zlib.crc32(self._head)
        room = np.empty(PIECE_BYTES, np.uint8)
        while (n := self._take(room)) > 0:
            part = memoryview(room.data)[:n]
            crc = zlib.crc32(part, crc)
            file.write(part)
        file.seek(len(_MAGIC))
        file.write(crc.to_bytes(_CRC_BYTES, "little"))

    def _take(self, room: NDArray[np.uint8]) -> int:
        """Copy the next bytes and return how many; 0 when there are no more."""
        with self._lock:
            n = 0
            while self._left and n < room.size:
                array = self._left.popleft()
                taken = array[: room.size - n]
                room[n : n + taken.size] = taken
                n += taken.size
                if taken.size < array.size:
                    self._left.appendleft(array[taken.size :])
            return n


def checkpoint(state: PlantState, carried: Carried, now_ns: int, monotonic_ns: int) -> bytes:
    """Return the bytes of the state and of what is carried with it."""
    file = io.BytesIO()
    Image(state, carried, now_ns, monotonic_ns).write(file)
    return file.getvalue()


def _header(
    state: PlantState, arrays: Sequence[NDArray[Any]], carried: Carried, now_ns: int, monotonic_ns: int
) -> _Header:
    table = state.fleet
    return _Header(
        shard=state.shard,
        epoch=state.epoch,
        wall_ns=now_ns,
        mono_ns=monotonic_ns + state.mono_shift_ns,
        carried=carried,
        portfolios=[
            _PortfolioPart(p.portfolio_no, p.portfolio_id, p.organisation_id, p.revision)
            for p in table.portfolios.values()
        ],
        dispatches=[
            _DispatchPart(*(getattr(active, name) for name in _DISPATCH_FIELDS)) for active in state.dispatches.values()
        ],
        arrays=[(array.dtype.str, list(array.shape)) for array in arrays],
        **{name: getattr(state, name) for name in _STATE_FIELDS},
        **{name: getattr(table, name) for name in _TABLE_FIELDS},
    )


def restore(
    payload: bytes | mmap, config: PlantConfig, epoch: int, now_ns: int, monotonic_ns: int
) -> tuple[PlantState, Carried]:
    """Return the state under ``epoch``, and where to read on from and what to send; raises DamagedRecord."""
    header, arrays = _read(payload)
    table = FleetTable(**{name: getattr(header, name) for name in _TABLE_FIELDS})
    queue = iter(arrays)
    for name, group in zip(_GROUP_FIELDS, GROUPS, strict=True):
        setattr(table, name, group(*(next(queue) for _ in columns_of(group))))
    for name in _TABLE_ARRAYS:
        setattr(table, name, next(queue))
    for part in header.portfolios:
        table.portfolios[part.portfolio_no] = Portfolio(
            part.portfolio_no, part.portfolio_id, part.organisation_id, part.revision, next(queue), next(queue)
        )
    table.index_portfolios()
    state = PlantState(
        shard=header.shard,
        epoch=epoch,
        config=config,
        fleet=table,
        mono_shift_ns=header.mono_ns + max(0, now_ns - header.wall_ns) - monotonic_ns,
        told=(header.epoch, header.cycle),
        **{name: getattr(header, name) for name in _STATE_FIELDS},
    )
    for dispatch in header.dispatches:
        fields = {name: getattr(dispatch, name) for name in _DISPATCH_FIELDS}
        members = Members(*(next(queue) for _ in Members._fields))
        # All but one of its sums are made anew in the next cycle; what dead-bands left out is carried over.
        state.dispatches[dispatch.spec.dispatch_id] = ActiveDispatch(members=members, sums=next(queue), **fields)
    if epoch != header.epoch:
        _begin_epoch(state, epoch)
    return state, header.carried


def _begin_epoch(state: PlantState, epoch: int) -> None:
    """Count sequences and the first ttl anew: another owner may have commanded since the checkpoint (see `leases`)."""
    state.next_seq = max(state.next_seq, first_seq(epoch))
    state.epoch_mono_ns = -1


def _arrays(state: PlantState) -> list[NDArray[Any]]:
    """Return all arrays in the order in which they are written and read."""
    table = state.fleet
    arrays: list[NDArray[Any]] = [array for name in _GROUP_FIELDS for array in getattr(table, name)]
    arrays += [getattr(table, name) for name in _TABLE_ARRAYS]
    for portfolio in table.portfolios.values():
        arrays += [portfolio.device_nos, portfolio.rows]
    for active in state.dispatches.values():
        arrays += [*active.members, active.sums]
    return arrays


def _read(payload: bytes | mmap) -> tuple[_Header, list[NDArray[Any]]]:
    if payload[:4] != _MAGIC:
        raise DamagedRecord("checkpoint", f"starts with {payload[:4]!r}, not {_MAGIC!r}")
    # A file is mapped, not read: its pages are looked at once for the CRC and once more to be copied.
    with memoryview(payload) as whole:
        crc = zlib.crc32(whole[8:])
    _let_go(payload)
    if crc != int.from_bytes(payload[4:8], "little"):
        raise DamagedRecord("checkpoint", "its CRC does not match")
    digest = payload[8 : 8 + _DIGEST_BYTES]
    if digest != SCHEMA_DIGEST:
        rule = f"was written with other columns: its schema is {digest.hex()}, this version's {SCHEMA_DIGEST.hex()}"
        raise DamagedRecord("checkpoint", rule)
    head_begin = 16 + _DIGEST_BYTES
    head_end = head_begin + int.from_bytes(payload[head_begin - 8 : head_begin], "little")
    try:
        header = msgspec.msgpack.decode(payload[head_begin:head_end], type=_Header)
        arrays, at = [], head_end
        for dtype, shape in header.arrays:
            n = int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(payload, np.dtype(dtype), n, at).reshape(shape).copy())
            at += arrays[-1].nbytes
            _let_go(payload)
    except (msgspec.DecodeError, ValueError, TypeError) as wrong:
        raise DamagedRecord("checkpoint", str(wrong)) from wrong
    expected = [dtype for group in _columns() for _, dtype in group] + list(_TABLE_ARRAYS.values())
    expected += [np.dtype(np.int32)] * 2 * len(header.portfolios)
    expected += [*(dtype for _, dtype in member_dtypes(Members)), np.dtype(np.float64)] * len(header.dispatches)
    if [array.dtype for array in arrays] != expected:
        raise DamagedRecord(
            "checkpoint", f"holds {len(arrays)} arrays of other kinds than the {len(expected)} expected"
        )
    return header, arrays


def _let_go(payload: bytes | mmap) -> None:
    """Give the pages of a mapped file back; else it would stand in memory beside all that was copied from it."""
    if isinstance(payload, mmap):
        payload.madvise(MADV_DONTNEED)


def _columns() -> list[list[tuple[str, np.dtype[Any]]]]:
    """Return name and dtype of every column, by group."""
    return [[(column.name, column.dtype) for column in columns_of(group)] for group in GROUPS]


def _schema_digest() -> bytes:
    """Return the digest of all that gives a checkpoint's bytes their meaning: names, dtypes and order."""
    arrays = {
        "groups": list(zip(_GROUP_FIELDS, _columns(), strict=True)),
        "sources": N_SOURCES,
        "counters": FOLD_COUNTER_NAMES,
        "table": list(_TABLE_ARRAYS.items()),
        "members": member_dtypes(Members),
        "sums": SUM_NAMES,
    }
    structs = {
        part.__name__: list(part.__annotations__.items())
        for part in (_Header, _DispatchPart, _PortfolioPart, Carried, Unsent)
    }
    return hashlib.sha256(f"{arrays} {structs}".encode()).digest()[:_DIGEST_BYTES]


# A checkpoint of another digest is refused whole; it is never read into columns that it may not be of.
SCHEMA_DIGEST: Final = _schema_digest()
