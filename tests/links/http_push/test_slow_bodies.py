"""Bodies that take too long are given up, and nobody else is bothered."""

from __future__ import annotations

import asyncio

import pytest

from unisono.links.http_push.slow_bodies import SlowBodies


async def read(slow_bodies: SlowBodies, arrived: asyncio.Event) -> str:
    try:
        async with slow_bodies:
            await arrived.wait()
    except TimeoutError:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return "late"
    return "read"


def test_a_body_that_takes_too_long_is_given_up() -> None:
    async def scenario() -> None:
        slow_bodies = SlowBodies(timeout_s=0.0)
        assert await asyncio.gather(*(read(slow_bodies, asyncio.Event()) for _ in range(3))) == ["late"] * 3
        assert await read(slow_bodies, asyncio.Event()) == "late", "the timer is set again"

    asyncio.run(scenario())


def test_a_body_that_is_there_in_time_is_read_though_another_one_is_late() -> None:
    async def scenario() -> None:
        slow_bodies, arrived = SlowBodies(timeout_s=0.0), asyncio.Event()
        late = asyncio.create_task(read(slow_bodies, asyncio.Event()))
        in_time = asyncio.create_task(read(slow_bodies, arrived))
        arrived.set()
        assert (await late, await in_time) == ("late", "read")

    asyncio.run(scenario())


def test_who_is_cancelled_by_somebody_else_stays_cancelled() -> None:
    async def scenario() -> None:
        reader = asyncio.create_task(read(SlowBodies(), asyncio.Event()))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    asyncio.run(scenario())
