"""A nats-server whose disk is full refuses, keeps what it acknowledged, and goes on when it is started again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.links.edge import bus_of
from tests.platform.disk import MIB, fill, small_disk

from unisono.base.errors import Unavailable
from unisono.engines.nats import NatsEngine
from unisono.engines.room import room_of


def test_a_server_that_could_not_write_is_stuck_as_soon_as_there_is_room_and_no_sooner(tmp_path: Path) -> None:
    async def fill_up() -> int:
        n_kept, payload = 0, os.urandom(MIB // 4)
        async with bus_of(engine.start()) as bus:
            await bus.ensure_streams()
            with pytest.raises(Unavailable):
                while True:
                    await bus.publish_kept("readings.0", payload, timeout_s=1.0)
                    n_kept += 1
        return n_kept

    async def go_on() -> tuple[tuple[int, int], int]:
        async with bus_of(engine.start()) as bus:
            return await bus.seq_bounds("READINGS"), await bus.publish_kept("readings.0", b"after")

    with small_disk(tmp_path / "disk", 64) as disk:
        engine = NatsEngine(disk / "nats")
        ballast = fill(disk, 16 * MIB)
        try:
            n_kept = asyncio.run(fill_up())
            assert n_kept > 10
            assert room_of(disk).is_full
            assert engine.stuck() == "", "to start it again would not help"
            ballast.unlink()
            assert not room_of(disk).is_full
            assert "write error" in engine.stuck()
            engine.stop()
            bounds, seq = asyncio.run(go_on())
            assert engine.stuck() == ""
        finally:
            engine.stop()
    assert bounds == (1, n_kept), "what was acknowledged is there"
    assert seq == n_kept + 1
