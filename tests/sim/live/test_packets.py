from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from unisono.base.errors import DamagedRecord
from unisono.sim.live import packets


@given(
    st.lists(st.tuples(st.text(max_size=30), st.binary(max_size=400), st.integers(0, 65_535)), max_size=8),
    st.integers(1, 50),
)
def test_packets_survive_any_cutting(messages: list[tuple[str, bytes, int]], cut: int) -> None:
    stream = b"".join(packets.publish(*message) for message in messages)
    reader, got = packets.PacketReader(), []
    for at in range(0, len(stream), cut):
        got += [packet.message() for packet in reader.feed(stream[at : at + cut])]
    assert got == messages


def test_a_length_that_can_not_be_is_refused() -> None:
    with pytest.raises(DamagedRecord):
        list(packets.PacketReader().feed(b"\x30\xff\xff\xff\xff\x01"))
    with pytest.raises(DamagedRecord):
        list(packets.PacketReader().feed(b"\x30\xff\xff\xff\x7f"))


def test_codes_and_ids_are_read() -> None:
    (connack,) = packets.PacketReader().feed(b"\x20\x02\x00\x05")
    assert (connack.kind, connack.code()) == (packets.CONNACK, 5)
    (puback,) = packets.PacketReader().feed(packets.puback(513))
    assert (puback.kind, puback.packet_id()) == (packets.PUBACK, 513)
