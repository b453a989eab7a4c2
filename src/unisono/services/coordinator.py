"""The coordinator: ``totals.<shard>`` of all shards -> each shard's share of each dispatch, on ``requests.<shard>``.

Needed where there are several shards, and one at a time: a second does no harm, for the newest round holds. What could
not be told is decided anew in the next cycle from what the shards say that they hold; nothing is kept here.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import msgspec

from unisono.base.clock import Clock
from unisono.base.errors import Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.dispatch import DispatchShare, encode_request
from unisono.model.totals import ShardTotals
from unisono.plant.coordinator import Coordinator

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CoordinatorCounters:
    """What happened since the process's start."""

    n_heard: int = 0
    n_damaged: int = 0
    n_told: int = 0
    n_not_told: int = 0


async def run(
    bus: Bus, clock: Clock, n_shards: int, cycle_s: float, counters: CoordinatorCounters | None = None
) -> None:
    """Coordinate until cancelled; raises Unavailable only when the login at NATS was withdrawn."""
    counted = counters or CoordinatorCounters()
    coordinator = Coordinator(n_shards, clock.monotonic_ns())

    async def on_totals(subject: str, payload: bytes) -> None:
        try:
            totals = msgspec.msgpack.decode(payload, type=ShardTotals)
        except msgspec.DecodeError as foreign:
            counted.n_damaged += 1
            log.warning("%s: unreadable totals of %d bytes: %s", subject, len(payload), foreign)
            return
        counted.n_heard += 1
        coordinator.fold(totals, clock.monotonic_ns())

    subscription = await bus.subscribe("totals.*", on_totals)
    try:
        while True:
            await asyncio.sleep(cycle_s)
            for shard, share in coordinator.decide(clock.monotonic_ns()):
                await _tell(bus, shard, share, counted)
    finally:
        try:
            await subscription.stop()
        except Unavailable as away:
            log.debug("leaving %s", away)


async def _tell(bus: Bus, shard: int, share: DispatchShare, counted: CoordinatorCounters) -> None:
    try:
        await bus.publish_kept(subjects.requests(shard), encode_request(share))
    except Unavailable as away:
        if bus.is_closed:
            raise
        counted.n_not_told += 1
        log.warning("a share was not told", extra={"shard": shard, "dispatch": share.dispatch_id, "why": str(away)})
    else:
        counted.n_told += 1
