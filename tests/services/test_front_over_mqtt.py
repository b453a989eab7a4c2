"""The front against a real nats-server and real MQTT clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvloop
from tests.links.edge import (
    NOW_MS,
    arrived,
    broker_settings,
    bus_of,
    clock,
    counted,
    device_id,
    enrolled,
    gateway_id,
    mqtt_gateway,
    running,
)

from unisono.bus.connection import Bus
from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.links.allowance import RateSettings
from unisono.model.batches import AckBatch, ReadingBatch
from unisono.model.ingest import COUNTER_NAMES, IngestCounters
from unisono.services import gatekeeper
from unisono.services.front import Front, FrontSettings
from unisono.services.gatekeeper import GatekeeperSettings
from unisono.wire.acks import encode_acks
from unisono.wire.packed import encode_packed
from unisono.wire.receipts import decode_receipt
from unisono.wire.telemetry import Reading, encode_batch, encode_single

Work = Coroutine[Any, Any, None]


def new_front(bus: Bus, endpoints: NatsEndpoints) -> Front:
    return Front(bus, clock(), FrontSettings("1", broker_settings(endpoints)))


@asynccontextmanager
async def guarded(
    bus: Bus, front: Front, endpoints: NatsEndpoints, *more: Coroutine[Any, Any, None]
) -> AsyncIterator[None]:
    """A gatekeeper that already answers, and whatever else is to run."""
    is_open = asyncio.Event()
    settings = GatekeeperSettings(endpoints.account_seed_path)
    keeper = gatekeeper.run(bus, front.identity, clock(), settings, may_admit=front.may_admit, is_open=is_open)
    async with running(keeper, *more):
        await asyncio.wait_for(is_open.wait(), 10)
        yield


def topic(gateway_no: int, device_no: int) -> str:
    return f"u/{gateway_id(gateway_no)}/{device_id(device_no)}/t"


def reading(power_w: float, at_ms: int = NOW_MS) -> bytes:
    return encode_single(Reading(ts=at_ms, p=power_w, soc=0.5))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_single_readings_of_both_qualities_arrive_once_each(engine: NatsEngine, run: Callable[[Work], None]) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with enrolled(endpoints) as bus:
            front = new_front(bus, endpoints)
            async with guarded(bus, front, endpoints, front.run()):
                assert front.may_admit.is_set()
                async with mqtt_gateway(endpoints, 1) as gateway:
                    for n in range(50):
                        gateway.publish(topic(1, 11), reading(n, NOW_MS + n), qos=0)
                        gateway.publish(topic(1, 12), reading(-n, NOW_MS + n), qos=1)
                    # An exponent is none of the kernel's business.
                    gateway.publish(topic(1, 11), b'{"ts": %d, "p": 1.5e3}' % (NOW_MS + 99), qos=0)
                    batches = await arrived(bus, 101)
        readings = [batch for batch in batches if isinstance(batch, ReadingBatch)]
        rows = [row for batch in readings for row in zip(batch.device_no, batch.power_w, strict=True)]
        assert len(rows) == 101
        assert sorted(power for no, power in rows if no == 11) == [*range(50), 1500.0]
        assert sorted(-power for no, power in rows if no == 12) == list(range(50))
        assert front.tally.count(1, "accepted") == 101

    run(scenario())


def test_what_was_acknowledged_while_the_front_was_down_arrives_when_it_is_back(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with enrolled(endpoints) as bus, bus_of(endpoints) as keeper_bus:
            first = new_front(bus, endpoints)
            async with running(first.run()):
                await first.may_admit.wait()
            # The front is gone, the gateway is still let in by another gatekeeper.
            async with guarded(keeper_bus, first, endpoints), mqtt_gateway(endpoints, 1) as gateway:
                for n in range(200):
                    gateway.publish(topic(1, 11), reading(n, NOW_MS + n), qos=1)
                await stored(bus, 200)
            second = new_front(bus, endpoints)
            async with running(second.run()):
                batches = await arrived(bus, 200)
        assert sorted(powers(batches)) == list(range(200))

    asyncio.run(scenario())


def powers(batches: list[ReadingBatch | AckBatch]) -> list[float]:
    return [power for batch in batches if isinstance(batch, ReadingBatch) for power in batch.power_w.tolist()]


async def stored(bus: Bus, n: int) -> None:
    async with asyncio.timeout(10):
        while await bus.last_seq("$MQTT_msgs") < n:
            await bus.flush()


def test_batches_are_receipted_when_kept_and_duplicates_pass_through(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with enrolled(endpoints) as bus:
            front = new_front(bus, endpoints)
            async with guarded(bus, front, endpoints, front.run()):
                assert front.may_admit.is_set()
                async with mqtt_gateway(endpoints, 1, subscribe=True) as gateway:
                    good = Reading(id=device_id(11), ts=NOW_MS, p=1.0)
                    bad = Reading(id=device_id(12), ts=5, p=2.0)
                    foreign = Reading(id=device_id(21), ts=NOW_MS, p=3.0)
                    batch = encode_batch(7, [good, bad, foreign, good])
                    up = f"u/{gateway_id(1)}"
                    gateway.publish(f"{up}/b", batch, qos=1)
                    assert decode_receipt((await gateway.received())[1]).through_seq == 7
                    gateway.publish(f"{up}/b", batch, qos=1)
                    assert decode_receipt((await gateway.received())[1]).through_seq == 7
                    columns = {"device_no": [12], "measured_ns": [NOW_MS * 10**6], "power_w": [9.0]}
                    scalars = {"gateway_no": -1, "batch_seq": -1, "known_ns": 0}
                    packed = encode_packed(8, ReadingBatch.of_columns(scalars, columns))
                    gateway.publish(f"{up}/p", packed, qos=0)
                    topic_of_receipt, receipt = await gateway.received()
                    assert decode_receipt(receipt).through_seq == 8
                    assert topic_of_receipt == f"c/{gateway_id(1)}/s"
                    gateway.publish(f"{up}/a", encode_acks([(11, 1, 5, 0, NOW_MS), (21, 1, 5, 0, NOW_MS)]), qos=1)
                    batches = await arrived(bus, 6)
        readings = [batch for batch in batches if isinstance(batch, ReadingBatch)]
        kept = [(batch.gateway_no, batch.batch_seq, len(batch)) for batch in readings]
        assert kept == [(1, 7, 2), (1, 7, 2), (1, 8, 1)]
        (acks,) = (batch for batch in batches if isinstance(batch, AckBatch))
        assert acks.device_no.tolist() == [11]
        counted = {cause: front.tally.count(1, cause) for cause in ("accepted", "out_of_range", "unknown_device")}
        assert counted == {"accepted": 9, "out_of_range": 2, "unknown_device": 3}

    asyncio.run(scenario())


def test_a_gateway_can_neither_publish_nor_read_as_another(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with enrolled(endpoints) as bus:
            front = new_front(bus, endpoints)
            async with guarded(bus, front, endpoints, front.run()):
                assert front.may_admit.is_set()
                async with mqtt_gateway(endpoints, 1) as gateway:
                    gateway.publish(topic(2, 21), reading(666), qos=1)
                    gateway.publish(topic(2, 21), reading(666), qos=0)
                    # Under its own name it may say it, but the device is not its own.
                    gateway.publish(topic(1, 21), reading(667), qos=1)
                    gateway.publish(topic(1, 21), reading(667), qos=0)
                    gateway.publish(topic(1, 11), reading(1), qos=1)
                    gateway.publish(topic(1, 11), reading(2), qos=0)
                    batches = await arrived(bus, 2)
                    await counted(bus, front.tally, 1, "forbidden", 2)
        assert sorted(powers(batches)) == [1, 2]
        assert front.tally.count(1, "unknown_device") == 2
        # What was published as the other is counted for who did it: two of the six that it sent.
        assert (front.tally.count(1, "forbidden"), front.tally.count(1, "accepted")) == (2, 6)
        assert front.tally.count(2, "accepted") == 0

    asyncio.run(scenario())


def test_counters_are_published(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        told: asyncio.Queue[bytes] = asyncio.Queue()

        async def note(subject: str, payload: bytes) -> None:
            assert subject == "counters.front.1"
            told.put_nowait(payload)

        async with enrolled(endpoints) as bus:
            await bus.subscribe("counters.front.*", note)
            front = new_front(bus, endpoints)
            async with running(front.run()):
                front.tally.add(2, "accepted", 5)
                payload = await asyncio.wait_for(told.get(), 10)
        counters = msgspec.msgpack.decode(payload, type=IngestCounters)
        numbers, counts = counters.rows()
        assert (numbers.tolist(), counts.tolist()) == ([2], [[5, *(0,) * (len(COUNTER_NAMES) - 1)]])

    asyncio.run(scenario())


def test_a_gateway_that_floods_is_held_to_its_rate_and_others_are_unharmed(engine: NatsEngine) -> None:
    async def scenario() -> None:
        endpoints = engine.endpoints
        async with enrolled(endpoints) as bus:
            # Gateways 1 and 2 may send a burst of 30; time stands still.
            rates = RateSettings(factor=1.0, floor_per_s=0.5, burst_min=30)
            front = Front(bus, clock(), FrontSettings("1", broker_settings(endpoints), rates=rates))
            async with guarded(bus, front, endpoints, front.run()):
                assert front.may_admit.is_set()
                async with mqtt_gateway(endpoints, 2, subscribe=True) as other:
                    async with mqtt_gateway(endpoints, 1, subscribe=True) as flooding:
                        for n in range(3000):
                            flooding.publish(topic(1, 11), reading(n, NOW_MS + n), qos=0)
                        await counted(bus, front.tally, 1, "rate_limited", 2970)
                        # A batch beyond it is neither kept nor receipted; it may come again.
                        batch = encode_batch(1, [Reading(id=device_id(11), ts=NOW_MS, p=-7.0)])
                        flooding.publish(f"u/{gateway_id(1)}/b", batch, qos=0)
                        await counted(bus, front.tally, 1, "rate_limited", 2971)
                        assert flooding.inbox.empty()
                        # What the broker acknowledged is kept, and its sender's connection closed.
                        for n in range(50):
                            flooding.publish(topic(1, 12), reading(n, NOW_MS + n), qos=1)
                        await arrived(bus, 80)
                        assert await asyncio.wait_for(front.to_disconnect.get(), 10) == gateway_id(1)
                        await counted(bus, front.tally, 1, "rate_limited", 2972)
                    for n in range(20):
                        other.publish(topic(2, 21), reading(1e6 + n, NOW_MS + n), qos=0)
                    batches = await arrived(bus, 100)
        kept = sorted(powers(batches))
        assert kept[-20:] == [1e6 + n for n in range(20)]
        assert len(kept) == 30 + 50 + 20
        assert front.tally.count(2, "rate_limited") == 0

    asyncio.run(scenario())
