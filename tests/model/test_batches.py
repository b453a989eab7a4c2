"""Columnar batches on their way through bytes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st

from unisono.base.errors import DamagedRecord
from unisono.model.batches import COMMANDS_PER_MESSAGE_MAX, AckBatch, CommandFrames, ReadingBatch, decode_incoming

FLOATS = st.floats(width=32, allow_nan=True)


@given(
    st.lists(st.tuples(st.integers(-1, 2**31 - 1), FLOATS, st.integers(-1, 2**62)), max_size=50), st.integers(-1, 2**62)
)
def test_a_batch_survives_its_bytes(rows: list[tuple[int, float, int]], batch_seq: int) -> None:
    columns = {
        "device_no": [row[0] for row in rows],
        "power_w": [row[1] for row in rows],
        "measured_ns": [row[2] for row in rows],
    }
    batch = ReadingBatch.of_columns({"gateway_no": 7, "batch_seq": batch_seq, "known_ns": 9}, columns)
    back = decode_incoming(batch.encode())
    assert isinstance(back, ReadingBatch)
    assert (back.gateway_no, back.batch_seq, back.known_ns, len(back)) == (7, batch_seq, 9, len(rows))
    for name in ReadingBatch.DTYPES:
        np.testing.assert_array_equal(getattr(back, name), getattr(batch, name))


def test_columns_left_out_are_missing_not_zero() -> None:
    batch = ReadingBatch.of_columns({"gateway_no": 1, "batch_seq": 1, "known_ns": 1}, {"device_no": [5]})
    assert np.isnan(batch.power_w[0])
    assert np.isnan(batch.soc_frac[0])
    assert batch.measured_ns[0] == -1


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"ZZZZ" + b[4:], lambda _: b"", lambda b: b[:9]]
)
def test_a_damaged_message_is_refused(damage) -> None:
    frames = CommandFrames.of_columns(
        {"shard": 0, "epoch": 1, "cycle": 1, "issued_ns": 1}, {"device_no": [1, 2], "value": [1.0, -2.0]}
    )
    with pytest.raises(DamagedRecord):
        CommandFrames.decode(damage(frames.encode()))


def test_readings_and_acknowledgements_share_a_stream() -> None:
    acks = AckBatch.of_columns(
        {"gateway_no": 3, "known_ns": 4}, {"device_no": [-1], "epoch": [2], "seq": [9], "code": [0]}
    )
    back = decode_incoming(acks.encode())
    assert isinstance(back, AckBatch)
    assert back.seq.tolist() == [9]


def cycle_of(n: int) -> CommandFrames:
    return CommandFrames.of_columns(
        {"shard": 0, "epoch": 1, "cycle": 1, "issued_ns": 1}, {"device_no": np.arange(n), "seq": np.arange(n) + 7}
    )


@pytest.mark.parametrize("n", [0, 1, 4, 5, 8, 11])
def test_a_cycle_of_many_commands_comes_apart_and_together_again(n: int) -> None:
    cycle = cycle_of(n)
    parts = [CommandFrames.decode(part.encode()) for part in cycle.parts(4)]
    assert [part.first_row for part in parts] == list(range(0, max(n, 1), 4))
    assert max(map(len, parts)) <= 4
    for name in CommandFrames.DTYPES:
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(cycle, name))


def test_a_message_of_commands_is_one_that_nats_takes() -> None:
    (part,) = cycle_of(COMMANDS_PER_MESSAGE_MAX).parts()
    assert len(part.encode()) < 8 << 20


def test_commands_written_before_cycles_came_apart_are_read_as_whole_ones() -> None:
    # Five scalars in the header, as there were; it is still so for a cycle's first message.
    payload = cycle_of(2).encode()
    assert msgspec.msgpack.decode(payload[8 : 8 + payload[4]]) == [2, 0, 1, 1, 1]
    assert CommandFrames.decode(payload).first_row == 0


def test_a_message_of_several_batches_tells_whose_rows_are_whose() -> None:
    columns = {"device_no": [1, 2, 3], "measured_ns": [10, 20, 30], "power_w": [1.0, 2.0, 3.0]}
    parts = np.array([[4, 70, 2], [5, 80, 0], [6, 90, 1]])
    batch = ReadingBatch.of_columns({"gateway_no": -1, "batch_seq": -1, "known_ns": 9, "parts": parts}, columns)
    back = decode_incoming(batch.encode())
    assert isinstance(back, ReadingBatch)
    assert back.pieces().tolist() == parts.tolist()
    assert back.gateway_of_row().tolist() == [4, 4, 6]
    kept = back.only(np.array([True, False, False]))
    assert (kept.device_no.tolist(), kept.pieces().tolist()) == ([1], [[4, 70, 1], [5, 80, 0]])


def test_answers_of_several_gateways_travel_together() -> None:
    def answers(gateway_no: int, *device_nos: int) -> AckBatch:
        return AckBatch.of_columns({"gateway_no": gateway_no, "known_ns": gateway_no}, {"device_no": device_nos})

    one, other = answers(4, 1, 2), answers(6, -1)
    assert AckBatch.together([one]) is one
    both = decode_incoming(AckBatch.together([one, other]).encode())
    assert isinstance(both, AckBatch)
    assert (both.known_ns, both.device_no.tolist(), both.gateway_of_row().tolist()) == (6, [1, 2, -1], [4, 4, 6])
    assert AckBatch.together([both, other]).pieces()[:, 0].tolist() == [4, 6, 6]


def test_parts_that_do_not_add_up_to_the_rows_are_damage() -> None:
    columns = {"device_no": [1, 2], "measured_ns": [10, 20], "power_w": [1.0, 2.0]}
    scalars = {"gateway_no": -1, "batch_seq": -1, "known_ns": 9, "parts": np.array([[4, 70, 3]])}
    with pytest.raises(DamagedRecord, match="parts"):
        decode_incoming(ReadingBatch.of_columns(scalars, columns).encode())
