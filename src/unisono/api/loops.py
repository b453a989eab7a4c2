"""The loops that the web process owes its callers: bulk jobs are worked through, alarms kept, old answers forgotten."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from unisono.api.context import ApiContext
from unisono.api.enrolment.job import run_enrolments
from unisono.base.errors import Unavailable
from unisono.base.instants import NS_PER_S
from unisono.services import alarms
from unisono.store import idempotency

log = logging.getLogger(__name__)

# A client that retries a day later has a new intention; sooner, it gets the first answer.
KEEP_ANSWERS_S: Final = 24 * 3600
FORGET_EVERY_S: Final = 600.0


async def run(context: ApiContext) -> None:
    """Run all of them until cancelled; one that fails ends the others."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_enrolments(context))
        tasks.create_task(alarms.run(context.database, context.picture, context.clock, room=context.room))
        tasks.create_task(_forget_answers(context))


async def _forget_answers(context: ApiContext) -> None:
    def forget() -> int:
        with context.database.begin() as connection:
            return idempotency.prune(connection, context.clock.wall_ns() - KEEP_ANSWERS_S * NS_PER_S)

    while True:
        await asyncio.sleep(FORGET_EVERY_S)
        try:
            n_forgotten = await asyncio.to_thread(forget)
        except Unavailable as away:
            log.warning("old answers can't be forgotten now", extra={"why": str(away)})
            continue
        log.debug("forgot %d answers", n_forgotten)
