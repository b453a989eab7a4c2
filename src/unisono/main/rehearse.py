"""Rehearsal: the simulated region against the pure plant on a movable clock; a day in seconds, the same from one seed.

Production, preview and rehearsal call the same ``plant.step``; here its inputs come from ``sim.region``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from unisono.base.instants import NS_PER_S
from unisono.model.dispatch import Dispatch, TargetPoint
from unisono.model.registry import DeviceRecord, PortfolioRecord, RegistryBatch
from unisono.plant.state import PlantConfig, new_state
from unisono.plant.step import Arrival, StepResult, step
from unisono.sim.region import Region
from unisono.sim.spec import WorldSpec
from unisono.sim.world import World

# The region's first instant, a Thursday of late spring in UTC midnight: 2026-05-21.
START_NS: Final = 1_779_321_600 * NS_PER_S
PORTFOLIO_NO: Final = 1


@dataclass(frozen=True, slots=True)
class Call:
    """A dispatch to come, in seconds from the start; ``share_frac`` of the dispatchable power (negative: down)."""

    start_s: float
    end_s: float
    share_frac: float
    policy: str = "merit_order"
    ramp_s: float = 120.0


# Four and a half hours of events in a day: a morning peak, a midday valley, an evening peak. What is dispatchable is
# promised for a quarter of an hour; the long evening asks for as much less as storage holds longer. (Asked for 60 % of
# it, storage is empty after an hour and a half, and the dispatch ends 10 % short in energy, as the plant itself says.)
DAY_OF_CALLS: Final = (
    Call(14.0 * 3600, 15.0 * 3600, 0.5, "pro_rata"),
    Call(19.5 * 3600, 20.5 * 3600, -0.4, "merit_order"),
    Call(21.0 * 3600, 23.5 * 3600, 0.35, "merit_order"),
)


@dataclass(frozen=True, slots=True)
class RehearsalSpec:
    """One rehearsal; everything that happens in it follows from this."""

    world: WorldSpec
    calls: tuple[Call, ...] = DAY_OF_CALLS
    duration_s: float = 86_400.0
    # Nobody reads the ingest counters in between.
    plant: PlantConfig = field(default_factory=lambda: PlantConfig(counters_every_s=3600.0))
    start_ns: int = START_NS
    misbehave_at_s: float = 3600.0


@dataclass(slots=True)
class Rehearsal:
    """What came of it. ``digest`` covers every frame in order; ``ledger`` is the region's own account."""

    n_cycles: int = 0
    n_readings: int = 0
    n_commands: int = 0
    n_devices: int = 0
    digest: str = ""
    plant_s: float = 0.0
    region_s: float = 0.0
    ledger: dict[str, Any] = field(default_factory=dict)
    targets: list[tuple[float, float]] = field(default_factory=list)
    estimates: list[tuple[float, float]] = field(default_factory=list)


# Is shown each cycle: the region, what the plant made of it, and the instant.
Watch = Callable[[Region, StepResult, int], None]


def rehearse(spec: RehearsalSpec, watch: Watch | None = None) -> Rehearsal:
    """Run it from beginning to end; ``watch`` sees each cycle and must change nothing."""
    region = Region(World(spec.world, spec.start_ns))
    state = new_state(0, 1, spec.plant)
    result = Rehearsal()
    digest = hashlib.sha256()
    calls = iter(sorted(spec.calls, key=lambda call: call.start_s))
    upcoming = next(calls, None)
    registry: list[RegistryBatch] = [portfolio_of_all(region)]
    newest: StepResult | None = None
    for now_ns in instants_of(spec):
        at_s = (now_ns - spec.start_ns) / NS_PER_S
        if at_s == spec.misbehave_at_s:
            region.misbehave(now_ns)
        began_s = time.perf_counter()
        batches = region.advance(now_ns)
        stepped_s = time.perf_counter()
        requests: list[Dispatch] = []
        if upcoming is not None and newest is not None and at_s >= upcoming.start_s - 60.0:
            requests.append(dispatch_of(upcoming, spec, newest, now_ns))
            upcoming = next(calls, None)
        arrivals = [Arrival(batch, now_ns - spec.start_ns) for batch in batches]
        newest = step(state, arrivals, requests, registry, now_ns, now_ns - spec.start_ns)
        registry = []
        result.plant_s += time.perf_counter() - stepped_s
        result.region_s += stepped_s - began_s
        result.n_readings += sum(len(batch) for batch in batches)
        _note(result, newest, at_s, digest)
        if len(newest.frames):
            region.deliver(newest.frames, now_ns)
        if watch is not None:
            watch(region, newest, now_ns)
    result.digest = digest.hexdigest()
    result.ledger = region.ledger.summary()
    return result


def instants_of(spec: RehearsalSpec) -> Iterator[int]:
    """Yield the wall instants of its cycles."""
    cycle_ns = round(spec.plant.cycle_s * NS_PER_S)
    return iter(range(spec.start_ns, spec.start_ns + round(spec.duration_s * NS_PER_S), cycle_ns))


def portfolio_of_all(region: Region) -> RegistryBatch:
    """Return the region's own registry with one portfolio of all its devices."""
    records = region.registry().records
    devices = [record for record in records if isinstance(record, DeviceRecord)]
    portfolio = PortfolioRecord(
        revision=1,
        organisation_id=devices[0].organisation_id,
        portfolio_id="pfo_rehearsal",
        portfolio_no=PORTFOLIO_NO,
        device_nos=tuple(device.device_no for device in devices),
    )
    return RegistryBatch((*records, portfolio))


def dispatch_of(call: Call, spec: RehearsalSpec, newest: StepResult, now_ns: int) -> Dispatch:
    """Return the request for a call, its power a share of what the newest cycle promises."""
    totals = next(t for t in newest.totals.portfolios if t.portfolio_no == PORTFOLIO_NO)
    promised_w = totals.dispatchable_up_w if call.share_frac > 0 else totals.dispatchable_down_w
    start_ns = spec.start_ns + round(call.start_s * NS_PER_S)
    return Dispatch(
        dispatch_id=f"dsp_rehearsal_{call.start_s:.0f}",
        revision=1,
        organisation_id="org_rehearsal",
        portfolio_id="pfo_rehearsal",
        portfolio_no=PORTFOLIO_NO,
        kind="change_w",
        start_ns=start_ns,
        end_ns=spec.start_ns + round(call.end_s * NS_PER_S),
        targets=(TargetPoint(start_ns, float(round(abs(promised_w) * call.share_frac))),),
        ramp_s=call.ramp_s,
        policy=call.policy,
        requested_ns=now_ns,
    )


def _note(result: Rehearsal, newest: StepResult, at_s: float, digest: Any) -> None:
    result.n_cycles += 1
    result.n_devices = newest.totals.n_devices
    for progress in newest.totals.dispatches:
        if progress.state == "active":
            result.targets.append((at_s, progress.target_w))
            result.estimates.append((at_s, progress.delivered_w))
    if len(newest.frames):
        result.n_commands += len(newest.frames)
        digest.update(newest.frames.encode())
    digest.update(msgspec.msgpack.encode(newest.outcomes))
