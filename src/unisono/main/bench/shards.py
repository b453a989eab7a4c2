"""The same region and the same calls with 1, 2 and 4 shards, and what the coordinator itself costs.

Rehearsed: a state a shard and the coordinator between them. Checked: undisturbed, the sums over shards are those of one
shard in every cycle; by the region's own meters each dispatch has the energy that it asked for, within the bound that
holds for one shard; and when a shard's owner is gone for good, the others take over. The coordinator's work is measured
with made-up totals of up to a thousand shards, as bytes; the reference is to decode those bytes and no more.
"""

from __future__ import annotations

import math
import time
from typing import Final

import msgspec
import numpy as np

from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.scenario import ENERGY_ERROR_MAX_FRAC
from unisono.main.bench.shard_summaries import summary
from unisono.main.rehearse import Call, RehearsalSpec
from unisono.main.rehearse_shards import ShardedRehearsal, rehearse_shards
from unisono.model.totals import ShardTotals
from unisono.plant.coordinator import AWAY_AFTER_S, Coordinator
from unisono.sim.build import TTL_CLOUD_S
from unisono.sim.spec import WorldSpec

N_DEVICES: Final = 10_000
NUMBERS: Final = (1, 2, 4)
CALLS: Final = (
    Call(1200.0, 3000.0, 0.4, "pro_rata"),
    Call(3600.0, 5400.0, -0.35, "merit_order"),
)
DURATION_S: Final = 5700.0
# Until the first request (a minute before its start) nothing but the number of shards differs.
QUIET_S: Final = 1100.0
# Sums of the same float32 columns in another order.
SAME_FRAC: Final = 1e-9
# The owner of a shard is gone from here on.
GONE_S: Final = 1800.0
MANY: Final = (10, 100, 1000)
CYCLES: Final = 20
# A thousand shards are then told of in 0.1 s of a cycle of 4 s.
TARGET_US_PER_SHARD: Final = 100.0
# Of what bytes cost that must be read in any case.
RATIO_MAX: Final = 4.0
# Work per shard may not grow with their number.
GROWTH_MAX: Final = 1.5
HELD_FRAC: Final = 0.95
CYCLE_NS: Final = 4 * 10**9


def bench(options: BenchOptions) -> BenchResult:
    """Rehearse with each number of shards, then lose a shard, then measure the coordinator."""
    n_devices = options.n_devices or N_DEVICES
    world = WorldSpec(n_devices=n_devices)
    spec = RehearsalSpec(world=world, calls=CALLS, duration_s=DURATION_S, misbehave_at_s=600.0)
    rehearse_shards(RehearsalSpec(world=WorldSpec(n_devices=200), duration_s=60.0, calls=()), 1)
    seen = {n: rehearse_shards(spec, n) for n in NUMBERS}
    errors = {n: energy_errors(spec.calls, one) for n, one in seen.items()}
    lost = RehearsalSpec(world=world, calls=(Call(1200.0, 3000.0, 0.3),), duration_s=3000.0, misbehave_at_s=600.0)
    alone = rehearse_shards(lost, 2, is_there=lambda shard, at_s: shard == 0 or at_s < GONE_S)
    gone = rehearse_shards(lost, 1, is_there=lambda _, at_s: at_s < GONE_S)
    short_s = seconds_short(alone)
    costs = {n: coordinator_us(n) for n in MANY}
    most = MANY[-1]
    return BenchResult(
        name="shards",
        figures=(
            Figure(
                name=f"coordinator, {most} shards",
                value=costs[most][0],
                unit="us a shard and cycle",
                target=TARGET_US_PER_SHARD,
                reference=costs[most][1],
                reference_name="decoding the same totals, msgspec",
                ratio_target=RATIO_MAX,
            ),
            Figure(
                name="coordinator, growth of the work per shard",
                value=costs[most][0] / costs[MANY[1]][0],
                unit=f"x from {MANY[1]} to {most} shards",
                target=GROWTH_MAX,
            ),
            Figure(
                name="worst energy error",
                value=max(abs(error) for of_n in errors.values() for error in of_n),
                unit="of what was asked for",
                target=ENERGY_ERROR_MAX_FRAC,
                reference=max(map(abs, errors[1])),
                reference_name="with one shard",
            ),
            Figure(
                name="short after an owner is gone for good",
                value=short_s,
                unit="s",
                target=AWAY_AFTER_S + TTL_CLOUD_S,
            ),
        ),
        checks={
            **{f"{n} shards see what one sees": is_same(seen[1], seen[n]) for n in NUMBERS[1:]},
            **{f"{n} shards have devices each": min(seen[n].n_devices_of_shard) > 0 for n in NUMBERS},
            **{f"every invariant held with {n}": bool(one.ledger["every_invariant_held"]) for n, one in seen.items()},
            "no more broken than by a plant of one that is gone": no_more_broken(alone, gone),
            "one shard is told nothing": seen[1].n_shares_told == 0,
            "several are told shares": all(seen[n].n_shares_told > 0 for n in NUMBERS[1:]),
        },
        sizes={"devices": n_devices, "calls": len(CALLS), "cycles": len(seen[1].totals)},
        details={
            **{f"energy_errors_{n}": " ".join(f"{error:+.2%}" for error in of_n) for n, of_n in errors.items()},
            **{f"shares_told_{n}": seen[n].n_shares_told for n in NUMBERS},
            **{f"devices_{n}": " ".join(map(str, seen[n].n_devices_of_shard)) for n in NUMBERS},
            **{f"coordinator_us_{n}": us for n, (us, _) in costs.items()},
            "seed": world.seed,
        },
    )


def is_same(one: ShardedRehearsal, several: ShardedRehearsal) -> bool:
    """Return whether several shards, put together, say in each quiet cycle what one says."""
    n_quiet = round(QUIET_S / 4.0)
    same = [
        a.n_by_trust == b.n_by_trust
        and a.n_devices == b.n_devices
        and all(
            math.isclose(getattr(a, name), getattr(b, name), rel_tol=SAME_FRAC)
            for name in ("power_w", "up_w", "down_w", "dispatchable_up_w", "dispatchable_down_w", "power_sd_w")
        )
        for a, b in zip(one.totals[:n_quiet], several.totals[:n_quiet], strict=True)
    ]
    return len(same) == n_quiet and all(same)


def no_more_broken(one: ShardedRehearsal, other: ShardedRehearsal) -> bool:
    """Return whether each invariant was broken no more often in one than in the other.

    While nobody steers, a lease may hold a device where its site's load no longer lets it be: a minute at the most.
    """
    n_of_one, n_of_other = one.ledger["n_violations"], other.ledger["n_violations"]
    return all(n <= n_of_other[name] for name, n in n_of_one.items())


def energy_errors(calls: tuple[Call, ...], seen: ShardedRehearsal) -> list[float]:
    """Return, for each dispatch, true energy over its hold against the target's, less 1."""
    errors = []
    for call in calls:
        begin_s, end_s = call.start_s + call.ramp_s, call.end_s - call.ramp_s
        true_w = [value for at_s, value in seen.truths if begin_s <= at_s < end_s]
        asked_w = [value for at_s, value in seen.targets if begin_s <= at_s < end_s]
        errors.append(float(np.mean(true_w) / np.mean(asked_w) - 1.0))
    return errors


def seconds_short(seen: ShardedRehearsal) -> float:
    """Return from when the owner was gone to the last cycle of the hold that had less than it was to have, in truth."""
    target_w = max(value for at_s, value in seen.targets if at_s < GONE_S)
    short = [at_s for at_s, value in seen.truths if GONE_S <= at_s < 2880.0 and value < HELD_FRAC * target_w]
    return max(short, default=GONE_S) - GONE_S


def coordinator_us(n_shards: int) -> tuple[float, float]:
    """Return microseconds a shard and cycle: to take in and decide, and merely to decode; the best cycle of each."""
    rounds = [
        [msgspec.msgpack.encode(summary(shard, cycle, left_w=0.0)) for shard in range(n_shards)]
        for cycle in range(1, CYCLES + 1)
    ]
    decoder = msgspec.msgpack.Decoder(ShardTotals)
    coordinator = Coordinator(n_shards, 0)
    whole_s, decode_s = [], []
    for cycle, payloads in enumerate(rounds):
        began_s = time.perf_counter()
        for payload in payloads:
            coordinator.fold(decoder.decode(payload), cycle * CYCLE_NS)
        told = coordinator.decide(cycle * CYCLE_NS)
        whole_s.append(time.perf_counter() - began_s)
        assert len(told) == n_shards, "nobody holds what was told: each cycle has all of the work"
        began_s = time.perf_counter()
        for payload in payloads:
            decoder.decode(payload)
        decode_s.append(time.perf_counter() - began_s)
    return 1e6 * min(whole_s) / n_shards, 1e6 * min(decode_s) / n_shards
