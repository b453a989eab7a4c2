"""Which benches there are. Each is a module with ``bench(sizes) -> BenchResult``, imported only when it is run."""

from __future__ import annotations

import importlib
from typing import Final

from unisono.base.errors import InvalidInput
from unisono.main.bench.figures import BenchResult

# name -> what it measures; the module has the same name.
BENCHES: Final = {
    "allocate": "a target split into a million setpoints",
    "scenario": "a day of 10,000 devices with faults, rehearsed twice",
}


def run(name: str, n_devices: int | None = None) -> BenchResult:
    """Run the bench of that name; ``n_devices`` None takes the size that its target is stated for."""
    if name not in BENCHES:
        raise InvalidInput("bench", name, f"must be one of {', '.join(BENCHES)}")
    module = importlib.import_module(f"unisono.main.bench.{name}")
    result: BenchResult = module.bench(n_devices) if n_devices else module.bench()
    return result
