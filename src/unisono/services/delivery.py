"""Delivery: ``commands.<shard>.<epoch>`` -> JSON messages by gateway, over the gateway's own link.

Pushed links are served from a durable place, so that a frame is handed over once by one of the fronts; fetched links
hold what they are given, so every front fills its own from a replay of the last minutes. Frames of an epoch lower
than the highest seen, and what has expired, are dropped here already; gateways and devices drop them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Final

from unisono.base.clock import Clock
from unisono.base.errors import DamagedRecord, Unavailable
from unisono.base.instants import NS_PER_S
from unisono.bus.connection import Bus
from unisono.bus.consumers import KeptMessage
from unisono.links.contract import Addressed, CommandWay, Link
from unisono.links.http_push import HeldCommands
from unisono.links.identity import GatewayEntry, Identity
from unisono.model.batches import CommandFrames
from unisono.wire.frames import messages_of

log = logging.getLogger(__name__)

STREAM: Final = "COMMANDS"
SUBJECT: Final = "commands.*.*"
DURABLE: Final = "delivery"
# Longer than any lease: what a gateway could still have to fetch after a front's restart.
HELD_WINDOW_S: Final = 900
RETRY_S: Final = 0.25
# Written before it is sent, at most so long ago: a cycle's frames reach gateways within a second, or not at all.
ACK_WAIT_S: Final = 10.0

Done = Callable[[KeptMessage], Awaitable[None]]
# By link what is for its gateways; and how many gateways nobody serves.
_Encoded = tuple[Mapping[str, list[Addressed]], int]


class Delivery:
    """One front's part in delivering; ``outcomes`` counts messages by what became of them."""

    def __init__(
        self, bus: Bus, clock: Clock, identity: Identity, links: Mapping[str, Link], held: HeldCommands
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._identity = identity
        self._links = links
        self._held = held
        self._epoch_of_shard: dict[tuple[bool, int], int] = {}
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        """Deliver until cancelled, from when it is known who is behind which gateway."""
        await self._identity.is_complete.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._push(), name="pushed commands")
            tasks.create_task(self._fill(), name="fetched commands")

    async def _push(self) -> None:
        place = self._bus.durable(STREAM, SUBJECT, DURABLE, ack_wait_s=ACK_WAIT_S)
        while True:
            try:
                # Each at once: a backlog of large ones takes longer than the server waits for an answer.
                await self._hand_over(await place.fetch(), lambda message: place.ack((message,)), is_fetched=False)
            except Unavailable:
                if self._bus.is_closed:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _fill(self) -> None:
        since_ns = self._clock.wall_ns() - HELD_WINDOW_S * NS_PER_S
        reader = self._bus.reader(STREAM, SUBJECT, 1, since_ns)

        async def note(message: KeptMessage) -> None:
            self._held.pass_cursor(message.seq)

        while True:
            await self._hand_over(await reader.take(500, 1.0), note, is_fetched=True)

    async def _hand_over(self, messages: Sequence[KeptMessage], done: Done, *, is_fetched: bool) -> None:
        """Hand messages over in their order, each encoded while the one before is sent; ``done`` is told of each."""
        coming = self._begin(messages[0], is_fetched=is_fetched) if messages else None
        for message, following in zip_longest(messages, messages[1:]):
            encoded = None if coming is None else await coming
            coming = None if following is None else self._begin(following, is_fetched=is_fetched)
            if encoded is not None:
                of_link, n_unserved = encoded
                self.outcomes["no_link"] += 0 if is_fetched else n_unserved
                for name, addressed in of_link.items():
                    # What is unreachable is not waited for: the plant repeats what is not acknowledged.
                    self.outcomes.update(await self._links[name].deliver(addressed, message.seq))
            await done(message)

    def _begin(self, message: KeptMessage, *, is_fetched: bool) -> asyncio.Future[_Encoded] | None:
        """Begin to encode in a thread (a large message takes 30 ms); None: there is nothing to be sent of it."""
        frames = self._decoded(message, is_fetched=is_fetched)
        if frames is None:
            return None
        loop, now_ns = asyncio.get_running_loop(), self._clock.wall_ns()
        return loop.run_in_executor(None, self._encoded, frames, now_ns, is_fetched)

    def _encoded(self, frames: CommandFrames, now_ns: int, is_fetched: bool) -> _Encoded:
        """Return by link what is for gateways that are served this way, and how many gateways nobody serves."""
        served: dict[int, GatewayEntry] = {}
        unserved: set[int] = set()

        def is_served(gateway_no: int) -> bool:
            gateway = self._identity.gateway_of_no(gateway_no)
            link = None if gateway is None or gateway.is_revoked else self._links.get(gateway.link)
            if gateway is None or link is None:
                unserved.add(gateway_no)
                return False
            served[gateway_no] = gateway
            return (link.manifest.command_way is CommandWay.FETCHED) is is_fetched

        of_link: defaultdict[str, list[Addressed]] = defaultdict(list)
        for outgoing in messages_of(frames, now_ns, is_served):
            gateway = served[outgoing.gateway_no]
            of_link[gateway.link].append((gateway, outgoing))
        return of_link, len(unserved)

    def _decoded(self, message: KeptMessage, *, is_fetched: bool) -> CommandFrames | None:
        try:
            frames = CommandFrames.decode(message.payload)
        except DamagedRecord as wrong:
            log.warning("commands at %d: %s", message.seq, wrong)
            self.outcomes["damaged"] += 1
            return None
        # The two readers are at different places of the stream, so each has its own highest epoch.
        key = (is_fetched, frames.shard)
        newest = self._epoch_of_shard.get(key, 0)
        if frames.epoch < newest:
            self.outcomes["old_epoch"] += 1
            return None
        self._epoch_of_shard[key] = frames.epoch
        return frames


async def run(bus: Bus, clock: Clock, identity: Identity, links: Mapping[str, Link], held: HeldCommands) -> None:
    """Deliver until cancelled; ``identity``, ``links`` and ``held`` are those of a running ``front.Front``."""
    await Delivery(bus, clock, identity, links, held).run()
