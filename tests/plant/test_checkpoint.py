"""A checkpoint is read whole or refused: nothing of another version, cut off or damaged reaches a column."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.plant.fake_fleet import FakeFleet, battery, dispatch_of, fleet_of
from unisono.base.errors import DamagedRecord
from unisono.brain.dispatch.sums import Sum
from unisono.fleet import columns
from unisono.fleet.columns import F4, I4, Leases
from unisono.model.dispatch import TargetPoint
from unisono.plant import checkpoint as module
from unisono.plant.checkpoint import SCHEMA_DIGEST, Carried, Image, checkpoint, restore

HEAD = 16 + len(SCHEMA_DIGEST)


def a_fleet() -> FakeFleet:
    fleet = fleet_of([battery(no, merit=no) for no in range(1, 4)])
    fleet.cycle(dispatch_of(fleet, 10_000.0))
    return fleet


FLEET = a_fleet()
PAYLOAD = checkpoint(FLEET.state, Carried({"READINGS": 5}), FLEET.now_ns, FLEET.mono_ns)


def read(payload: bytes) -> None:
    restore(payload, FLEET.state.config, 2, FLEET.now_ns, FLEET.mono_ns)


def sealed(body: bytes) -> bytes:
    return PAYLOAD[:4] + zlib.crc32(body).to_bytes(4, "little") + body


def changed_arrays(at: int, *instead: tuple[str, list[int]]) -> bytes:
    """Return the checkpoint with other arrays than the one at that place, all else right."""
    head_end = HEAD + int.from_bytes(PAYLOAD[HEAD - 8 : HEAD], "little")
    header: dict[str, Any] = msgspec.msgpack.decode(PAYLOAD[HEAD:head_end])
    sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in header["arrays"]]
    before, data = sum(sizes[: len(sizes) + at]), PAYLOAD[head_end:]
    fresh = b"".join(np.ones(shape, dtype).tobytes() for dtype, shape in instead)
    data = data[:before] + fresh + data[before + sizes[at] :]
    header["arrays"][at : len(sizes) + at + 1] = instead
    head = msgspec.msgpack.encode(header)
    return sealed(SCHEMA_DIGEST + len(head).to_bytes(8, "little") + head + data)


def test_what_was_written_is_read() -> None:
    state, carried = restore(PAYLOAD, FLEET.state.config, 2, FLEET.now_ns, FLEET.mono_ns)
    assert (state.n_devices, carried.positions) == (3, {"READINGS": 5})
    read(changed_arrays(-2, ("<f4", [3])))


class _Disk(io.BytesIO):
    """A file whose writer is told at its ``n``-th writing that the state goes on."""

    def __init__(self, n: int, go_on: Callable[[], None]) -> None:
        super().__init__()
        self._n_left, self._go_on = n, go_on

    def write(self, part: Any) -> int:
        if self._n_left == 0:
            self._go_on()
        self._n_left -= 1
        return super().write(part)


@pytest.mark.parametrize("n_before", [0, 1, 2, 7])
def test_an_image_is_of_the_instant_at_which_it_was_taken_however_much_of_it_was_written_by_the_next_cycle(
    n_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 1001)
    fleet, carried = a_fleet(), Carried({"READINGS": 5})
    payload = checkpoint(fleet.state, carried, fleet.now_ns, fleet.mono_ns)
    assert len(payload) > 10 * 1001, "some pieces are left by then"
    image = Image(fleet.state, carried, fleet.now_ns, fleet.mono_ns)

    def go_on() -> None:
        image.settle()
        fleet.cycle()

    disk = _Disk(n_before, go_on)
    image.write(disk)
    assert disk.getvalue() == payload
    assert checkpoint(fleet.state, carried, fleet.now_ns, fleet.mono_ns) != payload


def test_what_a_dead_band_kept_back_is_still_asked_for_by_who_goes_on_from_a_checkpoint() -> None:
    fleet = fleet_of([battery(no, merit=no) for no in range(1, 8)])
    spec = dispatch_of(fleet, 20_000.0)
    fleet.cycle(spec)
    fleet.run(8)
    fleet.cycle(msgspec.structs.replace(spec, revision=2, targets=(TargetPoint(spec.start_ns, 20_010.0),)))
    fleet.cycle(msgspec.structs.replace(spec, revision=3, targets=(TargetPoint(spec.start_ns, 20_020.0),)))
    [ours] = fleet.state.dispatches.values()
    assert ours.sums[Sum.KEPT_W] == 10.0, "less than a command is worth"

    payload = checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns)
    state, _ = restore(payload, fleet.state.config, 2, fleet.now_ns, fleet.mono_ns)
    [theirs] = state.dispatches.values()
    np.testing.assert_array_equal(theirs.sums, ours.sums)


@given(bit=st.integers(0, 8 * len(PAYLOAD) - 1))
def test_one_turned_bit_is_refused(bit: int) -> None:
    payload = bytearray(PAYLOAD)
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedRecord):
        read(bytes(payload))


@given(n=st.one_of(st.integers(0, 2 * HEAD), st.integers(0, len(PAYLOAD) - 1)))
def test_a_truncated_file_is_refused(n: int) -> None:
    with pytest.raises(DamagedRecord):
        read(PAYLOAD[:n])
    with pytest.raises(DamagedRecord):
        read(sealed(PAYLOAD[8:n]))


@pytest.mark.parametrize(
    "payload",
    [changed_arrays(-1), changed_arrays(-2, ("<f4", [3]), ("<f4", [3])), changed_arrays(-2, ("<i4", [3]))],
    ids=["an array fewer", "an array more", "an array of another dtype"],
)
def test_other_arrays_than_the_columns_are_refused(payload: bytes) -> None:
    with pytest.raises(DamagedRecord, match="arrays of other kinds"):
        read(payload)


def test_a_checkpoint_of_another_schema_is_refused_and_says_which() -> None:
    other = bytes(len(SCHEMA_DIGEST))
    with pytest.raises(DamagedRecord, match=f"other columns: its schema is {other.hex()}, .*{SCHEMA_DIGEST.hex()}"):
        read(sealed(other + PAYLOAD[HEAD - 8 :]))
    with pytest.raises(DamagedRecord, match="starts with b'UCP1'"):
        read(b"UCP1" + PAYLOAD[4:])


class SwappedMembers(NamedTuple):
    """Members of another version: the same dtypes under other names."""

    row: I4
    order: I4
    accepted_clear_sky: F4
    accepted_reference_w: F4


class DispatchOfAnotherVersion(module._DispatchPart):
    """One more field of the loop."""

    spent_wh: float = 0.0


def other_columns(table: dict[Any, Any]) -> dict[Any, Any]:
    first, second, *others = table[Leases]
    return {**table, Leases: (second, first, *others)}


@pytest.mark.parametrize("what", ["members", "dispatch", "columns", "counters"])
def test_the_digest_knows_names_and_order_of_all_that_is_kept(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._schema_digest() == SCHEMA_DIGEST
    if what == "members":
        monkeypatch.setattr(module, "Members", SwappedMembers)
    elif what == "dispatch":
        monkeypatch.setattr(module, "_DispatchPart", DispatchOfAnotherVersion)
    elif what == "columns":
        monkeypatch.setattr(columns, "_COLUMNS", other_columns(columns._COLUMNS))
    else:
        monkeypatch.setattr(module, "FOLD_COUNTER_NAMES", ("kept", "accepted"))
    assert module._schema_digest() != SCHEMA_DIGEST
