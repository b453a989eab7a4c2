"""Readings from MQTT and HTTP gateways through the broker and the front to the fleet's state and into history.

The whole platform runs (``unisono up``: nats-server, PostgreSQL, front, realtime, historian) and so do the publishers,
in processes of their own, all on this machine. ``--keep`` measures what is acknowledged (``ingest_keep``).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

import numpy as np

from unisono.main.bench import ingest_keep
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.ingest_plant import MEASURED, Measured, Plant

N_DEVICES: Final = 100_000
N_GATEWAYS: Final = 500
N_PROCESSES: Final = 2
TARGET_PER_S: Final = 100_000.0
# Offered above the target, so that the figure can be above it too.
OFFERED_PER_S: Final = 110_000.0
LOAD_S: Final = 30.0
DRAIN_S: Final = 30.0
# A message costs the front at most this share of what the plain way costs.
RATIO_TARGET: Final = 1 / 8
REFERENCE_PER_S: Final = 20_000.0
REFERENCE_S: Final = 6.0
PERIOD_S: Final = 4.0


def bench(options: BenchOptions) -> BenchResult:
    """Measure what carries no promise, or with ``keep`` what does."""
    if options.keep:
        return ingest_keep.bench(options)
    return asyncio.run(_bench(options))


async def _bench(options: BenchOptions) -> BenchResult:
    n_devices = options.n_devices or N_DEVICES
    scale = n_devices / N_DEVICES
    n_gateways = min(N_GATEWAYS, max(2, n_devices // 200))
    n_devices -= n_devices % n_gateways
    load_s = LOAD_S if scale >= 1 else max(2.0, LOAD_S * scale)
    singles = {"form": "single", "qos": 0, "n_devices": n_devices}
    async with Plant.running(options.folder, n_devices=n_devices, n_gateways=n_gateways, period_s=PERIOD_S) as plant:
        specs = plant.specs(
            N_PROCESSES,
            n_gateways,
            duration_s=load_s,
            rate_per_s=OFFERED_PER_S * min(scale, 1.0) / N_PROCESSES,
            **singles,
        )
        measured = await plant.load(*specs)
        drained_s = await _drained(plant, measured)
        kept = plant.history_pairs()
        checks = await _checks(plant, measured, kept)
        checks["drained in time"] = drained_s <= DRAIN_S
        for load in measured.loads:
            load.stop()
        reference_us = await _reference_us(plant, n_devices, n_gateways, scale)
    return _result(measured, kept.size, drained_s, checks, reference_us)


async def _drained(plant: Plant, measured: Measured) -> float:
    """Wait until history and state have all that was sent, or nothing more comes; return for how long."""
    began_s = last_s = time.monotonic()
    n_before = -1
    while time.monotonic() - last_s < DRAIN_S:
        n_rows = await asyncio.to_thread(plant.n_in_history)
        if n_rows != n_before:
            n_before, last_s = n_rows, time.monotonic()
        if n_rows >= measured.n_readings:
            break
        await asyncio.sleep(0.5)
    return last_s - began_s


async def _checks(
    plant: Plant, measured: Measured, kept: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> dict[str, bool]:
    sent = measured.pairs("sent")
    last_seq = await plant.bus.last_seq("READINGS")
    await plant.until(lambda: plant.folded_seq() >= last_seq, DRAIN_S, "the fold")
    await plant.until(lambda: not plant.seen.ingest_missing(), DRAIN_S, "the counters")
    totals = plant.seen.ingest_totals()
    return {
        "history holds what was sent and nothing else": bool(np.isin(kept, sent, kind="sort").all()),
        "history holds it once": np.unique(kept).size == kept.size,
        "all that was sent is in history": kept.size == measured.n_readings,
        "the fleet's state took each reading once": totals["kept"] == kept.size,
    }


async def _reference_us(plant: Plant, n_devices: int, n_gateways: int, scale: float) -> float:
    """Return the CPU that the plain subscriber takes for a message."""
    facts = plant.facts
    command = [sys.executable, "-m", "unisono.main.bench.ingest_reference", facts.nats_url]
    process = await asyncio.create_subprocess_exec(
        *(*command, facts.core_user, facts.core_password, str(n_devices)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    specs = plant.specs(
        1,
        n_gateways,
        form="single",
        qos=0,
        n_devices=n_devices,
        duration_s=REFERENCE_S * min(scale, 1.0) + 1.0,
        rate_per_s=REFERENCE_PER_S * min(scale, 1.0),
    )
    measured = await plant.load(*specs)
    for load in measured.loads:
        load.stop()
    await asyncio.sleep(1.0)
    told, _ = await process.communicate(b"\n")
    found = json.loads(told)
    return float(1e6 * found["cpu_s"] / found["n_messages"])


def _result(
    measured: Measured, n_kept: int, drained_s: float, checks: dict[str, bool], reference_us: float
) -> BenchResult:
    n = measured.n_readings
    cpu_us = {name: 1e6 * measured.cpu_s[name] / n for name in MEASURED}
    details: dict[str, float | int | str] = {f"{name}_us_per_message": value for name, value in cpu_us.items()}
    load_s = max(load.sent.ended_ns for load in measured.loads) - min(load.sent.began_ns for load in measured.loads)
    return BenchResult(
        name="ingest",
        figures=(
            Figure(
                name="singles at QoS 0, kept",
                value=n_kept / (load_s / 1e9),
                unit="messages/s",
                better="higher",
                target=TARGET_PER_S,
            ),
            Figure(
                name="front's CPU a message",
                value=cpu_us["front"],
                unit="us",
                reference=reference_us,
                reference_name="nats-py, json.loads, scalar numpy writes",
                ratio_target=RATIO_TARGET,
            ),
        ),
        checks=checks,
        sizes={"messages": n, "kept": n_kept},
        details=details
        | {
            "publishers_us_per_message": 1e6 * sum(load.sent.cpu_s for load in measured.loads) / n,
            "load_s": load_s / 1e9,
            "drained_s": drained_s,
        },
    )
