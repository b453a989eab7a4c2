"""The doorkeeper: while no gatekeeper answers, whoever waits at the door is sent away without a word.

A server that gets no answer to its question tells an MQTT client «not authorised» (CONNACK 5) in the end, which many
clients take as final. A connection that just closes is tried again by all of them. So there is no such answer while a
platform starts, or while a front is replaced, nor when the server loses a question, as a new one does now and then
(seen with 2.15.1). The doorkeeper belongs where the server was started, and lives as long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from unisono.base.errors import DamagedRecord, Unavailable
from unisono.bus.connection import Bus
from unisono.services.gatekeeper import connections, kick

log = logging.getLogger(__name__)

# Who is seen waiting at two looks is sent away: after 4 s at the most, well before `engines.nats.AUTH_TIMEOUT_S`.
LOOK_EVERY_S: Final = 2.0
# Connections that are not let in yet are in the server's own account.
NOT_IN_YET: Final = {"acc": "$G", "limit": 4096}


async def run(system: Bus, look_every_s: float = LOOK_EVERY_S) -> None:
    """Send away who waits too long, until cancelled; ``system`` is a connection as the server's system user."""
    waiting: set[int] = set()
    while True:
        await asyncio.sleep(look_every_s)
        try:
            server_id, found = await connections(system, NOT_IN_YET)
            for number in waiting & found:
                await kick(system, server_id, number)
        except (Unavailable, DamagedRecord) as wrong:
            if system.is_closed:
                raise
            log.debug("nobody can be sent away now: %s", wrong)
            waiting = set()
        else:
            waiting = found - waiting
