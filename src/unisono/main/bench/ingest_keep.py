"""What gateways are told is kept: four ways in, each at its own pace, each acknowledged reading read back.

Singles at QoS 1 (PUBACK), batches of 100 with the gateway's sequence over MQTT (receipt; packed and JSON), singles
over HTTP (202). Publishers keep a window of unanswered messages, so that the platform sets the pace. Checked for each
way: all that was acknowledged is on the stream, nothing is there that was not sent, and the fleet's state took each
reading once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from unisono.base.errors import Unavailable
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.ingest_plant import MEASURED, Measured, Plant

N_DEVICES: Final = 100_000
N_GATEWAYS: Final = 500
LOAD_S: Final = 10.0
SETTLE_S: Final = 90.0
# What a hundred gateways declare that send all that the platform can take.
PERIOD_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Way:
    """One way in; ``window`` messages of each of ``n_gateways`` may be unanswered."""

    name: str
    form: str
    qos: int
    target_per_s: float
    window: int
    n_gateways: int
    unit: str = "readings/s"


WAYS: Final = (
    Way("QoS 1 singles", "single", 1, 20_000.0, 20, 100),
    Way("packed batches", "packed", 0, 1_500_000.0, 8, 100),
    Way("JSON batches", "json", 0, 400_000.0, 4, 100),
    Way("HTTP singles", "http", 1, 15_000.0, 1, 500, "requests/s"),
)


def bench(options: BenchOptions) -> BenchResult:
    """Measure each way on one platform."""
    return asyncio.run(_bench(options))


async def _bench(options: BenchOptions) -> BenchResult:
    n_gateways = min(N_GATEWAYS, max(2, (options.n_devices or N_DEVICES) // 200))
    n_devices = (options.n_devices or N_DEVICES) // n_gateways * n_gateways
    load_s = LOAD_S * min(1.0, n_devices / N_DEVICES) + 1.0
    figures: list[Figure] = []
    checks: dict[str, bool] = {}
    sizes: dict[str, int] = {}
    details: dict[str, float | int | str] = {}
    async with Plant.running(options.folder, n_devices=n_devices, n_gateways=n_gateways, period_s=PERIOD_S) as plant:
        for way in WAYS:
            specs = plant.specs(
                1,
                n_gateways,
                form=way.form,
                qos=way.qos,
                n_devices=n_devices,
                duration_s=load_s,
                window=way.window,
                gateways=(1, min(way.n_gateways, n_gateways) + 1),
            )
            kept_before = plant.seen.ingest_totals()["kept"]
            measured = await plant.load(*specs)
            kept_s = await _kept_s(plant, measured) if way.form == "single" else 0.0
            checks |= await _checks(plant, way, measured, kept_before)
            for load in measured.loads:
                load.stop()
            sent = measured.loads[0].sent
            n = sent.n_acknowledged
            # At QoS 1 the broker acknowledges first: what counts is when all of it is on our own stream.
            took_s = max(kept_s, (sent.ended_ns - sent.began_ns) / 1e9)
            figures.append(
                Figure(name=way.name, value=n / took_s, unit=way.unit, better="higher", target=way.target_per_s)
            )
            sizes[f"{way.name}, acknowledged"] = n
            details |= {f"{way.name}, {name}, us": 1e6 * measured.cpu_s[name] / max(n, 1) for name in MEASURED}
            details[f"{way.name}, publishers, us"] = 1e6 * sent.cpu_s / max(n, 1)
    return BenchResult(name="ingest --keep", figures=tuple(figures), checks=checks, sizes=sizes, details=details)


async def _kept_s(plant: Plant, measured: Measured) -> float:
    """Return the seconds from the load's begin until the broker's own stream of acknowledged messages is empty."""
    jetstream = plant.bus.client.jetstream()
    began_s = measured.loads[0].sent.began_ns / 1e9
    while (await jetstream.stream_info("$MQTT_msgs")).state.messages:
        if time.time() - began_s > SETTLE_S:
            raise Unavailable("the front", f"has not kept what was acknowledged after {SETTLE_S:.0f} s")
        await asyncio.sleep(0.1)
    return time.time() - began_s


async def _checks(plant: Plant, way: Way, measured: Measured, kept_before: int) -> dict[str, bool]:
    """Read the stream back; what was acknowledged at QoS 1 may still be on its way from the server's own stream."""
    acknowledged, sent = measured.pairs("acknowledged"), measured.pairs("sent")
    kept = await plant.stream_pairs(measured.seq_before)
    waited_s = 0.0
    while waited_s < SETTLE_S and not np.isin(acknowledged, kept).all():
        await asyncio.sleep(1.0)
        waited_s += 1.0
        kept = await plant.stream_pairs(measured.seq_before)
    distinct = np.unique(kept)
    last_seq = await plant.bus.last_seq("READINGS")
    await plant.until(lambda: plant.folded_seq() >= last_seq, SETTLE_S, "the fold")
    # Counters are told every other cycle.
    await asyncio.sleep(10.0)
    n_counted = plant.seen.ingest_totals()["kept"] - kept_before
    return {
        f"{way.name}: something was acknowledged": acknowledged.size > 0,
        f"{way.name}: all that was acknowledged is on the stream": bool(np.isin(acknowledged, distinct).all()),
        f"{way.name}: nothing is on the stream that was not sent": bool(np.isin(distinct, sent).all()),
        f"{way.name}: the state took each reading once": n_counted == distinct.size,
    }
