"""What every link must do, whatever it speaks; ``test_contract`` runs it over all links there are.

A new link adds a ``Rig``: how a gateway at its other end sends a batch, learns that it is kept, and gets a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.links.edge import NOW_MS, NOW_NS, device_id

from unisono.base.errors import Unavailable
from unisono.links.contract import CommandWay, Handed, Link, Promise
from unisono.links.identity import GatewayEntry
from unisono.links.reception import Reception
from unisono.model.batches import AckBatch, ReadingBatch
from unisono.wire.frames import CommandMessage, Frame, Renewal, outgoing
from unisono.wire.telemetry import Reading, encode_batch


@dataclass
class MemoryIntake:
    """An intake whose stream can be shut: then ``keep`` says Unavailable, as the real one does."""

    batches: list[ReadingBatch | AckBatch] = field(default_factory=list)
    is_shut: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    refused: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep(self, batch: ReadingBatch | AckBatch) -> None:
        if self.is_shut:
            self.refused.set()
            raise Unavailable("stream", "shut for the test")
        self.offer(batch)

    def offer(self, batch: ReadingBatch | AckBatch) -> None:
        self.batches.append(batch)
        self.news.set()

    async def rows(self, n: int) -> list[tuple[int, float]]:
        """Return (device_no, power) once there are ``n``."""
        async with asyncio.timeout(15):
            while sum(len(batch) for batch in self.batches) < n:
                self.news.clear()
                await self.news.wait()
        readings = [batch for batch in self.batches if isinstance(batch, ReadingBatch)]
        return [row for b in readings for row in zip(b.device_no.tolist(), b.power_w.tolist(), strict=True)]


@dataclass
class Rig:
    """One link with a gateway at its other end. ``send`` returns True when the gateway was told that it is kept."""

    link: Link
    gateway: GatewayEntry
    device_no: int
    intake: MemoryIntake
    reception: Reception
    send: Callable[[bytes], Awaitable[bool]]
    next_command: Callable[[], Awaitable[Frame | Renewal]]
    # Takes the other side away; after it, ``deliver`` must still answer.
    break_off: Callable[[], Awaitable[None]]


def the_manifest_is_complete(link: Link) -> None:
    manifest = link.manifest
    assert manifest.name
    assert manifest.title
    assert manifest.unit_of_field
    assert all(manifest.unit_of_field.values())
    assert manifest.promise_of_way
    assert all(isinstance(promise, Promise) for promise in manifest.promise_of_way.values())
    assert 0 <= manifest.command_latency_s <= manifest.command_latency_worst_s
    for rate in (manifest.telemetry_rate, manifest.command_rate):
        assert rate is None or (rate.calls > 0 and rate.period_s > 0)


async def readings_arrive_with_their_sign(rig: Rig) -> None:
    sent = [Reading(no=rig.device_no, ts=NOW_MS, p=1500.0), Reading(no=rig.device_no, ts=NOW_MS + 1, p=-300.0)]
    assert await rig.send(encode_batch(1, sent))
    assert await rig.intake.rows(2) == [(rig.device_no, 1500.0), (rig.device_no, -300.0)]


async def energies_and_registers_arrive_as_such(rig: Rig) -> None:
    interval = Reading(no=rig.device_no, ts=NOW_MS, energy_kwh=-0.25, interval_start_ms=NOW_MS - 900_000)
    register = Reading(no=rig.device_no, ts=NOW_MS, register_kwh=99_999.5, src="meter")
    mixture = Reading(no=rig.device_no, ts=NOW_MS, register_kwh=1.0, p=5.0)
    assert await rig.send(encode_batch(1, [interval, register, mixture]))
    await rig.intake.rows(2)
    (batch,) = rig.intake.batches
    assert isinstance(batch, ReadingBatch)
    assert batch.reading_kind.tolist() == [1, 2]
    assert batch.energy_wh.tolist() == [-250.0, 99_999_500.0]
    assert batch.interval_start_ns.tolist() == [NOW_NS - 900 * 10**9 - NOW_NS % 10**6, -1]
    assert rig.reception.tally.count(rig.gateway.gateway_no, "malformed") == 1


async def bad_rows_are_counted_and_the_rest_is_taken(rig: Rig) -> None:
    foreign = Reading(id=device_id(21), ts=NOW_MS, p=1.0)
    ancient = Reading(no=rig.device_no, ts=5, p=1.0)
    good = Reading(no=rig.device_no, ts=NOW_MS, p=1.0)
    assert await rig.send(encode_batch(2, [foreign, ancient, good]))
    assert await rig.intake.rows(1) == [(rig.device_no, 1.0)]
    causes = ("accepted", "unknown_device", "out_of_range")
    assert [rig.reception.tally.count(rig.gateway.gateway_no, cause) for cause in causes] == [3, 1, 1]


async def nobody_is_told_before_it_is_kept(rig: Rig) -> None:
    rig.intake.is_shut = True
    payload = encode_batch(3, [Reading(no=rig.device_no, ts=NOW_MS, p=1.0)])
    telling = asyncio.ensure_future(rig.send(payload))
    async with asyncio.timeout(15):
        await rig.intake.refused.wait()
    assert not telling.done() or telling.result() is False
    rig.intake.is_shut = False
    if not await asyncio.wait_for(telling, 15):
        # The link said no: the gateway sends it again.
        assert await asyncio.wait_for(rig.send(payload), 15)
    assert (rig.device_no, 1.0) in await rig.intake.rows(1)


async def handed_over(rig: Rig, message: Frame | Renewal, cursor: int) -> Handed:
    (handed,) = await rig.link.deliver([(rig.gateway, outgoing(rig.gateway.gateway_no, message))], cursor)
    return handed


async def commands_reach_the_gateway(rig: Rig) -> None:
    if rig.link.manifest.command_way is CommandWay.NONE:
        return
    expires_ms = NOW_NS // 10**6 + 60_000
    command = CommandMessage(rig.device_no, 4, "power_setpoint", -700, NOW_MS, expires_ms, 60.0, "zero_power")
    for message in (Frame(2, NOW_MS, (command,)), Renewal(2, 4, NOW_MS, expires_ms)):
        assert await handed_over(rig, message, 9) in {Handed.SENT, Handed.HELD}
        assert await rig.next_command() == message


async def an_absent_side_is_an_outcome_and_no_exception(rig: Rig) -> None:
    await rig.break_off()
    outcome = await handed_over(rig, Renewal(2, 4, NOW_MS, NOW_MS + 60_000), 10)
    assert isinstance(outcome, Handed)


CHECKS = (
    readings_arrive_with_their_sign,
    energies_and_registers_arrive_as_such,
    bad_rows_are_counted_and_the_rest_is_taken,
    nobody_is_told_before_it_is_kept,
    commands_reach_the_gateway,
    an_absent_side_is_an_outcome_and_no_exception,
)
