"""Liars found in a simulated region: frozen values, jumps, turned signs, scale errors and offsets between two sources.

Six hours of some thousand devices with weather, households, noise, coarse and separate meters, lost and late messages,
clouds that report every 30 s to 5 min, wrong clocks, dropouts and three dispatches, rehearsed through the real plant.
The simulator plants the liars and says when each first tells something visibly false (``sim.instruments``); the plant's
own log says whom it accuses, when and of what. Observable is a lie that comes to three readings (spikes: two) which are
off by more than 5 % of the rating and 100 W (a scale or an offset: by a tenth of the power besides). Its delay counts
from the first of them. Whoever is accused without lying counts against the honest, liars before they begin included;
devices that do other than what they accept (over-delivery) are neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.fleet.columns import Leases, Nameplate, Picture, allocate
from unisono.fleet.trust import suspect
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure, best_s
from unisono.main.rehearse import START_NS, Call, RehearsalSpec, rehearse
from unisono.model.technology import Technology
from unisono.plant.step import SUSPECTED, StepResult
from unisono.sim import leases
from unisono.sim.instruments import Instruments, Lie
from unisono.sim.records import device_record
from unisono.sim.region import Region
from unisono.sim.spec import InstrumentSpec, Misbehaviour, WorldSpec

N_DEVICES: Final = 4_000
SEED: Final = 1
HOURS: Final = 6.0
FOUND_MIN_FRAC: Final = 0.95
ACCUSED_MAX_FRAC: Final = 0.001
WITHIN_S: Final = 900.0
# Suspicion is one pass over the fleet in each cycle of 1 to 4 s: a few milliseconds for a million.
N_TIMED: Final = 1_000_000
TARGET_NS_PER_DEVICE: Final = 4.0
# What may be said of each lie. A frozen or turned instrument among two disagrees with the other before all else.
FITTING: Final = {
    Lie.FROZEN: {"frozen", "not_moving", "sources_disagree"},
    Lie.JUMPS: {"jump"},
    Lie.TURNED: {"wrong_sign"},
    Lie.SCALED: {"sources_disagree"},
    Lie.OFFSET: {"sources_disagree"},
}


@dataclass(slots=True)
class Accusations:
    """What the plant's log said, by row of the region: (instant, reason) in order."""

    of_row: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    row_of_id: dict[str, int] = field(default_factory=dict)
    region: Region | None = None

    def watch(self, region: Region, newest: StepResult, now_ns: int) -> None:
        """Note whom this cycle accuses."""
        if self.region is None:
            self.region = region
            roster = region.roster
            self.row_of_id = {device_record(roster, row).device_id: row for row in range(roster.n_devices)}
        for entry in newest.outcomes.log:
            if entry.kind == SUSPECTED:
                row = self.row_of_id[entry.subject_id]
                self.of_row.setdefault(row, []).append((now_ns, str(entry.body["reason"])))


@dataclass(slots=True)
class Verdict:
    """What became of the liars of one kind, and of the honest."""

    n_planted: int
    n_observable: int
    n_in_time: int
    delays_s: list[float]
    reasons: dict[str, int]


def bench(options: BenchOptions) -> BenchResult:
    """Rehearse the hours and compare the plant's log with the simulator's truth."""
    n_devices = options.n_devices or N_DEVICES
    spec = rehearsal_of(n_devices)
    accusations = Accusations()
    result = rehearse(spec, accusations.watch)
    region = accusations.region
    assert region is not None, "a rehearsal has cycles"
    assert region.instruments is not None, "this region has instruments"
    truth = region.instruments
    verdicts = {lie: verdict_on(lie, truth, accusations.of_row) for lie in FITTING}
    wrong = wrongly_accused(truth, accusations.of_row)
    honest_accused = {row: reason for row, reason in wrong.items() if not acts_otherwise(region)[row]}
    n_honest = int((truth.lie == Lie.NONE).sum() - acts_otherwise(region).sum())
    n_observable = sum(verdict.n_observable for verdict in verdicts.values())
    found_frac = sum(verdict.n_in_time for verdict in verdicts.values()) / max(1, n_observable)
    delays_s = [delay_s for verdict in verdicts.values() for delay_s in verdict.delays_s]
    ns_per_device, pass_ns = _timed()
    return BenchResult(
        name="detect",
        figures=(
            Figure(name="found in 15 min", value=found_frac, unit="1", better="higher", target=FOUND_MIN_FRAC),
            Figure(
                name="honest accused", value=len(honest_accused) / max(1, n_honest), unit="1", target=ACCUSED_MAX_FRAC
            ),
            Figure(
                name="suspicion",
                value=ns_per_device,
                unit="ns/device",
                target=TARGET_NS_PER_DEVICE,
                reference=pass_ns,
                reference_name="numpy, one look at the columns it reads",
            ),
        ),
        checks={
            "liars of every kind could be observed": all(verdict.n_observable for verdict in verdicts.values()),
            "devices were dispatched": result.n_commands > 0,
            "every invariant held": bool(result.ledger["every_invariant_held"]),
        },
        sizes={
            "devices": n_devices,
            "honest": n_honest,
            "liars": int((truth.lie != Lie.NONE).sum()),
            "liars observable": n_observable,
            "honest accused": len(honest_accused),
            "with a meter": int(truth.has_meter.sum()),
            "readings": result.n_readings,
            "commands": result.n_commands,
        },
        details=_details(spec, verdicts, delays_s) | {"accused honest": _of_whom(honest_accused, region)},
    )


def rehearsal_of(n_devices: int, seed: int = SEED) -> RehearsalSpec:
    """Return six hours from 15 UTC, noon to evening in the east: lies begin from one and a half to five hours in."""
    hour_s = 3600.0
    return RehearsalSpec(
        world=WorldSpec(
            seed=seed,
            n_devices=n_devices,
            self_consumption_frac=0.3,
            cloud_period_s=(30.0, 60.0, 300.0),
            misbehaviour=Misbehaviour(liar_frac=0.0, repeat_s=hour_s, skew_max_s=290.0),
            instruments=InstrumentSpec(lie_frac=0.06, lie_from_s=1.5 * hour_s, lie_to_s=5.0 * hour_s),
        ),
        calls=(
            Call(2.0 * hour_s, 3.0 * hour_s, 0.5, "pro_rata"),
            Call(3.5 * hour_s, 4.25 * hour_s, -0.4, "merit_order"),
            Call(4.75 * hour_s, 5.75 * hour_s, 0.35, "merit_order"),
        ),
        duration_s=HOURS * hour_s,
        start_ns=START_NS + 15 * 3600 * NS_PER_S,
        misbehave_at_s=1800.0,
    )


def verdict_on(lie: Lie, truth: Instruments, accused: dict[int, list[tuple[int, str]]]) -> Verdict:
    """Return what became of the liars of one kind; an accusation counts from the beginning of the lie."""
    rows = np.flatnonzero(truth.lie == lie)
    observable = truth.is_observable()
    delays_s: list[float] = []
    reasons: dict[str, int] = {}
    for row in rows[observable[rows]].tolist():
        fitting = [
            (at_ns, reason)
            for at_ns, reason in accused.get(row, [])
            if at_ns >= truth.begins_ns[row] and reason in FITTING[lie]
        ]
        if fitting:
            at_ns, reason = fitting[0]
            delays_s.append(max(0.0, (at_ns - int(truth.visible_ns[row])) / NS_PER_S))
            reasons[reason] = reasons.get(reason, 0) + 1
    n_in_time = sum(delay_s <= WITHIN_S for delay_s in delays_s)
    return Verdict(rows.size, int(observable[rows].sum()), n_in_time, delays_s, reasons)


def wrongly_accused(truth: Instruments, accused: dict[int, list[tuple[int, str]]]) -> dict[int, str]:
    """Return the reason for which each device was first accused although it was not lying, or not yet."""
    wrong: dict[int, str] = {}
    for row, said in accused.items():
        at_ns, reason = said[0]
        if truth.lie[row] == Lie.NONE or at_ns < truth.begins_ns[row]:
            wrong[row] = reason
    return wrong


def acts_otherwise(region: Region) -> NDArray[np.bool_]:
    """Return who does other than what it accepted: no liar of these kinds, and not honest either."""
    planned = region.devices.faults.planned_trait
    otherwise: NDArray[np.bool_] = (planned & (leases.OVER_DELIVERS | leases.DOES_NOTHING)) != 0
    return otherwise


def _details(spec: RehearsalSpec, verdicts: dict[Lie, Verdict], delays_s: list[float]) -> dict[str, float | int | str]:
    details: dict[str, float | int | str] = {"seed": spec.world.seed, "delay": _spread(delays_s)}
    for lie, verdict in verdicts.items():
        because = ", ".join(f"{reason} {n}" for reason, n in sorted(verdict.reasons.items()))
        details[lie.name.lower()] = (
            f"{verdict.n_in_time} of {verdict.n_observable} in time, {_spread(verdict.delays_s)}"
            f" ({verdict.n_planted - verdict.n_observable} of {verdict.n_planted} not observable; {because})"
        )
    return details


def _spread(delays_s: list[float]) -> str:
    if not delays_s:
        return "none found"
    p50_s, p95_s = np.percentile(np.array(delays_s), [50, 95])
    return f"p50 {p50_s:.0f} s, p95 {p95_s:.0f} s"


def _of_whom(wrong: dict[int, str], region: Region) -> str:
    kinds: dict[str, int] = {}
    for row, reason in wrong.items():
        kind = f"{Technology(int(region.roster.technology[row])).asset_type} {reason}"
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())) or "none"


def _timed() -> tuple[float, float]:
    """Return ns a device of the pass that judges, a tenth of the fleet on an open move, and of numpy's look at it."""
    nameplate, picture, leases = allocate(Nameplate, N_TIMED), allocate(Picture, N_TIMED), allocate(Leases, N_TIMED)
    picture.trust[:] = 1
    picture.power_w[:] = 1000.0
    nameplate.rating_w[:] = 5000.0
    leases.state[: N_TIMED // 10] = 1
    found_rows = np.empty(N_TIMED, np.int32)
    judged_s = best_s(lambda: suspect(N_TIMED, 10**12, nameplate, picture, leases, found_rows))

    def look() -> int:
        return int(((picture.accused_code > 0) | ((leases.state == 1) & (picture.trust == 1))).sum())

    return 1e9 * judged_s / N_TIMED, 1e9 * best_s(look) / N_TIMED
