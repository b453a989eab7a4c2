"""What carries no promise waits while the stream is away, is bounded, and is counted when it goes."""

from __future__ import annotations

import asyncio

import pytest
from tests.links.edge import NOW_NS, fleet, running, until

from unisono.base.errors import Unavailable
from unisono.links.identity import Identity
from unisono.links.reception import Reception
from unisono.links.tally import Tally
from unisono.model.batches import ReadingBatch, decode_incoming
from unisono.services import front_intake
from unisono.services.front_intake import StreamIntake


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
