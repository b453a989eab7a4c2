"""What realtime sends while NATS comes and goes, against the real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
from tests.links.edge import bus_of, nats_engine, running

from unisono.base.clock import MovableClock
from unisono.bus.connection import Bus
from unisono.model.batches import COMMANDS_PER_MESSAGE_MAX, CommandFrames
from unisono.model.dispatch import OptOutChange, encode_request
from unisono.plant.checkpoint import Unsent
from unisono.services.outbound import WAITING_BYTES_MAX, WAITING_MAX, Outbound, Worth, command_messages
from unisono.services.realtime_inbox import Inbox


async def received(bus: Bus, n: int) -> list[bytes]:
    reader = bus.reader("COMMANDS", "commands.0.1", 1)
    payloads: list[bytes] = []
    async with asyncio.timeout(20.0):
        while len(payloads) < n:
            payloads += [message.payload for message in await reader.take(100, 0.5)]
    await reader.close()
    return payloads


def test_what_was_put_while_nats_was_away_arrives_in_order_and_once(tmp_path: Path) -> None:
    async def scenario() -> list[bytes]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                outbound = Outbound(bus)
                async with running(outbound.send()):
                    outbound.put(Unsent("commands.0.1", "c-0", b"before"), Worth.COMMANDS)
                    await received(bus, 1)
                    await asyncio.to_thread(engine.stop)
                    for k in range(1, 4):
                        outbound.put(Unsent("commands.0.1", f"c-{k}", b"during %d" % k), Worth.COMMANDS)
                    await asyncio.to_thread(engine.start)
                    outbound.put(Unsent("commands.0.1", "c-4", b"after"), Worth.COMMANDS)
                    # The same identity again: the stream has it already.
                    outbound.put(Unsent("commands.0.1", "c-4", b"after"), Worth.COMMANDS)
                    outbound.put(Unsent("commands.0.1", "c-5", b"last"), Worth.COMMANDS)
                    return await received(bus, 6)

    assert asyncio.run(scenario()) == [b"before", b"during 1", b"during 2", b"during 3", b"after", b"last"]


def test_the_oldest_goes_when_the_bound_is_reached_and_is_counted(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, bytes]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                outbound = Outbound(bus)
                for k in range(WAITING_MAX + 3):
                    outbound.put(Unsent("commands.0.1", f"c-{k}", b"%d" % k), Worth.COMMANDS)
                async with running(outbound.send()):
                    return outbound.n_dropped, (await received(bus, 1))[0]

    assert asyncio.run(scenario()) == (3, b"3")


def test_a_cycle_of_more_commands_than_a_message_holds_reaches_the_stream_whole_and_once(tmp_path: Path) -> None:
    n = 2 * COMMANDS_PER_MESSAGE_MAX + 3
    header = {"shard": 0, "epoch": 1, "cycle": 9, "issued_ns": 5}
    cycle = CommandFrames.of_columns(header, {"device_no": np.arange(n), "value": np.arange(n) % 1000})

    async def scenario() -> list[bytes]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                outbound = Outbound(bus)
                # A second time, as after an answer that was lost: the stream knows them.
                for message in [*command_messages(cycle), *command_messages(cycle)]:
                    outbound.put(message, Worth.COMMANDS)
                outbound.put(Unsent("commands.0.1", "last", b"last"), Worth.COMMANDS)
                async with running(outbound.send()):
                    return await received(bus, 4)

    *payloads, last = asyncio.run(scenario())
    assert last == b"last"
    parts = [CommandFrames.decode(payload) for payload in payloads]
    assert [part.first_row for part in parts] == [0, COMMANDS_PER_MESSAGE_MAX, 2 * COMMANDS_PER_MESSAGE_MAX]
    assert np.array_equal(np.concatenate([part.device_no for part in parts]), cycle.device_no)
    assert np.array_equal(np.concatenate([part.value for part in parts]), cycle.value)


def test_large_messages_are_bound_by_their_bytes(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, list[str]]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                outbound = Outbound(bus)
                outbound.put(Unsent("outcomes.0.1", "m-log", b""), Worth.LOG)
                third = bytes(WAITING_BYTES_MAX // 3)
                for k in range(5):
                    outbound.put(Unsent("outcomes.0.1", f"m-{k}", third), Worth.PROGRESS)
                return outbound.n_dropped, [message.message_id for message in outbound.records()]

    assert asyncio.run(scenario()) == (2, ["m-log", "m-2", "m-3", "m-4"])


def test_of_what_waits_commands_go_first_then_progress_and_the_event_log_never(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, list[str]]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                outbound = Outbound(bus)
                for k, worth in enumerate([Worth.LOG, Worth.PROGRESS, Worth.COMMANDS] + [Worth.LOG] * WAITING_MAX):
                    outbound.put(Unsent("outcomes.0.1", f"m-{k}", b""), worth)
                return outbound.n_dropped, [message.message_id for message in outbound.records()]

    n_dropped, waiting = asyncio.run(scenario())
    assert n_dropped == 2
    assert waiting == ["m-0", *(f"m-{k}" for k in range(3, WAITING_MAX + 3))]


def test_the_inbox_refuses_what_is_damaged_and_remembers_how_far_it_was_drained(tmp_path: Path) -> None:
    change = OptOutChange(request_id="r1", device_no=5, start_ns=1, end_ns=2)

    async def scenario() -> tuple[Inbox, list[object]]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                for payload in (b"damaged", encode_request(change), msgspec.msgpack.encode("foreign")):
                    await bus.publish_kept("requests.0", payload)
                last = await bus.publish_kept("requests.0", encode_request(change))
                inbox = Inbox(bus, 0, MovableClock(0), {"READINGS": 0, "REQUESTS": 0, "REGISTRY": 0, "COMMANDS": 0})
                async with running(inbox.read_requests()):
                    await inbox.wait_past({"REQUESTS": last})
                    return inbox, list(inbox.drain().requests)

    inbox, requests = asyncio.run(scenario())
    assert requests == [change, change]
    assert inbox.n_damaged == 2
    assert inbox.is_past({"REQUESTS": 4})
