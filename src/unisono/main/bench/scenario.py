"""A day of a whole fleet with faults: the simulated region against the pure plant on a movable clock, twice.

Every 4 s cycle is run, telemetry comes at each device's own period, and four and a half hours are dispatched. The
reference is one pass in numpy over the fleet's columns for each of the day's cycles. Checked: both days are the same
byte for byte, the region's ledger holds, and by the region's meters every dispatch delivered what it was asked for.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Final

import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure, best_s
from unisono.main.rehearse import Rehearsal, RehearsalSpec, rehearse
from unisono.sim.spec import WorldSpec

N_DEVICES: Final = 10_000
# A day in a minute: a thousand rehearsals fit into a night.
TARGET_S_OF_10_000: Final = 60.0
EVENT_HOURS_MIN: Final = 4.0
# Over an hour or more references drift (what a load would have done is known less and less).
ENERGY_ERROR_MAX_FRAC: Final = 0.05
# Bytes of the columns that a cycle touches, for each device.
BYTES_PER_DEVICE: Final = 400


def bench(options: BenchOptions) -> BenchResult:
    """Rehearse the day twice and compare."""
    n_devices = options.n_devices or N_DEVICES
    # A small one first, so that loading kernels is not measured.
    rehearse(RehearsalSpec(world=WorldSpec(n_devices=200), duration_s=120.0, calls=()))
    spec = RehearsalSpec(world=WorldSpec(n_devices=n_devices))
    began_s = time.perf_counter()
    first = rehearse(spec)
    first_s = time.perf_counter() - began_s
    second = rehearse(spec)
    second_s = time.perf_counter() - began_s - first_s
    columns = np.ones(n_devices * BYTES_PER_DEVICE // 8)
    errors = energy_errors(spec, first)
    event_hours = sum(call.end_s - call.start_s for call in spec.calls) / 3600.0
    return BenchResult(
        name="scenario",
        figures=(
            Figure(
                name="day",
                value=min(first_s, second_s),
                unit="s",
                target=TARGET_S_OF_10_000 * n_devices / N_DEVICES,
                reference=best_s(columns.sum) * first.n_cycles,
                reference_name="one pass over the fleet's columns a cycle, numpy",
            ),
        ),
        checks={
            "the same day twice": first.digest == second.digest and first.ledger == second.ledger,
            "every invariant held": bool(first.ledger["every_invariant_held"]),
            "at least 4 h of dispatches": event_hours >= EVENT_HOURS_MIN,
            "every dispatch within 5 % by the region's meters": max(map(abs, errors)) <= ENERGY_ERROR_MAX_FRAC,
        },
        sizes={
            "devices": n_devices,
            "cycles": first.n_cycles,
            "readings": first.n_readings,
            "commands": first.n_commands,
        },
        details={
            "plant_ms_per_cycle": 1e3 * first.plant_s / first.n_cycles,
            "region_ms_per_cycle": 1e3 * first.region_s / first.n_cycles,
            "event_hours": event_hours,
            "energy_errors": " ".join(f"{error:+.2%}" for error in errors),
            "seed": spec.world.seed,
            "digest": first.digest[:16],
        },
    )


def energy_errors(spec: RehearsalSpec, seen: Rehearsal) -> list[float]:
    """Return, for each dispatch, true energy over its hold against the target's, less 1."""
    starts_s = (np.array(seen.ledger["interval_start_ns"]) - spec.start_ns) / NS_PER_S
    delivered_w = np.array(seen.ledger["delivered_w"])
    target_at_s, target_w = np.array(seen.targets).T
    errors = []
    for call in spec.calls:
        start_s, end_s = call.start_s + call.ramp_s, call.end_s - call.ramp_s
        true_w = delivered_w[(starts_s >= start_s) & (starts_s < end_s)]
        asked_w = target_w[(target_at_s >= start_s) & (target_at_s < end_s)]
        errors.append(float(true_w.mean() / asked_w.mean() - 1.0))
    assert len(errors) == len(spec.calls), "one figure a dispatch"
    assert all(a.end_s <= b.start_s for a, b in pairwise(spec.calls)), "dispatches do not overlap here"
    return errors
