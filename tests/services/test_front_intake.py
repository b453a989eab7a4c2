"""What carries no promise waits while the stream is away, is bounded, and is counted when it goes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.links.edge import NOW_NS, fleet, running, until

from unisono.base.errors import Unavailable
from unisono.links.identity import Identity
from unisono.links.reception import Reception
from unisono.links.tally import Tally
from unisono.model.batches import AckBatch, ReadingBatch, decode_incoming
from unisono.services import front_intake
from unisono.services.front_intake import Shards, StreamIntake


class AbsentStream:
    """The bus of an intake: keeps nothing until it is back, and notes what was tried."""

    def __init__(self) -> None:
        self.is_back = False
        self.n_tried = 0
        self.kept: list[list[int]] = []

    async def publish_kept(self, subject: str, payload: bytes) -> int:
        """Keep the message or say that the stream is away."""
        assert subject == "readings.0"
        self.n_tried += 1
        if not self.is_back:
            raise Unavailable("stream", "away")
        batch = decode_incoming(payload)
        assert isinstance(batch, ReadingBatch)
        self.kept.append(batch.device_no.tolist())
        return self.n_tried


def readings(*device_nos: int, gateway_no: int = -1) -> ReadingBatch:
    columns = {"device_no": list(device_nos), "power_w": [1.0] * len(device_nos)}
    return ReadingBatch.of_columns({"gateway_no": gateway_no, "batch_seq": -1, "known_ns": NOW_NS}, columns)


def test_readings_that_go_from_the_full_queue_are_overflowed_for_their_gateways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(front_intake, "OFFERED_MAX", 2)
    monkeypatch.setattr(front_intake, "RETRY_S", 0.001)
    identity, tally, stream = Identity(), Tally(), AbsentStream()
    identity.fold(fleet())

    async def scenario() -> None:
        intake = StreamIntake(stream, Reception(identity, tally).overflow)  # type: ignore[arg-type]
        async with asyncio.timeout(10.0), running(intake.run()):
            intake.offer(readings(11))
            await until(lambda: stream.n_tried > 0)
            for batch in (readings(11, 12, 21), readings(31, 32, gateway_no=3), readings(12), readings(21)):
                intake.offer(batch)
            stream.is_back = True
            await until(lambda: len(stream.kept) == 3)

    asyncio.run(scenario())
    assert stream.kept == [[11], [12], [21]], "what is being published does not go"
    assert [tally.count(no, "overflowed") for no in (-1, 1, 2, 3)] == [0, 2, 1, 2]


def test_nothing_is_kept_on_a_full_disk_and_the_answer_says_why() -> None:
    stream, words = AbsentStream(), ["is full", ""]
    stream.is_back = True

    async def scenario() -> None:
        intake = StreamIntake(stream, [].append, full=lambda: words.pop(0))  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match="the disk of the streams is unavailable: is full"):
            await intake.keep(readings(11))
        assert stream.n_tried == 0
        await intake.keep(readings(11))

    asyncio.run(scenario())
    assert stream.kept == [[11]]


def thirds() -> Shards:
    """Devices 10 to 19 live on shard 0, 20 to 29 on shard 1, 30 to 39 on shard 2."""
    return Shards(3, lambda nos: np.where(nos < 10, 0, nos // 10 - 1).astype(np.int16))


def test_each_shard_gets_its_own_rows_under_the_same_sequence() -> None:
    columns = {"device_no": [31, 11, 32, -1], "power_w": [1.0, 2.0, 3.0, 4.0]}
    batch = ReadingBatch.of_columns({"gateway_no": 7, "batch_seq": 42, "known_ns": NOW_NS}, columns)
    parts = dict(thirds().split(batch))
    assert {shard: part.device_no.tolist() for shard, part in parts.items()} == {0: [11, -1], 2: [31, 32]}
    assert {(part.gateway_no, part.batch_seq) for part in parts.values()} == {(7, 42)}
    assert parts[2].power_w.tolist() == [1.0, 3.0]


def test_batches_of_several_gateways_are_split_with_their_sequences() -> None:
    columns = {"device_no": [11, 21, 22, 12], "power_w": [1.0, 2.0, 3.0, 4.0]}
    of_two = np.array([[7, 42, 2], [8, 5, 2]], np.int64)
    batch = ReadingBatch.of_columns({"gateway_no": -1, "batch_seq": -1, "known_ns": NOW_NS, "parts": of_two}, columns)
    parts = dict(thirds().split(batch))
    assert parts[0].pieces().tolist() == [[7, 42, 1], [8, 5, 1]]
    assert parts[1].pieces().tolist() == [[7, 42, 1], [8, 5, 1]]
    again = decode_incoming(parts[1].encode())
    assert again.device_no.tolist() == [21, 22]
    assert again.gateway_of_row().tolist() == [7, 8]
    only_mine = dict(thirds().split(batch.only(batch.device_no < 20)))
    assert only_mine[0].pieces().tolist() == [[7, 42, 1], [8, 5, 1]]
    assert set(only_mine) == {0}


def test_a_part_that_keeps_none_of_its_rows_goes_and_an_empty_batch_stays() -> None:
    columns = {"device_no": [11, 21], "power_w": [1.0, 2.0]}
    of_two = np.array([[7, 42, 1], [8, 5, 1]], np.int64)
    batch = ReadingBatch.of_columns({"gateway_no": -1, "batch_seq": -1, "known_ns": NOW_NS, "parts": of_two}, columns)
    assert dict(thirds().split(batch))[1].pieces().tolist() == [[8, 5, 1]]
    empty = readings(gateway_no=7)
    assert thirds().split(empty) == [(0, empty)]


def test_an_answer_to_a_renewal_goes_to_every_shard() -> None:
    columns = {"device_no": [-1, 21], "epoch": [3, 3], "seq": [9, 8], "code": [0, 0], "answered_ns": [1, 1]}
    parts = dict(thirds().split(AckBatch.of_columns({"gateway_no": 7, "known_ns": NOW_NS}, columns)))
    assert {shard: part.seq.tolist() for shard, part in parts.items()} == {0: [9], 1: [9, 8], 2: [9]}


def test_a_batch_is_kept_when_every_shard_has_its_part() -> None:
    class OneAway:
        def __init__(self) -> None:
            self.kept: list[str] = []

        async def publish_kept(self, subject: str, payload: bytes) -> int:
            if subject == "readings.2":
                raise Unavailable("stream", "away")
            self.kept.append(subject)
            return 1

    async def scenario() -> None:
        stream = OneAway()
        intake = StreamIntake(stream, [].append, thirds())  # type: ignore[arg-type]
        await intake.keep(readings(11, 21))
        assert stream.kept == ["readings.0", "readings.1"]
        with pytest.raises(Unavailable):
            await intake.keep(readings(11, 31))

    asyncio.run(scenario())
