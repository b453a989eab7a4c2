"""Batches found by kernels, in a socket's buffer and in the bodies of requests: the same as by their decoders."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings, strategies as st
from tests.links.edge import NOW_MS, NOW_NS, device_id, fleet, gateway_id

from unisono.links.identity import Identity
from unisono.links.reception import Reception
from unisono.links.tally import Tally
from unisono.model.batches import ReadingBatch
from unisono.wire.bodies import Body, BodyScan
from unisono.wire.natsbuffer import NatsBuffer
from unisono.wire.packed import RECORD
from unisono.wire.telemetry import READINGS_PER_BATCH_MAX
from unisono.wire.topics import parse_up

Row = tuple[object, ...]
Message = tuple[str, bytes]


def known() -> Identity:
    identity = Identity()
    identity.fold(fleet())
    return identity


IDENTITY = known()
PARSER = NatsBuffer(IDENTITY.gateways, IDENTITY.devices)

powers = st.one_of(st.floats(-1e4, 1e4, width=32).map(repr), st.sampled_from(["1e10", "null", '"5"', "1.5e3", "-0"]))
instants = st.one_of(st.integers(NOW_MS, NOW_MS + 9).map(str), st.sampled_from(["5", "1.5", "4102444800000", "null"]))
names = st.sampled_from(
    [
        *(f'"id":"{device_id(no)}"' for no in (11, 12, 21, 99)),
        *(
            '"no":11',
            '"no":12',
            '"no":21',
            '"no":-1',
            '"no":4294967296',
            '"no":1.0',
            '"id":""',
            '"id":"\\u0064"',
            '"x":1',
        ),
    ]
)


@st.composite
def readings(draw: st.DrawFn) -> str:
    parts = [draw(names), f'"ts":{draw(instants)}', f'"p":{draw(powers)}']
    parts += draw(st.lists(st.sampled_from(['"soc":0.5', '"soc":2', '"v":230', '"st":7', '"src":"meter"']), max_size=2))
    return "{" + draw(st.sampled_from([",", ", "])).join(draw(st.permutations(parts))) + "}"


json_batches = st.builds(
    lambda seq, rows, end: f'{{"seq": {seq},"readings":[{", ".join(rows)}]{end}'.encode(),
    st.sampled_from(["0", "7", "-1", "9007199254740993", "1.0"]),
    st.lists(readings(), max_size=5),
    st.sampled_from(["}", "}", "}", "} ", "", "}x", ',"more":1}']),
)
values = st.one_of(st.floats(-1e4, 1e4, width=32), st.sampled_from([math.nan, math.inf, 0.5, 2e9]))


@st.composite
def packed_batches(draw: st.DrawFn) -> bytes:
    n = draw(st.integers(0, 4))
    records = np.zeros(n, RECORD)
    for record in records:
        record["device_no"] = draw(st.sampled_from([11, 12, 21, 99, 2**31, 2**32 - 1]))
        record["flags"] = draw(st.integers(0, 65535))
        record["status"] = draw(st.integers(0, 65535))
        record["measured_ms"] = draw(st.sampled_from([NOW_MS, NOW_MS + 1, 5, -1, 2**62, -(2**63)]))
        for name in ("power_w", "soc_frac", "temperature_degc", "voltage_v"):
            record[name] = draw(values)
    count = draw(st.sampled_from([n, n, n, n + 1, 2**32 - 1]))
    seq = draw(st.sampled_from([0, 8, 2**63 - 1, 2**63]))
    magic = draw(st.sampled_from([b"UPK1", b"UPK1", b"UPK2", b"UPKX"]))
    return magic + count.to_bytes(4, "little") + seq.to_bytes(8, "little") + records.tobytes()


gateways = st.sampled_from([gateway_id(1), gateway_id(2), gateway_id(9)])
messages = st.lists(
    st.one_of(
        st.tuples(gateways.map(lambda name: f"u.{name}.b"), json_batches),
        st.tuples(gateways.map(lambda name: f"u.{name}.p"), packed_batches()),
    ),
    max_size=6,
)


def rows_of(batch: ReadingBatch) -> list[Row]:
    """Return each row with its batch's gateway and sequence, values by their bits."""
    found: list[Row] = []
    at = 0
    for gateway_no, batch_seq, n in batch.pieces().tolist():
        for row in range(at, at + n):
            bits = (getattr(batch, name)[row].tobytes() for name in ReadingBatch.DTYPES)
            found.append((gateway_no, batch_seq, *bits))
        at += n
    return found


def slowly(reception: Reception, sent: list[Message]) -> list[Row]:
    named = [(parse_up(subject, "."), payload) for subject, payload in sent]
    received = reception.receive([(name, payload) for name, payload in named if name is not None], NOW_NS)
    return [row for one in received if isinstance(one.batch, ReadingBatch) for row in rows_of(one.batch)]


@given(messages)
@settings(max_examples=200)
def test_the_buffer_kernel_agrees_with_the_decoders(sent: list[Message]) -> None:
    stream = b"".join(b"MSG %s 1 %d\r\n%s\r\n" % (name.encode(), len(payload), payload) for name, payload in sent)
    buffer = np.frombuffer(bytearray(stream), np.uint8)
    fast, slow = Reception(IDENTITY, Tally()), Reception(IDENTITY, Tally())
    scanned = PARSER.scan(buffer, buffer.size, IDENTITY.gateway_of_device)
    assert scanned.n_consumed == buffer.size
    received = fast.scanned_batches(scanned, NOW_NS)
    rows = [] if received is None else rows_of(received.batch)
    rows += slowly(fast, [(spill.subject, spill.payload) for spill in scanned.spills])
    assert sorted(rows, key=repr) == sorted(slowly(slow, sent), key=repr)
    assert fast.tally.due("", "", 0, 0) == slow.tally.due("", "", 0, 0)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.one_of(json_batches, packed_batches())), max_size=6))
@settings(max_examples=200)
def test_the_bodies_that_the_kernel_takes_are_those_that_the_decoders_find_nothing_wrong_with(
    sent: list[tuple[int, bytes]],
) -> None:
    found = BodyScan(IDENTITY.devices).scan([Body(no, payload) for no, payload in sent], IDENTITY.gateway_of_device)
    reception = Reception(IDENTITY, Tally())
    received = reception.bodies(found, NOW_NS)
    taken = [one for one, n in zip(sent, found.parts[:, 2].tolist(), strict=True) if n >= 0]
    subjects = [(f"u.{gateway_id(no)}.{'p' if body[:3] == b'UPK' else 'b'}", body) for no, body in taken]
    assert ([] if received is None else rows_of(received.batch)) == slowly(reception, subjects)
    refused = ("unknown_device", "out_of_range", "malformed")
    assert all(reception.tally.count(no, cause) == 0 for no in (1, 2) for cause in refused)


def test_batches_that_do_not_fit_one_scan_come_with_the_next() -> None:
    n = READINGS_PER_BATCH_MAX
    records = np.zeros(n, RECORD)
    records["device_no"], records["measured_ms"] = 11, NOW_MS
    payload = b"UPK1" + n.to_bytes(4, "little") + bytes(8) + records.tobytes()
    stream = b"MSG u.%s.p 1 %d\r\n%s\r\n" % (gateway_id(1).encode(), len(payload), payload)
    buffer = np.frombuffer(bytearray(5 * stream), np.uint8)
    sizes = []
    while buffer.size:
        scanned = PARSER.scan(buffer, buffer.size, IDENTITY.gateway_of_device)
        sizes.append(scanned.parts[:, 2].tolist())
        assert not scanned.spills
        buffer = buffer[scanned.n_consumed :].copy()
    assert sizes == [[n, n, n], [n, n]]
