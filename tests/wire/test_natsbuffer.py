"""The kernel and the msgspec path must say the same of every byte."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings, strategies as st
from tests.links.edge import NOW_MS, NOW_NS, device_id, fleet, gateway_id

from unisono.links.identity import Identity
from unisono.links.reception import Reception
from unisono.links.tally import Tally
from unisono.model.batches import ReadingBatch
from unisono.wire.natsbuffer import NatsBuffer
from unisono.wire.topics import UpName, parse_up

Message = tuple[str, bytes]


def known() -> Identity:
    identity = Identity()
    identity.fold(fleet())
    return identity


IDENTITY = known()
PARSER = NatsBuffer(IDENTITY.gateways, IDENTITY.devices)

numbers = st.one_of(
    st.integers(-(10**19), 10**19).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-20_000, 20_000, allow_nan=False, places=3).map(str),
    st.sampled_from(
        [
            *("0", "-0", "-0.0", "1e3", "1E400", "NaN", "Infinity", "null", "true", '"5"', "01", "1.", ".5", "-", "+1"),
            *("[1]", "{}", "", "1_0", "123456789012345", "1234567890123456", "0.1234567890123456", "٣"),
        ]
    ),
)
keys = st.sampled_from(
    [
        "ts",
        "p",
        "soc",
        "tc",
        "v",
        "st",
        "x",
        "src",
        "P",
        "p\\u0070",
        "",
        "energy_kwh",
        "interval_start_ms",
        "register_kwh",
    ]
)
spaces = st.sampled_from(["", "", " ", "  ", "\t"])
good_pairs = st.tuples(
    st.integers(NOW_MS, NOW_MS + 10**6).map(lambda ms: f'"ts":{ms}'),
    st.one_of(
        st.floats(-1e4, 1e4).map(lambda w: f'"p":{w!r}'),
        st.floats(-1e4, 1e4).map(lambda kwh: f'"register_kwh":{kwh!r}'),
        st.floats(-1e4, 1e4).map(lambda kwh: f'"energy_kwh":{kwh!r},"interval_start_ms":{NOW_MS - 900_000}'),
    ),
)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    pairs = list(draw(good_pairs)) if draw(st.integers(0, 4)) else []
    for _ in range(draw(st.integers(0, 3))):
        pairs.append(f'{draw(spaces)}"{draw(keys)}"{draw(spaces)}:{draw(spaces)}{draw(numbers)}{draw(spaces)}')
    order = draw(st.permutations(pairs))
    return f"{draw(spaces)}{{{','.join(order)}}}{draw(st.sampled_from(['', '', ' ', 'x', '}']))}".encode()


payloads = st.one_of(objects(), objects(), st.binary(max_size=40))
gateways = st.sampled_from([gateway_id(1), gateway_id(2), gateway_id(3), gateway_id(9), "g"])
devices = st.sampled_from([device_id(no) for no in (11, 12, 21, 31, 99)] + ["d"])
messages = st.lists(st.tuples(st.tuples(gateways, devices).map(lambda pair: f"u.{pair[0]}.{pair[1]}.t"), payloads))


def framed(subject: str, payload: bytes, qos: int | None = 0, reply: str = "") -> bytes:
    head = f"{subject} 1{' ' + reply if reply else ''}".encode()
    if qos is None:
        return b"MSG %s %d\r\n%s\r\n" % (head, len(payload), payload)
    header = b"NATS/1.0\r\nNmqtt-Pub:%d\r\n\r\n" % qos
    total = len(header) + len(payload)
    return b"HMSG %s %d %d\r\n%s%s\r\n" % (head, len(header), total, header, payload)


def by_kernel(stream: bytes, cuts: list[int]) -> tuple[list[tuple[int, ...]], Tally]:
    """Feed the stream in pieces, as a socket would; spills take the slow path as in the link."""
    reception = Reception(IDENTITY, Tally())
    rows: list[tuple[int, ...]] = []
    held = np.zeros(0, np.uint8)
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        piece = np.frombuffer(bytearray(stream[start:stop]), np.uint8)
        held = np.concatenate([held, piece])
        scanned = PARSER.scan(held, held.size, IDENTITY.gateway_of_device)
        held = held[scanned.n_consumed :].copy()
        rows += rows_of(reception.scanned(scanned, NOW_NS))
        slow = [(parse_up(spill.subject, "."), spill.payload) for spill in scanned.spills]
        rows += rows_of(reception.singles([(name, payload) for name, payload in slow if name], NOW_NS))
    assert held.size == 0
    return sorted(rows), reception.tally


def by_msgspec(sent: list[Message]) -> tuple[list[tuple[int, ...]], Tally]:
    reception = Reception(IDENTITY, Tally())
    names = [(parse_up(subject, "."), payload) for subject, payload in sent]
    arrived: list[tuple[UpName, bytes]] = [(name, payload) for name, payload in names if name]
    return sorted(rows_of(reception.singles(arrived, NOW_NS))), reception.tally


def rows_of(batch: ReadingBatch) -> list[tuple[int, ...]]:
    columns = (batch.device_no, batch.measured_ns, batch.status, batch.source_kind, batch.reading_kind)
    columns += (batch.interval_start_ns, batch.energy_wh.view(np.uint64))
    values = (batch.power_w, batch.soc_frac, batch.temperature_degc, batch.voltage_v)
    # Bits, so that NaN equals NaN and -0.0 differs from 0.0.
    bits = [column.view(np.uint32).tolist() for column in values]
    return list(zip(*(column.tolist() for column in columns), *bits, strict=True))


@given(messages, st.data())
@settings(max_examples=300)
def test_kernel_agrees_with_msgspec(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(framed(subject, payload, data.draw(st.sampled_from([0, None]))) for subject, payload in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    fast, fast_tally = by_kernel(stream, cuts)
    slow, slow_tally = by_msgspec(sent)
    assert fast == slow
    assert fast_tally.due("", "", 0, 0) == slow_tally.due("", "", 0, 0)


def test_a_stream_may_be_cut_at_every_byte() -> None:
    sent = [
        (f"u.{gateway_id(1)}.{device_id(11)}.t", b'{"ts":%d,"p":-1.5,"soc":0.25,"tc":20,"v":230.5,"st":7}' % NOW_MS),
        (f"u.{gateway_id(1)}.{device_id(12)}.t", b'{"p": 1e3, "ts": %d}' % NOW_MS),
        (f"u.{gateway_id(2)}.{device_id(11)}.t", b'{"ts":%d,"p":1}' % NOW_MS),
    ]
    stream = b"INFO {}\r\nPING\r\n" + b"".join(framed(*message, reply="r.1") for message in sent) + b"PONG\r\n+OK\r\n"
    whole, _ = by_msgspec(sent)
    assert len(whole) == 2
    for cut in range(len(stream)):
        assert by_kernel(stream, [cut])[0] == whole
    assert by_kernel(stream, list(range(len(stream))))[0] == whole


def test_acknowledged_messages_are_left_to_the_other_reader() -> None:
    subject, payload = f"u.{gateway_id(1)}.{device_id(11)}.t", b'{"ts":%d,"p":1}' % NOW_MS
    stream = framed(subject, payload, 1) + framed(subject, payload, 2) + framed(f"u.{gateway_id(1)}.b", b"{}", 1)
    buffer = np.frombuffer(bytearray(stream), np.uint8)
    scanned = PARSER.scan(buffer, buffer.size, IDENTITY.gateway_of_device)
    assert (scanned.n_acknowledged, scanned.singles.gateway_no.size, scanned.spills) == (3, 0, ())


def test_more_rows_than_room_are_taken_in_several_scans() -> None:
    parser = NatsBuffer(IDENTITY.gateways, IDENTITY.devices, n_rows_max=3)
    payload = json.dumps({"ts": NOW_MS, "p": 5}).encode()
    stream = framed(f"u.{gateway_id(1)}.{device_id(11)}.t", payload) * 7
    buffer = np.frombuffer(bytearray(stream), np.uint8)
    n_rows = []
    while buffer.size:
        scanned = parser.scan(buffer, buffer.size, IDENTITY.gateway_of_device)
        n_rows.append(scanned.singles.gateway_no.size)
        buffer = buffer[scanned.n_consumed :].copy()
    assert n_rows == [3, 3, 1]


def test_pings_and_errors_of_the_server_are_told() -> None:
    buffer = np.frombuffer(bytearray(b"PING\r\n-ERR 'Authorization Violation'\r\nPONG\r\nPI"), np.uint8)
    scanned = PARSER.scan(buffer, buffer.size, IDENTITY.gateway_of_device)
    assert (scanned.n_pings, scanned.n_errors, scanned.n_consumed) == (1, 1, buffer.size - 2)
