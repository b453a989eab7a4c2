"""Requests that wait for the stream go there together: bodies decoded by one kernel call, one acknowledgement for all.

While one message is on its way, the next gathers; nobody waits for company. A body that the kernel is surprised by, or
that has a row to be refused by name, is decoded alone and waits for its own acknowledgement.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from unisono.base.clock import Clock
from unisono.base.errors import Unavailable
from unisono.links.contract import Intake
from unisono.links.reception import Reception
from unisono.wire.bodies import BodiesFound, Body, BodyScan

# A body of so many bytes is a batch worth its own message; together they would only wait for each other.
SMALL_BYTES: Final = 64 << 10
# The rest goes with the next message.
TOGETHER_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class _Waiting:
    body: Body
    # How many readings were kept; None: it must be decoded alone.
    kept: asyncio.Future[int | None]


class Together:
    """``keep`` from many requests at once."""

    def __init__(self, reception: Reception, intake: Intake, clock: Clock) -> None:
        self._reception, self._intake, self._clock = reception, intake, clock
        self._scan = BodyScan(reception.identity.devices)
        self._waiting: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None

    async def keep(self, gateway_no: int, payload: bytes) -> int | None:
        """Return how many readings are kept, all that the body has; None: it must be decoded alone.

        Raises Unavailable; then they may be kept or not.
        """
        waiting = _Waiting(Body(gateway_no, payload), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await waiting.kept

    async def _send(self) -> None:
        try:
            while self._waiting:
                # Whoever is ready in this turn of the loop comes along.
                await asyncio.sleep(0)
                taken, self._waiting = self._waiting[:TOGETHER_MAX], self._waiting[TOGETHER_MAX:]
                await self._send_these(taken)
        finally:
            self._sending = None
            for left in self._waiting:
                left.kept.cancel()
            self._waiting = []

    async def _send_these(self, taken: list[_Waiting]) -> None:
        known_ns = self._clock.wall_ns()
        found = self._scan.scan([one.body for one in taken], self._reception.identity.gateway_of_device)
        try:
            received = self._reception.bodies(found, known_ns)
            if received is not None and len(received.batch):
                await self._intake.keep(received.batch)
        except Unavailable as wrong:
            _tell(taken, found, wrong)
        else:
            # Counted only now: what was not kept comes again.
            if received is not None:
                self._reception.tally.add_many(received.parts[:, 0], "accepted", received.parts[:, 2])
            _tell(taken, found)


def _tell(taken: list[_Waiting], found: BodiesFound, wrong: Unavailable | None = None) -> None:
    for one, n in zip(taken, found.parts[:, 2].tolist(), strict=True):
        if one.kept.done():
            # The request was cancelled; its gateway sends it again.
            continue
        if n < 0:
            one.kept.set_result(None)
        elif wrong is not None:
            one.kept.set_exception(Unavailable(wrong.what, wrong.why))
        else:
            one.kept.set_result(n)
