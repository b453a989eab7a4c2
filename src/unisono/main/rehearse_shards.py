"""The rehearsal of a plant of several shards: the same region and the same calls, a state a shard, and the coordinator.

What the processes do over streams is done here by hand: arrivals, registry and requests go to their shards, the
coordinator reads each cycle's totals, and what it says is folded in the next cycle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.ids import shard_of_site
from unisono.base.instants import NS_PER_S
from unisono.main.rehearse import PORTFOLIO_NO, RehearsalSpec, dispatch_of, instants_of, portfolio_of_all
from unisono.model.batches import AckBatch, ReadingBatch
from unisono.model.dispatch import Dispatch, Request
from unisono.model.registry import DeviceRecord, PortfolioRecord, RegistryBatch, RegistryRecord
from unisono.model.totals import PortfolioTotals
from unisono.plant.coordinator import Coordinator
from unisono.plant.state import PlantState, new_state
from unisono.plant.step import Arrival, StepResult, step
from unisono.services.picture import merged
from unisono.sim.region import Region
from unisono.sim.world import World

# The region's devices are numbered from 1.
Shards = NDArray[np.int64]


@dataclass(slots=True)
class ShardedRehearsal:
    """What came of it; ``targets`` and ``estimates`` are sums over shards, (seconds from the start, watts)."""

    n_shards: int
    n_devices_of_shard: list[int] = field(default_factory=list)
    n_shares_told: int = 0
    coordinator_s: float = 0.0
    targets: list[tuple[float, float]] = field(default_factory=list)
    estimates: list[tuple[float, float]] = field(default_factory=list)
    # By the region's own account: power less what it would be without any command.
    truths: list[tuple[float, float]] = field(default_factory=list)
    totals: list[PortfolioTotals] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)


# Is asked for each shard and instant (seconds from the start): whether its owner runs.
IsThere = Callable[[int, float], bool]
_ALWAYS: Final[IsThere] = lambda _shard, _at_s: True  # noqa: E731


def rehearse_shards(
    spec: RehearsalSpec, n_shards: int, is_there: IsThere = _ALWAYS, calls: Sequence[Dispatch] = ()
) -> ShardedRehearsal:
    """Run it; ``calls`` are requests as they are, besides those of the spec, made at their ``requested_ns``."""
    region = Region(World(spec.world, spec.start_ns))
    plant = ShardedPlant.of(region, spec, n_shards)
    found = ShardedRehearsal(n_shards)
    upcoming = sorted(spec.calls, key=lambda call: call.start_s)
    ready = sorted(calls, key=lambda dispatch: dispatch.requested_ns)
    results: list[StepResult] = []
    for now_ns in instants_of(spec):
        at_s = (now_ns - spec.start_ns) / NS_PER_S
        if at_s == spec.misbehave_at_s:
            region.misbehave(now_ns)
        requests = []
        if upcoming and results and at_s >= upcoming[0].start_s - 60.0:
            requests.append(dispatch_of(upcoming.pop(0), spec, _together(results), now_ns))
        while ready and ready[0].requested_ns <= now_ns:
            requests.append(ready.pop(0))
        results = plant.cycle(region.advance(now_ns), requests, now_ns, is_there)
        for result in results:
            region.deliver(result.frames, now_ns)
        found.truths.append((at_s, float((region.devices.world.power_w - region.devices.world.twin_w).sum())))
        _note(found, results, at_s)
    found.n_devices_of_shard = [state.n_devices for state in plant.states]
    found.n_shares_told, found.coordinator_s = plant.n_shares_told, plant.coordinator_s
    found.ledger = region.ledger.summary()
    return found


@dataclass(slots=True)
class ShardedPlant:
    """A state a shard and the coordinator over them. What is for a shard whose owner is away waits for it."""

    states: list[PlantState]
    coordinator: Coordinator
    start_ns: int
    shard_of_device: Shards
    waiting: list[tuple[list[Arrival], list[Request], list[RegistryBatch]]]
    n_shares_told: int = 0
    coordinator_s: float = 0.0

    @classmethod
    def of(cls, region: Region, spec: RehearsalSpec, n_shards: int) -> ShardedPlant:
        """Return the plant of that many shards with the region enrolled."""
        config = msgspec.structs.replace(spec.plant, n_shards=n_shards)
        whole = portfolio_of_all(region)
        devices = [record for record in whole.records if isinstance(record, DeviceRecord)]
        shard_of_device = np.zeros(max(device.device_no for device in devices) + 1, np.int64)
        for device in devices:
            shard_of_device[device.device_no] = shard_of_site(device.site_id, n_shards)
        # Epochs are different over the whole plant, as the leases give them.
        states = [new_state(shard, shard + 1, config) for shard in range(n_shards)]
        registry = [_registry_of(whole, shard_of_device, shard) for shard in range(n_shards)]
        return cls(
            states, Coordinator(n_shards, 0), spec.start_ns, shard_of_device, [([], [], [one]) for one in registry]
        )

    def cycle(
        self,
        batches: Sequence[ReadingBatch | AckBatch],
        requests: Sequence[Request],
        now_ns: int,
        is_there: IsThere = _ALWAYS,
    ) -> list[StepResult]:
        """Run one cycle of every shard whose owner is there, and the coordinator's after them."""
        mono_ns = now_ns - self.start_ns
        results = []
        for shard, state in enumerate(self.states):
            arrivals, asked, registry = self.waiting[shard]
            arrivals += [Arrival(part, mono_ns) for batch in batches if len(part := self._part(batch, shard))]
            asked += requests
            if is_there(shard, mono_ns / NS_PER_S):
                results.append(step(state, arrivals, asked, registry, now_ns, mono_ns))
                self.waiting[shard] = ([], [], [])
        began_s = time.perf_counter()
        for result in results:
            self.coordinator.fold(result.totals, mono_ns)
        for shard, share in self.coordinator.decide(mono_ns):
            self.waiting[shard][1].append(share)
            self.n_shares_told += 1
        self.coordinator_s += time.perf_counter() - began_s
        return results

    def _part(self, batch: ReadingBatch | AckBatch, shard: int) -> ReadingBatch | AckBatch:
        if len(self.states) == 1:
            return batch
        is_of_all = (batch.device_no < 0) & isinstance(batch, AckBatch)
        return batch.only(is_of_all | (self.shard_of_device[np.maximum(batch.device_no, 0)] == shard))


def _registry_of(whole: RegistryBatch, shard_of_device: Shards, shard: int) -> RegistryBatch:
    """Return the shard's own devices and members, and every gateway."""
    records: list[RegistryRecord] = []
    for record in whole.records:
        if isinstance(record, PortfolioRecord):
            members = tuple(no for no in record.device_nos if shard_of_device[no] == shard)
            records.append(msgspec.structs.replace(record, device_nos=members))
        elif not isinstance(record, DeviceRecord) or shard_of_device[record.device_no] == shard:
            records.append(record)
    return RegistryBatch(tuple(records))


def _of_portfolio(result: StepResult) -> list[PortfolioTotals]:
    return [totals for totals in result.totals.portfolios if totals.portfolio_no == PORTFOLIO_NO]


def _together(results: Sequence[StepResult]) -> StepResult:
    """Return the first shard's result with the portfolio's totals of the whole plant."""
    whole = merged([totals for result in results for totals in _of_portfolio(result)])
    totals = msgspec.structs.replace(results[0].totals, portfolios=(whole,))
    return StepResult(results[0].frames, totals, results[0].outcomes)


def _note(found: ShardedRehearsal, results: Sequence[StepResult], at_s: float) -> None:
    parts = [totals for result in results for totals in _of_portfolio(result)]
    if parts:
        found.totals.append(merged(parts))
    rows = [row for result in results for row in result.totals.dispatches if row.state == "active"]
    if rows:
        found.targets.append((at_s, sum(row.target_w for row in rows)))
        found.estimates.append((at_s, sum(row.delivered_w for row in rows)))
