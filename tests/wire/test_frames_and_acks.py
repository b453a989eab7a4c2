"""Commands, renewals, acknowledgements and receipts, both ways."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tests.links.edge import NOW_MS, NOW_NS, fleet

from unisono.base.errors import InvalidInput
from unisono.links.identity import Identity
from unisono.model.batches import CommandFrames
from unisono.model.technology import CommandKind, Fallback
from unisono.wire.acks import decode_acks, encode_acks
from unisono.wire.frames import (
    COMMANDS_PER_FRAME_MAX,
    FetchedFrames,
    Renewal,
    decode_fetched,
    decode_frame,
    decode_renewal,
    encode_fetched,
    frame_of,
    messages_of,
    outgoing,
)
from unisono.wire.receipts import decode_receipt, encode_receipt
from unisono.wire.topics import Down

S_NS = 10**9


Row = tuple[int, int, int, float, int]


def frames(rows: list[Row], kind: CommandKind = CommandKind.POWER_SETPOINT) -> CommandFrames:
    """Rows of (device_no, gateway_no, seq, value, expires after s)."""
    n = len(rows)
    return CommandFrames.of_columns(
        {"shard": 0, "epoch": 3, "cycle": 1, "issued_ns": NOW_NS},
        {
            "device_no": [row[0] for row in rows],
            "gateway_no": [row[1] for row in rows],
            "seq": [row[2] for row in rows],
            "value": [row[3] for row in rows],
            "kind": [int(kind)] * n,
            "fallback": [int(Fallback.NORMAL_OPERATION)] * n,
            "start_ns": [NOW_NS] * n,
            "expires_ns": [NOW_NS + row[4] * S_NS for row in rows],
            "ttl_s": [60.0] * n,
        },
    )


def test_one_message_a_gateway_in_the_agreed_shape() -> None:
    rows = [(11, 1, 5, -1200.0, 30), (21, 2, 6, 800.0, 30), (12, 1, 7, 0.0, 0), (-1, 1, 7, 0.0, 60)]
    first, renewal, second = messages_of(frames(rows), NOW_NS)
    assert [out.gateway_no for out in (first, renewal, second)] == [1, 1, 2]
    assert json.loads(first.payload) == {
        "type": "frame",
        "epoch": 3,
        "issued_ms": NOW_MS,
        "commands": [
            {
                "no": 11,
                "seq": 5,
                "kind": "power_setpoint",
                "value": -1200,
                "start_ms": 0,
                "expires_ms": NOW_MS + 30_000,
                "ttl_s": 60.0,
                "fallback": "normal_operation",
            }
        ],
    }
    assert (first.what, first.epoch, first.expires_ms) == (Down.FRAME, 3, NOW_MS + 30_000)
    assert renewal == outgoing(1, Renewal(3, 7, NOW_MS, NOW_MS + 60_000))
    assert decode_renewal(renewal.payload) == Renewal(3, 7, NOW_MS, NOW_MS + 60_000)


def test_both_kinds_travel_in_one_fetched_list() -> None:
    frame, renewal = messages_of(frames([(11, 1, 5, 1.5, 30), (-1, 1, 5, 0, 30)]), NOW_NS)
    fetched = decode_fetched(encode_fetched([frame, renewal], 17))
    assert fetched == FetchedFrames((decode_frame(frame.payload), decode_renewal(renewal.payload)), 17)
    assert decode_fetched(encode_fetched([], 18)) == FetchedFrames((), 18)


def test_a_release_has_no_value_and_still_is_json() -> None:
    (out,) = messages_of(frames([(11, 1, 5, float("nan"), 30)], CommandKind.RELEASE), NOW_NS)
    (command,) = decode_frame(out.payload).commands
    assert (command.value, command.kind) == (0, "release")


def test_a_large_gateway_gets_several_frames() -> None:
    n = 2 * COMMANDS_PER_FRAME_MAX + 1
    messages = messages_of(frames([(no + 1, 1, no, 1.0, 30) for no in range(n)]), NOW_NS)
    sizes = [len(decode_frame(out.payload).commands) for out in messages]
    assert sizes == [COMMANDS_PER_FRAME_MAX, COMMANDS_PER_FRAME_MAX, 1]


@st.composite
def any_frames(draw: st.DrawFn) -> CommandFrames:
    """Frames of all kinds to gateways in any order, some with values that only the slow way writes."""
    n = draw(st.integers(1, 30))
    values = st.integers(-(2**20), 2**20).map(float) | st.sampled_from([0.5, -2.25, float("nan"), 1e14, -0.0])
    instants = st.integers(-(10**12), 10**12).map(lambda ns: NOW_NS + ns)
    column = {
        "device_no": st.integers(0, 2**31 - 1),
        "gateway_no": st.integers(-1, 3) | st.sampled_from([2**16 - 1, 2**16]),
        "seq": st.integers(0, 2**53),
        "kind": st.sampled_from([int(kind) for kind in CommandKind]),
        "fallback": st.sampled_from([int(fallback) for fallback in Fallback]),
        "value": values,
        "start_ns": instants,
        "expires_ns": instants,
        "ttl_s": st.integers(0, 10**6).map(float) | st.sampled_from([0.5, 37.25]),
    }
    rows = {name: draw(st.lists(of, min_size=n, max_size=n)) for name, of in column.items()}
    return CommandFrames.of_columns({"shard": 0, "epoch": 7, "cycle": 1, "issued_ns": NOW_NS}, rows)


@given(any_frames())
def test_the_kernel_writes_what_the_plain_way_does_byte_for_byte(sent: CommandFrames) -> None:
    # As delivery has them: read-only views of a message, at odd places.
    sent = CommandFrames.decode(sent.encode())
    alive = [row for row in range(len(sent)) if sent.expires_ns[row] > NOW_NS]
    expected = []
    for gateway_no in sorted({int(sent.gateway_no[row]) for row in alive}):
        rows = np.array([row for row in alive if sent.gateway_no[row] == gateway_no])
        expected.append(outgoing(gateway_no, frame_of(sent, rows)))
    assert messages_of(sent, NOW_NS) == expected


def test_only_wanted_gateways_get_anything() -> None:
    sent = frames([(11, 1, 5, 1.0, 30), (21, 2, 6, 2.0, 30), (-1, 1, 6, 0, 30), (-1, 2, 6, 0, 30)])
    messages = messages_of(sent, NOW_NS, {2}.__contains__)
    assert [(out.gateway_no, out.what) for out in messages] == [(2, Down.FRAME), (2, Down.RENEWAL)]
    assert messages_of(sent, NOW_NS, set().__contains__) == []


def test_nothing_is_left_of_expired_frames() -> None:
    assert messages_of(frames([(11, 1, 5, 1.0, 30)]), NOW_NS + 30 * S_NS) == []


def test_answers_of_foreign_devices_and_odd_codes_are_refused_by_row() -> None:
    known = Identity()
    known.fold(fleet())
    rows = [(11, 1, 5, 0, NOW_MS), (-1, 1, 9, 0, NOW_MS), (21, 1, 5, 0, NOW_MS), (12, 1, 6, 77, NOW_MS)]
    rows += [(12, 1, -6, 0, NOW_MS), (12, 1, 6, 8, 3), (-2, 1, 6, 0, NOW_MS), (2**40, 1, 6, 0, NOW_MS)]
    acks = decode_acks(encode_acks(rows), 1, known, NOW_NS)
    assert acks.batch.device_no.tolist() == [11, -1]
    assert acks.batch.answered_ns.tolist() == [NOW_NS // 10**6 * 10**6] * 2
    assert [(error.row, error.field, error.value) for error in acks.rejected] == [
        (2, "device_no", "21"),
        (3, "code", "77"),
        (4, "seq", "-6"),
        (5, "answered_ms", "3"),
        (6, "device_no", "-2"),
        (7, "device_no", str(2**40)),
    ]


def test_one_answer_of_another_form_does_not_spoil_the_others() -> None:
    known = Identity()
    known.fold(fleet())
    payload = f'{{"acks":[["x",1,5,0,{NOW_MS}],[11,1,5,0,{NOW_MS}],[1,2],7,[21,1,5,0,{NOW_MS}]]}}'.encode()
    acks = decode_acks(payload, 1, known, NOW_NS)
    assert acks.batch.device_no.tolist() == [11]
    assert [(error.row, error.cause, error.value) for error in acks.rejected] == [
        (0, "malformed", f'["x",1,5,0,{NOW_MS}]'),
        (2, "malformed", "[1,2]"),
        (3, "malformed", "7"),
        (4, "unknown_device", "21"),
    ]


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"acks":5}', b"[[1,2,3,4,5]]"])
def test_what_is_no_list_of_answers_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_acks(payload, 1, Identity(), NOW_NS)


def test_a_receipt_reads_back() -> None:
    assert encode_receipt(7) == b'{"through_seq":7}'
    assert decode_receipt(encode_receipt(7)).through_seq == 7
    with pytest.raises(InvalidInput):
        decode_receipt(b"7")


def test_a_shard_beyond_the_first_is_told_with_frames_and_renewals() -> None:
    of_shard = replace(frames([(11, 1, 5, 1.0, 30), (12, 2, 5, 1.5, 30), (-1, 1, 5, 0, 30)]), shard=3)
    messages = messages_of(of_shard, NOW_NS)
    assert [json.loads(message.payload)["shard"] for message in messages] == [3, 3, 3]
    assert [message.shard for message in messages] == [3, 3, 3]
    assert {decode_frame(messages[0].payload).shard, decode_renewal(messages[1].payload).shard} == {3}
