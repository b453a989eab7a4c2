"""Messages that wait are bounded, and what goes is counted."""

from __future__ import annotations

import asyncio

import numpy as np
from tests.links.edge import fleet, gateway_id

from unisono.links.identity import Identity
from unisono.links.reception import ReceivedBatches, Reception
from unisono.links.tally import Tally
from unisono.links.waiting import Waiting, WaitingBatches
from unisono.model.batches import ReadingBatch
from unisono.wire.topics import Up, UpName


def test_the_oldest_goes_from_a_full_queue_and_is_counted_for_its_gateway() -> None:
    identity = Identity()
    identity.fold(fleet())
    reception = Reception(identity, Tally())
    waiting = Waiting(reception, 3)
    names = [UpName(gateway_id(no), "", Up.BATCH) for no in (1, 2, 2, 1, 1)]
    for n, name in enumerate(names):
        waiting.put((name, b"%d" % n))
    taken = asyncio.run(waiting.take())
    assert [payload for _, payload in taken] == [b"2", b"3", b"4"]
    for gateway_no in (1, 2):
        counts = [reception.tally.count(gateway_no, cause) for cause in ("accepted", "overflowed")]
        assert counts == [1, 1]


def test_a_name_below_a_gateways_own_topic_that_is_none_of_ours_is_malformed() -> None:
    identity = Identity()
    identity.fold(fleet())
    reception = Reception(identity, Tally())
    assert reception.named(f"u/{gateway_id(1)}/what", "/") is None
    assert reception.named(f"u.{gateway_id(1)}.a.b.c", ".") is None
    assert reception.named("u", "/") is None
    assert reception.named(f"u/{gateway_id(1)}/b", "/") == UpName(gateway_id(1), "", Up.BATCH)
    assert [reception.tally.count(gateway_no, "malformed") for gateway_no in (1, -1)] == [2, 1]


def test_of_too_many_decoded_batches_the_oldest_go_and_each_reading_is_counted_for_its_gateway() -> None:
    async def scenario() -> None:
        identity = Identity()
        identity.fold(fleet())
        reception = Reception(identity, Tally())
        waiting = WaitingBatches(reception, n_readings_max=5)
        columns = {"device_no": [11, 21, 21], "measured_ns": [1, 2, 3], "power_w": [1.0, 2.0, 3.0]}
        parts = np.array([[1, 7, 1], [2, 8, 2]])
        header = {"gateway_no": -1, "batch_seq": -1, "known_ns": 0, "parts": parts}
        first, second = (ReceivedBatches(ReadingBatch.of_columns(header, columns), parts) for _ in range(2))
        waiting.put(first)
        waiting.put(second)
        assert await waiting.take() is second
        assert [reception.tally.count(no, "overflowed") for no in (1, 2)] == [1, 2]

    asyncio.run(scenario())
