"""The coordinator over the real server: it hears totals, tells shares, and goes on when something is unreadable."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from tests.links.edge import NOW_NS, bus_of, nats_engine, running

from unisono.base.clock import MovableClock
from unisono.main.bench.shard_summaries import summary
from unisono.model.dispatch import DispatchShare, decode_request
from unisono.services import coordinator
from unisono.services.coordinator import CoordinatorCounters


def test_each_shard_is_told_its_share_on_its_own_subject(tmp_path: Path) -> None:
    counted = CoordinatorCounters()

    async def scenario() -> dict[str, DispatchShare]:
        with nats_engine(tmp_path) as engine:
            async with bus_of(engine.start()) as bus:
                await bus.ensure_streams()
                clock = MovableClock(NOW_NS)
                async with running(coordinator.run(bus, clock, 2, 0.05, counted)):
                    reader = bus.reader("REQUESTS", "requests.*", 1)
                    told: dict[str, DispatchShare] = {}
                    async with asyncio.timeout(20.0):
                        while len(told) < 2:
                            # A subscription may begin after the first of these.
                            await bus.publish("totals.0", b"\xc1 of no code of ours")
                            for shard, firm_w in enumerate((9e6, 3e6)):
                                totals = summary(shard, 1, portfolio={"dispatchable_up_w": firm_w}, share_frac=0.5)
                                await bus.publish(f"totals.{shard}", msgspec.msgpack.encode(totals))
                            for message in await reader.take(100, 0.2):
                                share = decode_request(message.payload)
                                assert isinstance(share, DispatchShare)
                                told[message.subject] = share
                    await reader.close()
                    return told

    told = asyncio.run(scenario())
    assert {subject: share.share_frac for subject, share in told.items()} == {"requests.0": 0.75, "requests.1": 0.25}
    assert {share.round for share in told.values()} == {1}
    assert counted.n_damaged > 0
