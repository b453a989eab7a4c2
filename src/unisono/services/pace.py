"""How a loop that lost something outside goes on: it waits longer each time, and says once what is lost or back."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

log = logging.getLogger(__name__)

# An engine restarts within 0.5 s (NATS) or 2 s (PostgreSQL); beyond that, more frequent attempts only make noise.
_FIRST_S: Final = 0.2
_LONGEST_S: Final = 3.0


class Backoff:
    """Waits between attempts of one loop."""

    def __init__(self, what: str, longest_s: float = _LONGEST_S) -> None:
        self._what = what
        self._longest_s = longest_s
        self._wait_s = 0.0

    async def failed(self, why: BaseException) -> None:
        """Wait before the next attempt; the first failure in a row is logged."""
        if self._wait_s == 0.0:
            log.warning("%s is interrupted: %s", self._what, why)
        self._wait_s = min(max(self._wait_s * 2, _FIRST_S), self._longest_s)
        await asyncio.sleep(self._wait_s)

    def succeeded(self) -> None:
        """Note that it works; the first success after a failure is logged."""
        if self._wait_s:
            log.warning("%s goes on", self._what)
        self._wait_s = 0.0
