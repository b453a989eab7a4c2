"""A historian in a process of its own, to be killed: ``python -m tests.services.historian_process``, facts on stdin."""

from __future__ import annotations

import asyncio
import json
import sys

from unisono.bus.connection import connect
from unisono.main.clock import SystemClock
from unisono.services import historian
from unisono.services.historian import HistorianSettings
from unisono.store.database import open_database
from unisono.store.history.objects import open_store


async def keep(facts: dict[str, str]) -> None:
    bus = await connect(facts["nats_url"], facts["user"], facts["password"])
    # Small flushes, so that a few hundred readings have many commits to be killed at.
    settings = HistorianSettings(flush_rows=150, readings_age_s=0.05, commands_age_s=0.05, upkeep_s=0.3)
    with open_database(facts["database_url"], pool_size=3) as database:
        await historian.run(bus, database, open_store(facts["folder"]), SystemClock(), settings=settings)


if __name__ == "__main__":
    asyncio.run(keep(json.loads(sys.stdin.read())))
