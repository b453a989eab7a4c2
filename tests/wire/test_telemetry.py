"""Batches in three forms: what is good is taken, what is not is named by row, field and rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tests.links.edge import NOW_MS, NOW_NS, device_id, fleet

from unisono.base.errors import InvalidInput
from unisono.links.identity import Identity
from unisono.model.batches import ReadingBatch
from unisono.wire.packed import RECORD, decode_packed, encode_packed
from unisono.wire.rules import DecodedReadings
from unisono.wire.telemetry import (
    READINGS_PER_BATCH_MAX,
    Reading,
    decode_batch,
    decode_ndjson,
    encode_batch,
    encode_ndjson,
)

KNOWN = Identity()
KNOWN.fold(fleet())


def decoded(payload: bytes) -> DecodedReadings:
    return decode_batch(payload, 1, KNOWN, NOW_NS)


def told(outcome: DecodedReadings) -> list[tuple[int, str, str]]:
    return [(error.row, error.field, error.cause) for error in outcome.rejected]


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
readings = st.builds(
    Reading,
    no=st.sampled_from([11, 12]),
    ts=st.integers(NOW_MS, NOW_MS + 10**9),
    p=st.floats(-1e6, 1e6, width=32),
    soc=st.none() | st.floats(0, 1, width=32),
    tc=st.none() | st.floats(-50, 90, width=32),
    v=st.none() | st.floats(0, 1000, width=32),
    st=st.none() | st.integers(0, 65535),
    src=st.sampled_from([None, "meter", "vendor_cloud"]),
)


@given(st.lists(readings, max_size=20), st.integers(0, 2**63 - 1))
def test_all_three_forms_say_the_same(sent: list[Reading], seq: int) -> None:
    batch = decoded(encode_batch(seq, sent)).batch
    lines = decode_ndjson(encode_ndjson(sent), 1, KNOWN, NOW_NS).batch
    packed = decode_packed(encode_packed(seq, batch), 1, KNOWN, NOW_NS).batch
    assert (batch.gateway_no, batch.batch_seq, len(batch)) == (1, seq, len(sent))
    assert (lines.gateway_no, lines.batch_seq) == (1, -1)
    assert packed.encode() == batch.encode()
    for name in ReadingBatch.DTYPES:
        np.testing.assert_array_equal(getattr(lines, name), getattr(batch, name))
    assert batch.power_w.tolist() == [reading.p for reading in sent]
    assert batch.measured_ns.tolist() == [reading.ts * 10**6 for reading in sent]


def test_half_a_batch_bad_leaves_the_other_half() -> None:
    rows = [
        f'{{"id":"{device_id(11)}","ts":{NOW_MS},"p":1}}',
        f'{{"id":"{device_id(11)}","ts":{NOW_MS}}}',
        f'{{"id":"{device_id(12)}","ts":{NOW_MS},"p":"1"}}',
        f'{{"no":12,"ts":{NOW_MS},"p":2,"soc":0.5,"new_key":{{"a":[1]}}}}',
        f'{{"no":12,"ts":{NOW_MS},"p":2,"soc":1.5}}',
        f'{{"no":12,"ts":{NOW_MS},"p":2e9}}',
        f'{{"no":12,"ts":{NOW_MS // 1000},"p":2}}',
        f'{{"no":21,"ts":{NOW_MS},"p":2}}',
        f'{{"id":"{device_id(99)}","ts":{NOW_MS},"p":2}}',
        f'{{"no":12,"ts":{NOW_MS}000000000000,"p":2,"st":70000}}',
        "17",
    ]
    outcome = decoded(f'{{"seq":4,"readings":[{",".join(rows)}]}}'.encode())
    assert outcome.batch.power_w.tolist() == [1, 2]
    assert outcome.n_received == len(rows)
    assert told(outcome) == [
        (1, "body", "malformed"),
        (2, "p", "malformed"),
        (4, "soc", "out_of_range"),
        (5, "p", "out_of_range"),
        (6, "ts", "out_of_range"),
        (7, "id", "unknown_device"),
        (8, "id", "unknown_device"),
        (9, "ts", "out_of_range"),
        (10, "body", "malformed"),
    ]


def test_packed_rows_without_power_or_beyond_all_bounds_are_refused() -> None:
    records = np.zeros(6, RECORD)
    records["device_no"] = [11, 11, 12, 12, 2**32 - 1, 12]
    records["measured_ms"] = [NOW_MS, NOW_MS, NOW_MS, -1, NOW_MS, NOW_MS]
    records["power_w"] = [np.nan, np.inf, 1e9, 1, 1, -5]
    records["soc_frac"] = np.nan
    records["flags"][5] = 0b111
    outcome = decode_packed(b"UPK1" + (6).to_bytes(4, "little") + bytes(8) + records.tobytes(), 1, KNOWN, NOW_NS)
    assert told(outcome) == [
        (0, "p", "out_of_range"),
        (1, "p", "out_of_range"),
        (3, "ts", "out_of_range"),
        (4, "id", "unknown_device"),
    ]
    assert outcome.batch.device_no.tolist() == [12, 12]
    assert np.isnan(outcome.batch.soc_frac).all()
    assert outcome.batch.source_kind.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"readings":[]}', "body"),
        (b'{"seq":-1,"readings":[]}', "seq"),
        (b'{"seq":9223372036854775808,"readings":[]}', "seq"),
        (b'{"seq":1,"readings":{}}', "body"),
        (b'{"seq":1,"readings":[{"ts":NaN,"p":1}]}', "body"),
        (b"\xff\xfe", "body"),
    ],
)
def test_what_is_no_batch_names_the_field(payload: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decoded(payload)
    assert refused.value.field == field


@pytest.mark.parametrize("payload", [b"", b"UPK2" + bytes(12), b"UPK1" + bytes(11), b"UPK1\x01" + bytes(11)])
def test_what_is_no_packed_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_packed(payload, 1, KNOWN, NOW_NS)


def test_an_oversized_batch_is_refused_whole() -> None:
    sent = [Reading(no=11, ts=NOW_MS, p=1.0)] * (READINGS_PER_BATCH_MAX + 1)
    with pytest.raises(InvalidInput, match="10000"):
        decoded(encode_batch(1, sent))
    with pytest.raises(InvalidInput, match="10000"):
        decode_ndjson(encode_ndjson(sent), 1, KNOWN, NOW_NS)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_invalid_input(payload: bytes) -> None:
    for decode in (decode_batch, decode_ndjson, decode_packed):
        try:
            decode(payload, 1, KNOWN, NOW_NS)
        except InvalidInput:
            continue
