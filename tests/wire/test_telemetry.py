"""Batches in three forms: what is good is taken, what is not is named by row, field and rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tests.links.edge import NOW_MS, NOW_NS, device_id, fleet

from unisono.base.errors import InvalidInput
from unisono.links.identity import Identity
from unisono.model.batches import ReadingBatch
from unisono.wire.energies import INTERVAL_S_MAX
from unisono.wire.packed import ENERGY_RECORD, RECORD, decode_packed, encode_packed
from unisono.wire.rules import VALUE_CHARS_MAX, DecodedReadings
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


values = st.one_of(
    st.builds(dict, p=st.floats(-1e6, 1e6, width=32)),
    st.builds(
        dict,
        energy_kwh=st.floats(-2.5e7, 2.5e7),
        interval_start_ms=st.integers(NOW_MS + 10**6 - 1000 * INTERVAL_S_MAX, NOW_MS - 1),
    ),
    st.builds(dict, register_kwh=st.floats(-1e12, 1e12)),
)
readings = st.builds(
    lambda value, **more: Reading(**value, **more),
    values,
    no=st.sampled_from([11, 12]),
    ts=st.integers(NOW_MS, NOW_MS + 10**6),
    soc=st.none() | st.floats(0, 1, width=32),
    tc=st.none() | st.floats(-50, 90, width=32),
    v=st.none() | st.floats(0, 1000, width=32),
    st=st.none() | st.integers(0, 65535),
    src=st.sampled_from([None, "meter", "vendor_cloud"]),
)


def value_of(batch: ReadingBatch, at: int) -> dict[str, float]:
    """The obvious twin: what stood in the reading, out of its batch's columns."""
    energy_kwh = float(batch.energy_wh[at]) / 1000
    match int(batch.reading_kind[at]):
        case 0:
            return {"p": float(batch.power_w[at])}
        case 1:
            return {"energy_kwh": energy_kwh, "interval_start_ms": int(batch.interval_start_ns[at]) // 10**6}
        case _:
            return {"register_kwh": energy_kwh}


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
    for at, reading in enumerate(sent):
        value = value_of(batch, at)
        assert {name: getattr(reading, name) for name in value} == pytest.approx(value, rel=1e-15)
        assert np.isnan(batch.power_w[at]) == (reading.p is None)
        assert np.isnan(batch.energy_wh[at]) == (reading.p is not None)
        assert (batch.interval_start_ns[at] >= 0) == (reading.interval_start_ms is not None)
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
        (1, "p", "malformed"),
        (2, "p", "malformed"),
        (4, "soc", "out_of_range"),
        (5, "p", "out_of_range"),
        (6, "ts", "out_of_range"),
        (7, "id", "unknown_device"),
        (8, "id", "unknown_device"),
        (9, "ts", "out_of_range"),
        (10, "body", "malformed"),
    ]


def rules_broken(*rows: str) -> list[tuple[str, str, str]]:
    """Return (field, value, rule) of each row, all of them refused."""
    head = f'"no":11,"ts":{NOW_MS}'
    outcome = decoded(f'{{"seq":4,"readings":[{",".join(f"{{{head},{row}}}" for row in rows)}]}}'.encode())
    assert len(outcome.batch) == 0
    assert {error.cause for error in outcome.rejected} <= {"malformed", "out_of_range"}
    return [(error.field, error.value, error.rule) for error in outcome.rejected]


def test_a_reading_is_a_power_or_an_energy_with_its_start_or_a_register_and_no_mixture() -> None:
    start = f'"interval_start_ms":{NOW_MS - 900_000}'
    alone = "must come alone: a reading is p, or energy_kwh with interval_start_ms, or register_kwh"
    one_of_three = "must be given, or energy_kwh with interval_start_ms, or register_kwh"
    assert rules_broken(
        '"soc":0.5',
        '"p":null',
        '"energy_kwh":2',
        start,
        f'"p":1,"energy_kwh":2,{start}',
        f'"register_kwh":7,"energy_kwh":2,{start}',
        '"register_kwh":7,"p":1',
        f'"p":1,{start}',
        f'"register_kwh":1,{start}',
    ) == [
        ("p", "null", one_of_three),
        ("p", "null", one_of_three),
        ("interval_start_ms", "null", "must be given with energy_kwh"),
        ("energy_kwh", "null", "must be given with interval_start_ms"),
        ("energy_kwh", "2.0", alone),
        ("energy_kwh", "2.0", alone),
        ("register_kwh", "7.0", alone),
        ("interval_start_ms", str(NOW_MS - 900_000), alone),
        ("register_kwh", "1.0", alone),
    ]


def test_an_energy_beyond_its_bounds_is_named_with_its_value_and_its_rule() -> None:
    bounds = "must lie before ts, by at most 25 h"
    assert rules_broken(
        f'"energy_kwh":1,"interval_start_ms":{NOW_MS}',
        f'"energy_kwh":1,"interval_start_ms":{NOW_MS - 90_000_001}',
        f'"energy_kwh":1,"interval_start_ms":{NOW_MS}000000000000',
        f'"energy_kwh":3e7,"interval_start_ms":{NOW_MS - 1}',
        '"register_kwh":-2e12',
        '"register_kwh":1e308',
        '"register_kwh":"7"',
    ) == [
        ("interval_start_ms", str(NOW_MS), bounds),
        ("interval_start_ms", str(NOW_MS - 90_000_001), bounds),
        ("interval_start_ms", f"{NOW_MS}000000000000", bounds),
        ("energy_kwh", "30000000.0", "must be within +-2.5e7 kWh"),
        ("register_kwh", "-2000000000000.0", "must be within +-1e12 kWh"),
        ("register_kwh", "1e+308", "must be within +-1e12 kWh"),
        ("register_kwh", '"7"', "must be a JSON number or null"),
    ]


def test_the_row_of_a_line_is_its_place_in_the_text_with_blank_lines_counted() -> None:
    good = encode_ndjson([Reading(no=11, ts=NOW_MS, p=1.0)])
    text = b"\n" + good + b"\r\n  \n{broken\n\n" + encode_ndjson([Reading(no=11, ts=NOW_MS, p=1.0, soc=2.0)])
    lines = text.splitlines()
    outcome = decode_ndjson(text, 1, KNOWN, NOW_NS)
    assert told(outcome) == [(lines.index(b"{broken"), "body", "malformed"), (len(lines) - 1, "soc", "out_of_range")]
    assert outcome.n_received == 3


def test_a_refused_row_tells_its_value_as_it_was_sent_and_cut_short() -> None:
    long = "x" * 1000
    lines = [
        f'{{"no":11,"ts":{NOW_MS},"p":"{long}"}}',
        f'{{"no":11,"ts":{NOW_MS},"p":"1", oops',
        '{"no":11,"p":1}',
        f'{{"id":"{long}","ts":{NOW_MS},"p":1}}',
        f'{{"no":21,"ts":{NOW_MS},"p":1}}',
        f'{{"no":11,"ts":{NOW_MS},"p":1,"soc":1.5}}',
        f'{{"no":11,"ts":{NOW_MS},"p":1,"st":-3}}',
        long,
    ]
    outcome = decode_ndjson("\n".join(lines).encode(), 1, KNOWN, NOW_NS)
    assert [(error.row, error.field, error.value) for error in outcome.rejected] == [
        (0, "p", f'"{long[: VALUE_CHARS_MAX - 4]}...'),
        (1, "p", lines[1]),
        (2, "ts", "null"),
        (3, "id", f'"{long[: VALUE_CHARS_MAX - 4]}...'),
        (4, "id", "21"),
        (5, "soc", "1.5"),
        (6, "st", "-3"),
        (7, "body", f"{long[: VALUE_CHARS_MAX - 3]}..."),
    ]


def test_packed_mixtures_are_refused_and_packed_powers_keep_their_shorter_form() -> None:
    records = np.zeros(6, ENERGY_RECORD)
    records["device_no"], records["measured_ms"], records["interval_start_ms"] = 11, NOW_MS, -1
    for name in ("power_w", "soc_frac", "energy_wh", "register_wh"):
        records[name] = np.nan
    records["power_w"][[0, 1]] = 5.0
    records["register_wh"][[1, 2]] = 7_000.0
    records["energy_wh"][[3, 4]] = 250.0, 250.0
    records["interval_start_ms"][4] = NOW_MS - 900_000
    outcome = decode_packed(b"UPK2" + (6).to_bytes(4, "little") + bytes(8) + records.tobytes(), 1, KNOWN, NOW_NS)
    assert [(error.row, error.field, error.value, error.cause) for error in outcome.rejected] == [
        (1, "register_kwh", "7.0", "malformed"),
        (3, "interval_start_ms", "null", "malformed"),
        (5, "p", "null", "malformed"),
    ]
    batch = outcome.batch
    assert [value_of(batch, at) for at in range(3)] == [
        {"p": 5.0},
        {"register_kwh": 7.0},
        {"energy_kwh": 0.25, "interval_start_ms": NOW_MS - 900_000},
    ]
    powers = decoded(encode_batch(1, [Reading(no=11, ts=NOW_MS, p=1.0)])).batch
    assert encode_packed(1, powers)[:4] == b"UPK1"


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
        (b'{"readings":[]}', "seq"),
        (b'{"seq":-1,"readings":[]}', "seq"),
        (b'{"seq":9223372036854775808,"readings":[]}', "seq"),
        (b'{"seq":1,"readings":{}}', "readings"),
        (b"\xff\xfe", "body"),
    ],
)
def test_what_is_no_batch_names_the_field(payload: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decoded(payload)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "payload", [b"", b"UPK3" + bytes(12), b"UPK2" + bytes(11), b"UPK1" + bytes(11), b"UPK1\x01" + bytes(11)]
)
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


def test_numbers_that_json_does_not_know_spoil_no_more_than_their_rows() -> None:
    good = b'{"no":11,"ts":%d,"p":1}' % NOW_MS
    bad = b'{"no":11,"ts":%d,"p":NaN},{"no":11,"ts":-Infinity,"p":1}' % NOW_MS
    outcome = decoded(b'{"seq":1,"readings":[' + good + b"," + bad + b"," + good + b"]}")
    assert len(outcome.batch) == 2
    assert [(error.row, error.field, error.value) for error in outcome.rejected] == [
        (1, "p", '"NaN"'),
        (2, "ts", '"-Infinity"'),
    ]
