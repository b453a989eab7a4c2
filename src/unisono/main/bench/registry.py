"""Which benches there are. Each is a module with ``bench(options) -> BenchResult``, imported only when it is run."""

from __future__ import annotations

import importlib
from typing import Final

from unisono.base.errors import InvalidInput
from unisono.main.bench.figures import BenchOptions, BenchResult

# name -> what it measures; the module has the same name.
BENCHES: Final = {
    "allocate": "a target split into a million setpoints",
    "cycle": "whole cycles of a million devices",
    "undisturbed": "the same cycles while two busy processes run at the desk's priority",
    "totals": "sums over a million devices, and by 200 overlapping portfolios",
    "fanout": "a million setpoints from the stream to a thousand gateways, and their renewal",
    "history": "a day of 100 million readings into history and out again",
    "detect": "six hours of a region with liars: who is found, who is accused wrongly",
    "enrol": "a million devices from NDJSON into PostgreSQL and into realtime's columns",
    "start": "a million devices, from the start of the process to a true picture",
    "ingest": "readings over MQTT and HTTP into state and history; --keep: what is acknowledged and kept",
    "double": "a rehearsed day sent twice, with 200 crashes of the owner, beside the undisturbed day",
    "recover": "each process of a plant under load killed in turn, its columns against a fold of our own",
    "shards": "the same calls with 1, 2 and 4 shards, and what the coordinator costs",
    "scenario": "a day of 10,000 devices with faults, rehearsed twice",
}
# Benches that know another way for what is acknowledged and kept.
WITH_KEEP: Final[frozenset[str]] = frozenset({"ingest"})


def run(name: str, options: BenchOptions) -> BenchResult:
    """Run the bench of that name."""
    if name not in BENCHES:
        raise InvalidInput("bench", name, f"must be one of {', '.join(BENCHES)}")
    if options.keep and name not in WITH_KEEP:
        raise InvalidInput("--keep", name, f"must be given to one of {', '.join(sorted(WITH_KEEP)) or 'no bench yet'}")
    module = importlib.import_module(f"unisono.main.bench.{name}")
    result: BenchResult = module.bench(options)
    return result
