from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest
from sqlalchemy import text
from tests.api.conftest import Plant

from unisono.api import auth
from unisono.api.context import ApiContext
from unisono.base.errors import Unavailable


def _context() -> ApiContext:
    # What blocks here is not the database; nothing else of the context is touched.
    return ApiContext(database=None, bus=None, picture=None, clock=None, version="0")  # type: ignore[arg-type]


def test_a_caller_of_a_hanging_database_is_told_so_and_what_had_begun_is_finished() -> None:
    hangs, finished = threading.Event(), threading.Event()

    def work() -> None:
        hangs.wait(30)
        finished.set()

    async def ask() -> None:
        with pytest.raises(Unavailable, match=r"no answer within 0.05 s"):
            await _context().in_thread(work, timeout_s=0.05)
        hangs.set()
        assert await asyncio.to_thread(finished.wait, 30)

    asyncio.run(ask())


def test_what_had_not_begun_when_its_caller_was_told_is_never_begun() -> None:
    hangs, begun = threading.Event(), threading.Event()

    async def ask() -> None:
        context = _context()
        busy = [asyncio.create_task(context.in_thread(lambda: hangs.wait(30))) for _ in range(4)]
        await asyncio.wait(busy, timeout=0.05)
        with pytest.raises(Unavailable):
            await context.in_thread(begun.set, timeout_s=0.05)
        hangs.set()
        await asyncio.gather(*busy)
        # The place in the queue is given back when the thread has looked at it.
        async with asyncio.timeout(30):
            await context.in_thread(lambda: None)
        assert not begun.is_set()

    asyncio.run(ask())


def test_readiness_is_answered_soon_though_the_database_hangs(
    lone_plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert auth.READY_S <= 2.5
    monkeypatch.setattr(auth, "READY_S", 0.2)
    headers = {"Authorization": f"Bearer {lone_plant.key}"}

    async def ask(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response, float]:
        with lone_plant.database.begin() as connection:
            connection.execute(text("LOCK TABLE api_key IN ACCESS EXCLUSIVE MODE"))
            begun_s = time.monotonic()
            hanging = await client.get("/readyz", headers=headers)
            waited_s = time.monotonic() - begun_s
            without_key = await client.get("/readyz")
        return hanging, without_key, waited_s

    hanging, without_key, waited_s = lone_plant.run(ask)
    assert (hanging.status_code, without_key.status_code) == (503, 401)
    assert "no answer within 0.2 s" in hanging.json()["checks"]["database"]
    assert hanging.json()["checks"]["bus"] == "ok"
    assert waited_s < 2.0
    assert lone_plant.get("/readyz").status_code == 200
