"""Realtime: the owner of one shard. Its state is only the fold of its streams; each cycle it runs ``plant.step``.

Start: lease (a new epoch) -> newest checkpoint -> replay to the streams' ends without commanding, what the owner before
told included -> cycles.
It never waits for PostgreSQL: only the lease talks to it, in a thread, with a stated bound.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import msgspec

from unisono.base.clock import Clock
from unisono.base.errors import DamagedRecord, Unavailable
from unisono.base.instants import NS_PER_MS, NS_PER_S
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.queries import Refused, decode_query, encode_answer
from unisono.plant.answers import answer
from unisono.plant.checkpoint import Carried, Image, Unsent, restore
from unisono.plant.replay import Recorded, replay
from unisono.plant.state import PlantConfig, PlantState, new_state
from unisono.plant.step import StepResult, step
from unisono.services.checkpoints import Checkpoints, newest
from unisono.services.outbound import Outbound, Worth, command_messages
from unisono.services.realtime_inbox import Inbox
from unisono.services.shard_lease import LostLease, ShardLease
from unisono.store.database import Database

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class RealtimeSettings:
    """How one shard is run.

    ``checkpoint_every_s``: the most telemetry that a restart replays; after a cycle that commanded, in which a dispatch
    ran, or that says something to the event log, the next one is written at once: what is in it need not be gathered
    from the streams.
    ``lease_s``: how long an owner that can't reach PostgreSQL goes on commanding, and so how long a successor waits
    after a crash at most.
    """

    shard: int
    owner: str
    checkpoint_path: Path
    plant: PlantConfig
    checkpoint_every_s: float = 20.0
    lease_s: float = 30.0


async def run(settings: RealtimeSettings, bus: Bus, database: Database, clock: Clock) -> None:
    """Own the shard until cancelled; raises LostLease when another owner has to be assumed."""
    lease = ShardLease(database, clock, shard=settings.shard, owner=settings.owner, duration_s=settings.lease_s)
    await lease.acquire()
    loop = _Loop(settings, bus, clock, lease)
    answers = await bus.serve(subjects.query(settings.shard), loop.answer)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lease.keep())
            tasks.create_task(loop.inbox.read_registry())
            tasks.create_task(loop.inbox.read_requests())
            tasks.create_task(loop.inbox.read_readings())
            tasks.create_task(loop.inbox.read_commands())
            tasks.create_task(loop.outbound.send())
            tasks.create_task(loop.cycle_for_ever())
    finally:
        await answers.stop()
        loop.close()
        await lease.release()


class _Loop:
    """The state of the running shard; everything that touches it runs in one worker thread."""

    def __init__(self, settings: RealtimeSettings, bus: Bus, clock: Clock, lease: ShardLease) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._lease = lease
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="plant")
        self._state, carried = self._newest_state()
        self._is_current = asyncio.Event()
        # Outcomes with entries of the event log that no checkpoint holds yet, and those after them: a cycle that is
        # told and then forgotten would be told twice.
        self._held: list[tuple[Unsent, Worth]] = []
        self._saves = Checkpoints(settings.checkpoint_path, clock)
        self._saving: asyncio.Task[None] | None = None
        # That of the newest cycle, while it may still read the columns.
        self._taken: Image | None = None
        self._has_saved = True
        self.inbox = Inbox(bus, settings.shard, clock, carried.positions)
        self.outbound = Outbound(bus)
        for message in carried.unsent:
            self.outbound.put(message, Worth.LOG)

    async def cycle_for_ever(self) -> None:
        """Catch up, then step at our own pace; a late cycle is skipped, not made up for."""
        await self._catch_up()
        self._is_current.set()
        cycle_ns = round(self._settings.plant.cycle_s * NS_PER_S)
        due_ns = self._clock.monotonic_ns()
        rest_ns = round(self._settings.checkpoint_every_s * NS_PER_S)
        saved_ns, is_to_save_soon = due_ns, False
        while True:
            if not self._lease.is_held():
                raise LostLease(self._settings.shard, self._lease.epoch)
            began_ns = self._clock.monotonic_ns()
            is_to_save_soon |= await self._cycle() or bool(self._held)
            if self._saving is not None and self._saving.done():
                self._saving.result()
                self._saving = None
            pause_ns = min(self._saves.pause_ns, rest_ns) if is_to_save_soon else rest_ns
            if self._saving is None and began_ns - saved_ns >= pause_ns:
                self._saving = asyncio.create_task(self._keep(await self._image(), len(self._held)))
                saved_ns, is_to_save_soon = began_ns, False
            due_ns += cycle_ns * (1 + max(0, self._clock.monotonic_ns() - due_ns) // cycle_ns)
            await asyncio.sleep(max(0, due_ns - self._clock.monotonic_ns()) / NS_PER_S)

    async def answer(self, payload: bytes) -> bytes:
        """Answer a question about devices from the newest finished cycle."""
        if not self._is_current.is_set():
            return encode_answer(Refused(reason="the shard is catching up with its streams"))
        return await self._in_worker(self._answer, payload)

    def close(self) -> None:
        """Let the running step finish and end the worker; a checkpoint on its way is kept, or leaves the old one."""
        if self._saving is not None:
            self._saving.cancel()
        self._worker.shutdown(wait=True)
        self._saves.close()

    async def _catch_up(self) -> None:
        """Fold everything that was on the streams when we came, without deciding or sending anything."""
        ends = await self.inbox.ends()
        while True:
            await self.inbox.wait_past(ends)
            await self._in_worker(self._replay, self.inbox.drain())
            if self.inbox.is_past(ends):
                break
        log.info("caught up", extra={"positions": self.inbox.positions, "n_devices": self._state.n_devices})

    async def _cycle(self) -> bool:
        """Run one cycle and hand out what came of it; return whether a successor could not find that on the streams."""
        began_ns = self._clock.monotonic_ns()
        result = await self._in_worker(self._step, self.inbox.drain())
        cycle_ms = (self._clock.monotonic_ns() - began_ns) / NS_PER_MS
        shard, epoch = self._settings.shard, self._lease.epoch
        identity = f"{shard}-{epoch}-{result.totals.cycle}"
        if len(result.frames):
            for message in await self._in_worker(command_messages, result.frames):
                self.outbound.put(message, Worth.COMMANDS)
        if result.outcomes.progress or result.outcomes.log:
            payload = msgspec.msgpack.encode(result.outcomes)
            outcomes = Unsent(subjects.outcomes(shard, epoch), f"o-{identity}", payload)
            self._hold(outcomes, Worth.LOG if result.outcomes.log else Worth.PROGRESS)
        totals = msgspec.structs.replace(
            result.totals, readings_seq=self.inbox.positions["READINGS"], cycle_ms=cycle_ms
        )
        try:
            await self._bus.publish(subjects.totals(shard), msgspec.msgpack.encode(totals))
        except Unavailable as away:
            log.warning("totals not published", extra={"why": str(away)})
        # Frames are there, but to gather them takes time; the loop of a dispatch that runs (its gap) is nowhere else.
        return len(result.frames) > 0 or any(row.state == "active" for row in result.outcomes.progress)

    def _hold(self, outcomes: Unsent, worth: Worth) -> None:
        """Send the outcomes of a cycle, or hold them until a checkpoint has them: each entry reaches the log once."""
        if worth == Worth.LOG or self._held:
            self._held.append((outcomes, worth))
        else:
            self.outbound.put(outcomes, worth)

    async def _save(self) -> None:
        """Write a checkpoint of the newest cycle, and return when it is durable."""
        await self._keep(await self._image(), len(self._held))

    async def _image(self) -> Image:
        """Take the image of the newest cycle; no cycle runs meanwhile, and none need wait for its way to the disk."""
        unsent = (*self.outbound.records(), *(message for message, _ in self._held))
        carried = Carried(dict(self.inbox.positions), unsent)
        self._taken = await self._in_worker(
            Image, self._state, carried, self._clock.wall_ns(), self._clock.monotonic_ns(), threading.Lock()
        )
        return self._taken

    async def _keep(self, image: Image, n_held: int) -> None:
        """Write the image beside the old checkpoint, sync, rename; then send the first ``n_held``, which it has."""
        try:
            await self._saves.write(image)
            self._has_saved = True
        except OSError as full:
            # Commands must go on. What waited goes out: told twice after a crash, it is on record once all the same.
            if self._has_saved:
                log.error("checkpoint not written", extra={"why": str(full)})  # noqa: TRY400
            self._has_saved = False
        for message, worth in self._held[:n_held]:
            self.outbound.put(message, worth)
        del self._held[:n_held]

    async def _in_worker(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *args)

    def _settle(self) -> None:
        """Let the newest image have what it has not written yet: the state is about to change."""
        if self._taken is not None:
            self._taken.settle()
            self._taken = None

    def _replay(self, recorded: Recorded) -> None:
        self._settle()
        replay(self._state, recorded, self._clock.wall_ns(), self._clock.monotonic_ns())

    def _step(self, drained: Recorded) -> StepResult:
        self._settle()
        return step(
            self._state,
            drained.arrivals,
            drained.requests,
            drained.registry,
            self._clock.wall_ns(),
            self._clock.monotonic_ns(),
        )

    def _answer(self, payload: bytes) -> bytes:
        try:
            query = decode_query(payload)
        except msgspec.DecodeError as foreign:
            return encode_answer(Refused(reason=f"not a query: {foreign}"))
        return encode_answer(answer(self._state, query, self._clock.wall_ns(), self._clock.monotonic_ns()))

    def _newest_state(self) -> tuple[PlantState, Carried]:
        """Return the checkpoint's state under our epoch, or an empty one that replays the streams from their start."""
        settings, epoch = self._settings, self._lease.epoch
        try:
            with newest(settings.checkpoint_path) as payload:
                return restore(payload, settings.plant, epoch, self._clock.wall_ns(), self._clock.monotonic_ns())
        except FileNotFoundError:
            log.info("no checkpoint; the streams are read from their start")
        except DamagedRecord as damaged:
            log.error(  # noqa: TRY400  # our own file, and what is wrong with it is said
                "checkpoint refused; the streams are replayed from their start", extra={"why": str(damaged)}
            )
        return new_state(settings.shard, epoch, settings.plant), Carried()
