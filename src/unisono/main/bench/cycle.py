"""Whole cycles of a shard with a million devices: all that ``plant.step`` does, its frames ready to be sent.

Every cycle brings readings of a tenth of the fleet and the answers to the commands before. Two dispatches run: one over
the whole fleet in merit order, whose target moves all the time, and a more urgent one that levels the stores of a
portfolio within it. The reference is one read pass over all columns. Checked: nothing was compiled, what the devices
were told is what their leases hold and within their ratings, and what they do adds up to what was asked for.
"""

from __future__ import annotations

import gc
import time
from typing import Any, Final, NamedTuple

import numpy as np
from numba.core import event
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.fleet import PERIOD_S, PORTFOLIO_OF_ALL, START_NS, Behaviour, enrolled
from unisono.main.bench.passes import read_pass_s
from unisono.main.bench.totals import portfolios_agree
from unisono.model.batches import AckBatch, CommandFrames, ReadingBatch
from unisono.model.dispatch import Dispatch, TargetPoint
from unisono.plant.state import PlantState
from unisono.plant.step import Arrival, StepResult, step

N_DEVICES: Final = 1_000_000
N_PORTFOLIOS: Final = 200
N_CYCLES: Final = 300
# A small fleet is for checking, not for measuring.
N_CYCLES_SMALL: Final = 60
CYCLE_NS: Final = 4 * NS_PER_S
# One period until all have reported, and some cycles until the first moves are over.
N_WARM: Final = 30
P50_MS: Final = 150.0
P99_MS: Final = 300.0
RATIO_TARGET: Final = 40.0
# The large target goes to and fro between these shares of what the fleet promises, each way in so long.
LOW_FRAC, HIGH_FRAC, WAY_S = 0.3, 0.6, 240.0
SMALL_PORTFOLIO: Final = 2
ENERGY_ERROR_MAX_FRAC: Final = 0.02


class Run(NamedTuple):
    """The cycles of one run: how long each took, and what its frames and its targets were."""

    cycle_s: NDArray[np.float64]
    n_frames: NDArray[np.int64]
    n_readings: int
    n_compiled: int
    asked_w: NDArray[np.float64]
    done_w: NDArray[np.float64]


class Plant:
    """A shard and the devices that it steers, on a clock that is moved."""

    def __init__(self, n_devices: int) -> None:
        self.state: PlantState = enrolled(n_devices, N_PORTFOLIOS)
        self.behaviour = Behaviour(self.state.fleet)
        self.now_ns = START_NS
        self.newest: StepResult | None = None
        self._arrivals: list[Arrival] = []
        self._n = n_devices
        self._n_cycles = 0

    def prepare(self) -> int:
        """Move the clock by one cycle and let what arrives in it arrive; return how many readings that are."""
        self.now_ns += CYCLE_NS
        stride = round(PERIOD_S * NS_PER_S / CYCLE_NS)
        rows = np.arange(self._n_cycles % stride, self._n, stride, dtype=np.int32)
        self._n_cycles += 1
        received_ns = self.mono_ns - NS_PER_S // 2
        answers = self.behaviour.obey(self.newest.frames, self.now_ns) if self.newest is not None else []
        batches: list[ReadingBatch | AckBatch] = [*self.behaviour.report(rows, self.now_ns), *answers]
        self._arrivals = [Arrival(batch, received_ns) for batch in batches]
        return int(rows.size)

    def run(self, requests: tuple[Dispatch, ...] = ()) -> float:
        """Run the cycle; return how long it took in seconds."""
        began_s = time.perf_counter()
        self.newest = step(self.state, self._arrivals, requests, [], self.now_ns, self.mono_ns)
        return time.perf_counter() - began_s

    @property
    def mono_ns(self) -> int:
        """The process's monotonic clock."""
        return self.now_ns - START_NS


def bench(options: BenchOptions) -> BenchResult:
    """Run the cycles and check what came of them."""
    n = options.n_devices or N_DEVICES
    plant = begun(n)
    run = measured(plant, N_CYCLES if n >= N_DEVICES else N_CYCLES_SMALL)
    reference_s = read_pass_s(columns_of(plant.state))
    cycle_ms = 1e3 * run.cycle_s
    return BenchResult(
        name="cycle",
        figures=(
            Figure(
                name="p50",
                value=float(np.percentile(cycle_ms, 50)),
                unit="ms",
                target=P50_MS,
                reference=1e3 * reference_s,
                reference_name="read pass over all columns",
                ratio_target=RATIO_TARGET,
            ),
            Figure(name="p99", value=float(np.percentile(cycle_ms, 99)), unit="ms", target=P99_MS),
        ),
        checks=checks_of(plant, run),
        sizes={
            "devices": n,
            "portfolios": N_PORTFOLIOS,
            "memberships": int(plant.state.fleet.portfolio_of.size),
            "gateways": plant.state.fleet.n_gateways,
            "cycles": run.cycle_s.size,
            "readings_a_cycle": run.n_readings // run.cycle_s.size,
            "frames_a_cycle_p50": int(np.percentile(run.n_frames, 50)),
            "frames_a_cycle_max": int(run.n_frames.max()),
        },
        details={"slowest_ms": float(cycle_ms.max()), "compiled": run.n_compiled},
    )


def begun(n_devices: int) -> Plant:
    """Return a plant whose devices have all reported, with both dispatches under way."""
    plant = Plant(n_devices)
    for _ in range(N_WARM):
        plant.prepare()
        plant.run()
    plant.prepare()
    plant.run(_dispatches(plant))
    for _ in range(N_WARM):
        plant.prepare()
        plant.run()
    gc.collect()
    gc.freeze()
    return plant


def measured(plant: Plant, n_cycles: int) -> Run:
    """Run so many cycles, each timed by itself."""
    cycle_s, n_frames, n_readings = np.empty(n_cycles), np.empty(n_cycles, np.int64), 0
    asked_w, done_w = np.empty(n_cycles), np.empty(n_cycles)
    with event.install_recorder("numba:compile") as compiled:
        for at in range(n_cycles):
            assert plant.newest is not None
            n_readings += plant.prepare()
            # By now the devices do what the newest frames said.
            n_frames[at] = len(plant.newest.frames)
            asked_w[at] = sum(progress.target_w for progress in plant.newest.totals.dispatches)
            reference_w = sum(progress.reference_w for progress in plant.newest.totals.dispatches)
            done_w[at] = plant.behaviour.called_w() - reference_w
            cycle_s[at] = plant.run()
    return Run(cycle_s, n_frames, n_readings, len(compiled.buffer), asked_w, done_w)


def columns_of(state: PlantState) -> list[NDArray[Any]]:
    """Return every column that a cycle touches, as far as it is filled, and the members of all dispatches."""
    table = state.fleet
    columns = []
    for group, n in (
        (table.nameplate, table.n_devices),
        (table.slots, table.n_devices),
        (table.picture, table.n_devices),
        (table.leases, table.n_devices),
        (table.sites, table.n_sites),
        (table.gateways, table.n_gateways),
    ):
        for column in group:
            columns += [row[:n] for row in column] if column.ndim == 2 else [column[:n]]
    return columns + [column for active in state.dispatches.values() for column in active.members]


def checks_of(plant: Plant, run: Run) -> dict[str, bool]:
    """Check what the cycles came to against the devices themselves."""
    table, behaviour = plant.state.fleet, plant.behaviour
    n = table.n_devices
    assert plant.newest is not None
    behaviour.obey(plant.newest.frames, plant.now_ns)
    is_held = table.leases.state[:n] == 1
    told_w = behaviour.told_w
    plate = table.nameplate
    is_within = (told_w >= plate.power_min_w[:n] - 1.0) & (told_w <= plate.power_max_w[:n] + 1.0)
    frames = plant.newest.frames
    error = float(run.done_w.sum() / run.asked_w.sum()) - 1.0
    up_w = np.zeros(table.nameplate.device_no.size, np.float32)
    return {
        "nothing was compiled": run.n_compiled == 0,
        "two dispatches ran": len(plant.newest.totals.dispatches) == 2 and bool(np.all(run.asked_w > 0)),
        "devices were told what their leases hold": bool(np.array_equal(is_held, ~np.isnan(told_w)))
        and _is_as_told(plant, is_held, told_w),
        "nobody was told beyond its rating": bool(np.all(is_within | np.isnan(told_w))),
        "every cycle had commands": bool(run.n_frames.min() > 0),
        "frames survive their encoding": _same(CommandFrames.decode(frames.encode()), frames),
        "what devices do adds up to what was asked, within 2 %": abs(error) <= ENERGY_ERROR_MAX_FRAC,
        "every portfolio's sums agree with numpy": portfolios_agree(table, up_w, up_w),
    }


def _is_as_told(plant: Plant, is_held: NDArray[np.bool_], told_w: NDArray[np.float64]) -> bool:
    """Compare where a command says watts; a level or an offset is another language."""
    leases, plate = plant.state.fleet.leases, plant.state.fleet.nameplate
    says_watts = is_held & (plate.control_kind[: is_held.size] == 0)
    return bool(says_watts.any() and np.array_equal(leases.setpoint_w[: is_held.size][says_watts], told_w[says_watts]))


def _same(a: CommandFrames, b: CommandFrames) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in CommandFrames.DTYPES)


def _dispatches(plant: Plant) -> tuple[Dispatch, ...]:
    assert plant.newest is not None
    promised_w = {one.portfolio_no: one.dispatchable_up_w for one in plant.newest.totals.portfolios}
    start_ns = plant.now_ns + 2 * CYCLE_NS
    n_points = N_WARM + N_CYCLES
    cycles_a_way = round(WAY_S * NS_PER_S / CYCLE_NS)
    # To and fro in a straight line, a step each cycle.
    way = np.abs((np.arange(n_points) / cycles_a_way) % 2.0 - 1.0)
    shares = HIGH_FRAC + (LOW_FRAC - HIGH_FRAC) * way
    large = tuple(
        TargetPoint(start_ns + at * CYCLE_NS, float(round(share * promised_w[PORTFOLIO_OF_ALL])))
        for at, share in enumerate(shares.tolist())
    )
    small = (TargetPoint(start_ns, float(round(0.5 * promised_w[SMALL_PORTFOLIO]))),)
    return (
        _dispatch("large", plant.now_ns, large, portfolio_no=PORTFOLIO_OF_ALL, policy="merit_order", priority=5),
        _dispatch("small", plant.now_ns, small, portfolio_no=SMALL_PORTFOLIO, policy="soc_fair", priority=1),
    )


def _dispatch(name: str, now_ns: int, targets: tuple[TargetPoint, ...], **values: Any) -> Dispatch:
    return Dispatch(
        dispatch_id=f"dsp_{name}",
        revision=1,
        organisation_id="org_bench",
        portfolio_id=f"pfo_{values['portfolio_no']}",
        kind="change_w",
        start_ns=targets[0].start_ns,
        end_ns=targets[0].start_ns + 10**13,
        targets=targets,
        requested_ns=now_ns,
        **values,
    )
