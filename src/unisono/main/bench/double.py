"""A rehearsed day in which everything is sent twice and the owner dies 200 times, beside the undisturbed day.

Readings, answers, requests and registry records come in any order in a cycle, and once more up to a minute later. At
points drawn at random, half of them while a dispatch runs, the owner is dropped and restored from its newest checkpoint
and the streams, as ``services.realtime`` does it. A restart costs no time here: the successor's first cycle is the one
that the dead owner would have run. Three days are lived side by side, each with a plant and a region of its own:

*calm*: nothing happens. At each crash point an heir under the next epoch is made beside the living owner, half of them
of a checkpoint that the last cycle did not reach, and both run the next cycle on the same inputs. What they ask of each
device must be the same.

*twice*: sent twice, and the owner dies after each of the crash points and goes on under its own epoch. All must be
the same as in the calm day: power and setpoint of each device in each cycle, the region's whole account of what devices
did, the readings of history (each once), the entries of the event log.

*heirs*: sent twice, and each owner is followed by one of the next epoch. It tells every lease anew and withholds
renewals for a while, so that devices answer at other instants, which steers the loop another way: the day is as good,
but not the same. No limit may be broken, no old epoch obeyed, and each dispatch must deliver the calm day's energy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.fleet.trust import LeaseState
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.owner import Inputs, Message, Owner, Repeater, split
from unisono.main.rehearse import Call, RehearsalSpec, dispatch_of, instants_of, portfolio_of_all
from unisono.model.batches import ReadingBatch
from unisono.model.dispatch import OptOutChange
from unisono.model.totals import OutcomeBatch
from unisono.plant.events import ACTIVATED, COMPLETED_KIND
from unisono.plant.requests import ACCEPTED, OPTED_OUT
from unisono.plant.state import PlantState
from unisono.plant.step import StepResult, step
from unisono.sim.ledger import INTERVAL_S
from unisono.sim.network import SteadyNetwork
from unisono.sim.region import Region
from unisono.sim.spec import Misbehaviour, WorldSpec
from unisono.sim.world import World

N_DEVICES: Final = 300
N_CRASHES: Final = 200
SEED: Final = 11
# An owner opts a device out for an hour, so often.
OPT_OUT_CYCLES: Final = 450
# A succession a few minutes after the other is felt, but no more than a seller of energy would allow.
ENERGY_ERROR_MAX_FRAC: Final = 0.02


class At(NamedTuple):
    """A cycle and its instants; the monotonic clock begins with the day."""

    cycle: int
    now_ns: int
    mono_ns: int

    @property
    def s(self) -> float:
        """Seconds since the day began."""
        return self.mono_ns / NS_PER_S


@dataclass(slots=True)
class Day:
    """One of the days as it goes on; ``readings`` are (device, measured instant, power) of all that came."""

    region: Region
    owner: Owner
    repeater: Repeater | None = None
    readings: list[NDArray[np.int64]] = field(default_factory=list)

    def inputs(self, requests: list[Message], at: At) -> Inputs:
        """Let the region live until now and return what comes of it, with the requests."""
        messages = split(self.region.advance(at.now_ns), self.region.roster.gateway_of_row, at.cycle) + requests
        if self.repeater is not None:
            messages = self.repeater.disturbed(messages, at.cycle, at.now_ns)
        for one in messages:
            if isinstance(one, ReadingBatch):
                self.readings.append(np.stack([one.device_no, one.measured_ns, one.power_w.view(np.int32)]))
        return Inputs.of(messages, at.mono_ns)

    def cycle(self, inputs: Inputs, at: At, *, is_saved: bool = True) -> StepResult:
        """Run the plant's cycle and send its frames out."""
        result = self.owner.cycle(inputs, at.now_ns, at.mono_ns, is_saved=is_saved)
        if len(result.frames):
            self.region.deliver(result.frames, at.now_ns)
        return result

    def energies_wh(self, spec: RehearsalSpec) -> NDArray[np.float64]:
        """Return what each dispatch truly delivered."""
        ledger, hours = self.region.ledger, INTERVAL_S / 3600.0
        spans = [(spec.start_ns + round(call.start_s * NS_PER_S), call.end_s - call.start_s) for call in spec.calls]
        return np.array(
            [
                ledger.delivered_w_between(start_ns, start_ns + round(span_s * NS_PER_S)).sum() * hours
                for start_ns, span_s in spans
            ]
        )


@dataclass(slots=True)
class Seen:
    """What was compared: device cycles of the day sent twice, and first cycles of heirs."""

    n_setpoints: int = 0
    n_powers: int = 0
    first_s: float = -1.0
    n_crashes: int = 0
    n_crashes_in_event: int = 0
    n_heirs_differ: int = 0
    n_heirs_differ_unsaved: int = 0
    heir_apart_max_w: float = 0.0

    def compare(self, calm: Region, twice: Region, at_s: float) -> None:
        """Compare what devices do now."""
        ours, theirs = calm.devices.world, twice.devices.world
        n_setpoints = int((~_same(ours.commanded_w, theirs.commanded_w)).sum())
        n_powers = int((ours.power_w != theirs.power_w).sum())
        if (n_setpoints or n_powers) and self.first_s < 0.0:
            self.first_s = at_s
        self.n_setpoints += n_setpoints
        self.n_powers += n_powers

    def compare_heir(self, living: PlantState, heir: PlantState, *, was_saved: bool) -> None:
        """Compare what both ask of the devices after the same cycle."""
        asked_w, heirs_w = _asked_w(living), _asked_w(heir)
        differs = bool((~_same(asked_w, heirs_w)).any())
        self.n_heirs_differ += differs and was_saved
        self.n_heirs_differ_unsaved += differs and not was_saved
        apart_w = abs(float(np.nansum(asked_w) - np.nansum(heirs_w)))
        self.heir_apart_max_w = max(self.heir_apart_max_w, apart_w)


def bench(options: BenchOptions) -> BenchResult:
    """Live through the days and compare."""
    return compared(spec_of(options.n_devices or N_DEVICES), N_CRASHES)


def compared(spec: RehearsalSpec, n_crashes: int) -> BenchResult:
    """Live through the days of ``spec`` with so many crashes, and say how they differ."""
    calm, twice, heirs = _day(spec), _day(spec, Repeater(_chance(1))), _day(spec, Repeater(_chance(2)))
    began_s = time.perf_counter()
    seen = live((calm, twice, heirs), spec, deaths(spec, n_crashes))
    took_s = time.perf_counter() - began_s
    ours, theirs = calm.region.ledger.summary(), twice.region.ledger.summary()
    of_heirs = heirs.region.ledger.summary()
    energy_error_frac = float(np.abs(heirs.energies_wh(spec) / calm.energies_wh(spec) - 1.0).max())
    log = said(calm.owner.told)
    return BenchResult(
        name="double",
        figures=(
            Figure(name="sent twice: setpoints that differ", value=seen.n_setpoints, unit="device cycles", target=0.0),
            Figure(name="sent twice: powers that differ", value=seen.n_powers, unit="device cycles", target=0.0),
            Figure(
                name="heirs that ask something else in their first cycle",
                value=seen.n_heirs_differ,
                unit="heirs",
                target=0.0,
            ),
            Figure(
                name="heirs' day: largest error of a dispatch's energy",
                value=energy_error_frac,
                unit="of the calm day's",
                target=ENERGY_ERROR_MAX_FRAC,
            ),
        ),
        checks={
            "every crash happened": heirs.owner.epoch == 1 + n_crashes == 1 + seen.n_crashes,
            "half of them while a dispatch ran": seen.n_crashes_in_event >= n_crashes // 2,
            "sent twice: the region's account is the same": all(ours[name] == theirs[name] for name in ours),
            "sent twice: history holds the same readings": np.array_equal(distinct(calm), distinct(twice)),
            "sent twice: the event log says the same": log == said(twice.owner.told),
            "heirs' day: no entry about a dispatch or an owner's word is missing or twice": requests_in(log)
            == requests_in(said(heirs.owner.told)),
            "every invariant held on each day": all(day["every_invariant_held"] for day in (ours, theirs, of_heirs)),
            "everything was sent twice": all(
                one.n_again + one.n_waiting == one.n_first > 0 and one.n_waiting < one.n_first // 10
                for one in (twice.repeater, heirs.repeater)
                if one is not None
            ),
        },
        sizes={
            "devices": spec.world.n_devices,
            "crashes": seen.n_crashes,
            "crashes while dispatches ran": seen.n_crashes_in_event,
            "commands obeyed": ours["n_acted"],
            "readings": _n_readings(calm),
            "batches and frames replayed": heirs.owner.n_replayed,
        },
        details={
            "seed": SEED,
            "took_s": took_s,
            "first difference at s": seen.first_s,
            "heirs of an unwritten checkpoint that ask something else": seen.n_heirs_differ_unsaved,
            "largest sum by which an heir asks more or less, W": seen.heir_apart_max_w,
        },
    )


def spec_of(n_devices: int) -> RehearsalSpec:
    """Return a day whose devices refuse, lie, opt out and over-deliver, but are reached when they are spoken to.

    Who is out of reach loses its lease when that runs out; a successor has renewed it some seconds earlier or later
    than the dead owner would have, so that there the two days differ although both are right.
    """
    faults = Misbehaviour(dark_cloud=-1, dropout_frac=0.0)
    network = WorldSpec().network
    world = WorldSpec(
        seed=SEED,
        n_devices=n_devices,
        network=msgspec.structs.replace(network, gateway_outage_interval_h=0.0),
        misbehaviour=faults,
    )
    return RehearsalSpec(world=world)


def deaths(spec: RehearsalSpec, n_crashes: int) -> dict[int, bool]:
    """Return the cycles after which the owner dies, and whether it has saved; half of them while a dispatch runs."""
    chance, cycle_s = _chance(0), spec.plant.cycle_s
    n_cycles = int(spec.duration_s / cycle_s)
    busy = np.concatenate([np.arange(call.start_s, call.end_s - cycle_s, cycle_s) for call in spec.calls]) / cycle_s
    in_event = chance.choice(busy.astype(int), n_crashes // 2, replace=False)
    others = np.setdiff1d(np.arange(1, n_cycles - 1), in_event)
    cycles = np.concatenate([in_event, chance.choice(others, n_crashes - in_event.size, replace=False)])
    return {int(cycle): bool(chance.random() < 0.5) for cycle in cycles}


def live(days: tuple[Day, Day, Day], spec: RehearsalSpec, saves_before_death: dict[int, bool]) -> Seen:
    """Live through the days (calm, twice, heirs), cycle by cycle; all are called by the same dispatches."""
    seen, newest = Seen(), None
    calm, twice, heirs = days
    calls = sorted(spec.calls, key=lambda call: call.start_s)
    for cycle, now_ns in enumerate(instants_of(spec)):
        at = At(cycle, now_ns, now_ns - spec.start_ns)
        if at.s == spec.misbehave_at_s:
            for day in days:
                day.region.misbehave(now_ns)
        requests = _requests(spec, calm, newest, calls, at)
        inputs = calm.inputs(requests, at)
        heir = None
        if cycle - 1 in saves_before_death:
            seen.n_crashes += 1
            heir = calm.owner.successor(2, now_ns, at.mono_ns)
            twice.owner.die(now_ns, at.mono_ns, keeps_epoch=True)
            heirs.owner.die(now_ns, at.mono_ns, keeps_epoch=False)
        is_saved = saves_before_death.get(cycle, True)
        newest = calm.cycle(inputs, at, is_saved=is_saved)
        if heir is not None:
            step(heir, inputs.arrivals, inputs.requests, inputs.registry, now_ns, at.mono_ns)
            seen.compare_heir(calm.owner.state, heir, was_saved=saves_before_death[cycle - 1])
        # Under its own epoch nobody may die before its checkpoint: what it told then is not folded, but told again.
        twice.cycle(twice.inputs(requests, at), at)
        heirs.cycle(heirs.inputs(requests, at), at, is_saved=is_saved)
        is_running = any(row.state == "active" for row in newest.totals.dispatches)
        seen.n_crashes_in_event += cycle in saves_before_death and is_running
        seen.compare(calm.region, twice.region, at.s)
    return seen


def distinct(day: Day) -> NDArray[np.int64]:
    """Return the readings of a day, each once: columns of device, measured instant and the power's bits."""
    return np.unique(np.concatenate(day.readings, axis=1), axis=1)


def said(told: list[OutcomeBatch]) -> list[tuple[str, ...]]:
    """Return what the entries of the event log are about; when it was said, and of which lease, is each owner's own."""
    fields = ("revision", "request_id", "end_ns", "reason")
    entries = [entry for outcomes in told for entry in outcomes.log]
    return sorted((entry.kind, entry.subject_id, *(str(entry.body.get(name)) for name in fields)) for entry in entries)


def requests_in(entries: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the entries that follow from requests alone, not from how the day went."""
    kinds = (ACCEPTED, OPTED_OUT, ACTIVATED, COMPLETED_KIND)
    return [entry for entry in entries if entry[0] in kinds]


def _requests(spec: RehearsalSpec, calm: Day, newest: StepResult | None, calls: list[Call], at: At) -> list[Message]:
    """Return what is asked in this cycle: the registry first, then calls in their time and an opt-out now and then."""
    found: list[Message] = [portfolio_of_all(calm.region)] if at.cycle == 0 else []
    if calls and newest is not None and at.s >= calls[0].start_s - 60.0:
        found.append(dispatch_of(calls.pop(0), spec, newest, at.now_ns))
    if at.cycle and at.cycle % OPT_OUT_CYCLES == 0:
        device_no = 1 + at.cycle * 7919 % calm.region.roster.n_devices
        end_ns = at.now_ns + 3600 * NS_PER_S
        name = f"req_{at.cycle}"
        found.append(OptOutChange(request_id=name, device_no=device_no, start_ns=at.now_ns, end_ns=end_ns))
    return found


def _day(spec: RehearsalSpec, repeater: Repeater | None = None) -> Day:
    return Day(Region(World(spec.world, spec.start_ns), SteadyNetwork), Owner(spec.plant), repeater)


def _chance(number: int) -> np.random.Generator:
    return np.random.default_rng([SEED, number])


def _asked_w(state: PlantState) -> NDArray[np.float32]:
    """Return what each device is asked for; NaN: nothing, or to let go."""
    leases, n = state.fleet.leases, state.n_devices
    asked_w: NDArray[np.float32] = np.where(
        leases.state[:n] == LeaseState.HELD, leases.setpoint_w[:n], np.float32(np.nan)
    )
    return asked_w


def _same(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> NDArray[np.bool_]:
    is_same: NDArray[np.bool_] = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return is_same


def _n_readings(day: Day) -> int:
    return sum(part.shape[1] for part in day.readings)
