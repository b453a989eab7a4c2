"""A vendor cloud as a real HTTP client: posts its devices' readings, fetches commands every 30-60 s, goes dark."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import httpx

from unisono.base.errors import DamagedRecord
from unisono.sim.live.messages import Fetched, decode_fetched, encode_batch

log = logging.getLogger(__name__)

POST_EVERY_S: Final = 5.0
STORED_MAX: Final = 60
READINGS_PER_POST_MAX: Final = 10_000


class VendorCloud:
    """One cloud. ``fetched`` takes what a poll brought and returns the acknowledgements to post (or b"")."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        gateway_id: str,
        secret: str,
        *,
        poll_s: float,
        fetched: Callable[[Fetched], bytes],
        kept: Callable[[int], None],
        first_seq: int,
    ) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {gateway_id}.{secret}", "Content-Type": "application/json"}
        self._poll_s = poll_s
        self._fetched = fetched
        self._kept = kept
        self._seq = first_seq
        self._cursor = 0
        self._fresh: list[dict[str, Any]] = []
        self._stored: deque[tuple[int, bytes]] = deque()
        self.is_dark = False
        self.is_connected = False
        self.n_rejected = 0
        self.n_stored_lost = 0

    def add(self, readings: list[dict[str, Any]]) -> None:
        """Take readings in from devices; they are posted with the next batch."""
        self._fresh.extend(readings)

    async def run(self) -> None:
        """Post and poll until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._post_for_ever())
            tasks.create_task(self._poll_for_ever())

    async def _post_for_ever(self) -> None:
        while True:
            await asyncio.sleep(POST_EVERY_S)
            while self._fresh:
                part, self._fresh = self._fresh[:READINGS_PER_POST_MAX], self._fresh[READINGS_PER_POST_MAX:]
                self._seq += 1
                self._stored.append((len(part), encode_batch(self._seq, part)))
                if len(self._stored) > STORED_MAX:
                    self.n_stored_lost += self._stored.popleft()[0]
            while self._stored and not self.is_dark and await self._post_oldest():
                pass

    async def _post_oldest(self) -> bool:
        """Post the oldest stored batch; say whether it is done with (accepted, or refused for good)."""
        n_readings, body = self._stored[0]
        answer = await self._ask("POST", "/v1/telemetry", body)
        if answer is None or answer.status_code >= 500:
            return False
        self._stored.popleft()
        if answer.status_code == httpx.codes.ACCEPTED:
            n_accepted = int(answer.json().get("accepted", n_readings))
            self._kept(n_accepted)
            self.n_rejected += n_readings - n_accepted
        else:
            self.n_rejected += n_readings
            log.warning("telemetry refused: %d %s", answer.status_code, answer.text[:200])
        return True

    async def _poll_for_ever(self) -> None:
        while True:
            if not self.is_dark:
                answer = await self._ask("GET", f"/v1/commands?after={self._cursor}", b"")
                if answer is not None and answer.status_code == httpx.codes.OK:
                    await self._take(answer.content)
            await asyncio.sleep(self._poll_s)

    async def _take(self, content: bytes) -> None:
        try:
            fetched = decode_fetched(content)
        except DamagedRecord as wrong:
            log.warning("%s", wrong)
            return
        self._cursor = fetched.next
        acks = self._fetched(fetched)
        if acks:
            await self._ask("POST", "/v1/acks", acks)

    async def _ask(self, method: str, path: str, body: bytes) -> httpx.Response | None:
        try:
            answer = await self._client.request(method, path, content=body, headers=self._headers)
        except httpx.HTTPError as away:
            self.is_connected = False
            log.debug("%s %s: %r", method, path, away)
            return None
        self.is_connected = answer.status_code < httpx.codes.BAD_REQUEST
        return answer
