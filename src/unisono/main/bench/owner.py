"""A shard's owner as ``services.realtime`` runs it, on a movable clock: cycles, checkpoints, death and succession.

What it is fed is on streams that outlive it, and so are its frames; what it held in memory is gone with it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.model.batches import AckBatch, CommandFrames, ReadingBatch
from unisono.model.dispatch import Request
from unisono.model.registry import RegistryBatch
from unisono.model.totals import OutcomeBatch
from unisono.plant.checkpoint import Carried, checkpoint, restore
from unisono.plant.replay import Recorded, replay
from unisono.plant.state import PlantConfig, PlantState, new_state
from unisono.plant.step import Arrival, StepResult, step

Message = ReadingBatch | AckBatch | Request | RegistryBatch

# As the settings' default says.
CHECKPOINT_S: Final = 20.0
# Copies come up to so many cycles after the first: a minute at 4 s, as a gateway that was away for so long repeats.
LATE_CYCLES_MAX: Final = 15


@dataclass(slots=True)
class Inputs:
    """What one cycle is fed, by kind, each in the order of arrival."""

    arrivals: list[Arrival] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    registry: list[RegistryBatch] = field(default_factory=list)

    @classmethod
    def of(cls, messages: list[Message], mono_ns: int) -> Inputs:
        """Sort messages that were received at that monotonic instant."""
        arrivals = [Arrival(one, mono_ns) for one in messages if isinstance(one, ReadingBatch | AckBatch)]
        registry = [one for one in messages if isinstance(one, RegistryBatch)]
        requests = [one for one in messages if not isinstance(one, ReadingBatch | AckBatch | RegistryBatch)]
        return cls(arrivals, requests, registry)

    def add(self, others: Inputs) -> None:
        """Append what came later."""
        self.arrivals += others.arrivals
        self.requests += others.requests
        self.registry += others.registry


@dataclass(slots=True)
class Owner:
    """The living one; ``told`` is what has reached the recorder, ``epoch`` counts the successions."""

    config: PlantConfig
    epoch: int = 1
    told: list[OutcomeBatch] = field(default_factory=list)
    n_replayed: int = 0
    state: PlantState = field(init=False)
    _payload: bytes = b""
    _saved_ns: int = 0
    # What the streams hold behind the checkpoint.
    _behind: Inputs = field(default_factory=Inputs)
    _frames: list[CommandFrames] = field(default_factory=list)
    # Outcomes with entries of the event log that no checkpoint holds, and those after them.
    _held: list[OutcomeBatch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = new_state(0, self.epoch, self.config)

    def cycle(self, inputs: Inputs, now_ns: int, mono_ns: int, *, is_saved: bool = True) -> StepResult:
        """Run a cycle; without ``is_saved`` its owner is to die before it writes the checkpoint that is due."""
        self._behind.add(inputs)
        result = step(self.state, inputs.arrivals, inputs.requests, inputs.registry, now_ns, mono_ns)
        if len(result.frames):
            self._frames.append(result.frames)
        if result.outcomes.log or self._held:
            self._held.append(result.outcomes)
        else:
            self.told.append(result.outcomes)
        is_running = any(row.state == "active" for row in result.outcomes.progress)
        is_due = not self._payload or now_ns - self._saved_ns >= CHECKPOINT_S * NS_PER_S
        if is_saved and (is_due or is_running or len(result.frames) or self._held):
            self._save(now_ns, mono_ns)
        return result

    def successor(self, epoch: int, now_ns: int, mono_ns: int) -> PlantState:
        """Return the state of an owner that has the newest checkpoint and the streams."""
        state, _ = restore(self._payload, self.config, epoch, now_ns, mono_ns)
        behind = self._behind
        replay(state, Recorded(behind.arrivals, behind.requests, behind.registry, self._frames), now_ns, mono_ns)
        self.n_replayed += len(behind.arrivals) + len(self._frames)
        return state

    def die(self, now_ns: int, mono_ns: int, *, keeps_epoch: bool) -> None:
        """Be dropped, and followed at once."""
        self.epoch += not keeps_epoch
        self._held.clear()
        self.state = self.successor(self.epoch, now_ns, mono_ns)

    def _save(self, now_ns: int, mono_ns: int) -> None:
        self._payload = checkpoint(self.state, Carried(), now_ns, mono_ns)
        self._saved_ns = now_ns
        # Its own frames come back to an owner a cycle later: the checkpoint's position in their stream is before them.
        del self._frames[:-1]
        self._behind = Inputs()
        self.told += self._held
        self._held.clear()


@dataclass(slots=True)
class Repeater:
    """Sends everything twice: once when it comes, in any order, and once more within ``LATE_CYCLES_MAX`` cycles."""

    chance: np.random.Generator
    n_first: int = 0
    n_again: int = 0
    _copies: dict[int, list[Message]] = field(default_factory=dict)

    @property
    def n_waiting(self) -> int:
        """How many copies are still to come."""
        return sum(map(len, self._copies.values()))

    def disturbed(self, messages: list[Message], cycle: int, now_ns: int) -> list[Message]:
        """Return what arrives in this cycle instead of ``messages``."""
        for one in messages:
            due = cycle + int(self.chance.integers(0, LATE_CYCLES_MAX + 1))
            self._copies.setdefault(due, []).append(one)
        copies = [_known_at(copy, now_ns) for copy in self._copies.pop(cycle, [])]
        self.n_first += len(messages)
        self.n_again += len(copies)
        found = messages + copies
        return [found[at] for at in self.chance.permutation(len(found))]


def split(batches: list[ReadingBatch | AckBatch], gateway_of_row: Any, cycle: int) -> list[Message]:
    """Return the region's batches as gateways send them: one each, with the gateway's own sequence."""
    found: list[Message] = []
    for batch in batches:
        if isinstance(batch, AckBatch) and (batch.device_no < 0).all():
            found.append(batch)
            continue
        gateways = gateway_of_row[batch.device_no - 1]
        for gateway in np.unique(gateways).tolist():
            rows = np.flatnonzero(gateways == gateway)
            columns: dict[str, Any] = {name: getattr(batch, name)[rows] for name in batch.DTYPES}
            if isinstance(batch, ReadingBatch):
                columns["batch_seq"] = cycle
            found.append(dataclasses.replace(batch, gateway_no=gateway + 1, **columns))
    return found


def _known_at(message: Message, now_ns: int) -> Message:
    """Return a copy as whoever receives it notes it; its sender has not changed it."""
    if isinstance(message, ReadingBatch | AckBatch):
        return dataclasses.replace(message, known_ns=now_ns)
    return message
