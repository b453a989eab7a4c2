"""Waiting on a real nats-server that answers at the worst moment."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from nats.aio.msg import Msg
from tests.links.edge import bus_of

from unisono.base.errors import Unavailable
from unisono.engines.nats import NatsEngine


def test_a_cancellation_that_comes_together_with_the_answer_is_not_lost(
    engine: NatsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus, asyncio.timeout(20):
            await bus.ensure_streams()

            async def ask_for_ever() -> None:
                while True:
                    await bus.last_seq("READINGS")

            asking = asyncio.ensure_future(ask_for_ever())
            as_before = bus.client._on_answer

            async def answer_and_cancel(message: Msg) -> None:
                await as_before(message)
                asking.cancel()

            monkeypatch.setattr(bus.client, "_on_answer", answer_and_cancel)
            bus.client._answers_to = ""
            await asyncio.wait({asking})
            assert asking.cancelled()

    asyncio.run(scenario())


def test_an_answer_to_a_flush_that_nobody_waits_for_any_more_harms_nothing(engine: NatsEngine) -> None:
    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus, asyncio.timeout(20):
            lost = []
            bus.back_listeners.add(lambda: lost.append(1))
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGSTOP)
            try:
                with pytest.raises(Unavailable):
                    await bus.flush(0.05)
            finally:
                os.kill(engine.pid, signal.SIGCONT)
            await bus.flush(5.0)
            await bus.ensure_streams()
            assert lost == []

    asyncio.run(scenario())
