"""The doorkeeper of our own nats-server: a thread of the supervisor, there before any role and after the last."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Final

from unisono.base.errors import Unavailable
from unisono.bus.connection import connect
from unisono.main.endpoints import Endpoints
from unisono.services import doorkeeper

log = logging.getLogger(__name__)

STOP_TIMEOUT_S: Final = 5.0


class Door:
    """Keeps the door of a server from ``keep`` to ``leave``; harmless where ``keep`` was never called."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._loop = asyncio.new_event_loop()
        self._work: asyncio.Task[None] | None = None

    def keep(self, facts: Endpoints) -> None:
        """Begin; the server listens already."""
        self._work = self._loop.create_task(_keep(facts))
        self._thread = threading.Thread(target=self._run, name="doorkeeper", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """End, before the server does."""
        if self._thread is not None and self._work is not None:
            self._loop.call_soon_threadsafe(self._work.cancel)
            self._thread.join(STOP_TIMEOUT_S)
        else:
            self._loop.close()

    def _run(self) -> None:
        assert self._work is not None, "keep() made it"
        try:
            self._loop.run_until_complete(self._work)
        except asyncio.CancelledError:
            log.info("the doorkeeper leaves")
        except Unavailable:
            # Without it the platform runs all the same; gateways that come too early are told "not authorised".
            log.exception("there is no doorkeeper any more")
        finally:
            self._loop.close()


async def _keep(facts: Endpoints) -> None:
    system = await connect(facts.nats_url, facts.sys_user, facts.sys_password, "doorkeeper")
    try:
        await doorkeeper.run(system)
    finally:
        await system.close()
