"""Cycles of a million devices while two processes at the desk's priority do all that two cores can.

The busy ones sort and multiply arrays larger than the nearest caches, as a solver does. The reference is the same plant
alone, in stretches before and after. Checked: the busy processes lived and worked through it all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from unisono.main.bench.cycle import N_DEVICES, Plant, begun, checks_of, measured
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.priority import lower_to_desk

N_BUSY: Final = 2
# Of each: half of it before, half after those that are disturbed.
N_CYCLES: Final = 150
N_CYCLES_SMALL: Final = 30
RATIO_TARGET: Final = 1.5
# 16 MB: four times the second cache of one core.
BUSY_NUMBERS: Final = 1 << 21
TICKS_PER_S: Final = 100


def bench(options: BenchOptions) -> BenchResult:
    """Measure alone, disturbed, and alone again."""
    n = options.n_devices or N_DEVICES
    n_cycles = N_CYCLES if n >= N_DEVICES else N_CYCLES_SMALL
    plant = begun(n)
    before = measured(plant, n_cycles // 2)
    with _busy() as processes:
        disturbed = measured(plant, n_cycles)
        worked_s = [_cpu_s(process.pid) for process in processes]
        have_lived = all(process.poll() is None for process in processes)
    after = measured(plant, n_cycles // 2)
    alone_ms = 1e3 * np.concatenate([before.cycle_s, after.cycle_s])
    disturbed_ms = 1e3 * disturbed.cycle_s
    return BenchResult(
        name="undisturbed",
        figures=(
            Figure(
                name="p99",
                value=float(np.percentile(disturbed_ms, 99)),
                unit="ms",
                reference=float(np.percentile(alone_ms, 99)),
                reference_name="p99 alone",
                ratio_target=RATIO_TARGET,
            ),
        ),
        checks={
            **_plant_checks(plant),
            "the busy processes lived through it": have_lived,
            "the busy processes worked": min(worked_s) > 0.0,
        },
        sizes={"devices": n, "cycles": n_cycles, "busy_processes": N_BUSY},
        details={
            "p50_ms": float(np.percentile(disturbed_ms, 50)),
            "p50_alone_ms": float(np.percentile(alone_ms, 50)),
            "slowest_ms": float(disturbed_ms.max()),
            "slowest_alone_ms": float(alone_ms.max()),
            "busy_cpu_s": " ".join(f"{seconds:.1f}" for seconds in worked_s),
        },
    )


def _plant_checks(plant: Plant) -> dict[str, bool]:
    return {name: holds for name, holds in checks_of(plant, measured(plant, 2)).items() if "adds up" not in name}


@contextmanager
def _busy() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [subprocess.Popen([sys.executable, "-m", __name__]) for _ in range(N_BUSY)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / TICKS_PER_S


def work() -> None:
    """Keep a core busy until the process is ended."""
    lower_to_desk()
    chance = np.random.default_rng(1)
    while True:
        numbers = chance.random(BUSY_NUMBERS)
        numbers.sort()
        square = numbers[: 1 << 20].reshape(1 << 10, 1 << 10)
        assert np.isfinite(square @ square).all()


if __name__ == "__main__":
    work()
