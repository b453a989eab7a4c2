"""A target split over a million devices in merit order, on-off devices among them.

The reference is the plain twin in numpy for continuous devices: running sums in the same order. Checked against it,
against a loop in plain Python over a part of the fleet, and on the whole fleet: nobody beyond its reach, on-off devices
all or nothing, what was given and what was left adding up.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.brain.dispatch.allocate import KEEP_FRAC, merit_order
from unisono.brain.dispatch.members import FREE, Members, new_members
from unisono.fleet.columns import Leases, Nameplate, Picture, allocate
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure, best_s

N_DEVICES: Final = 1_000_000
# The twin in Python takes a second for so many.
N_CHECKED: Final = 20_000
NEEDED_FRAC: Final = 0.6
ON_OFF_FRAC: Final = 0.3
# A cycle is 1 to 4 s; ten milliseconds leave it to everything else.
TARGET_MS: Final = 10.0
SEED: Final = 7


def bench(options: BenchOptions) -> BenchResult:
    """Measure the split and check it."""
    n_devices = options.n_devices or N_DEVICES
    members, nameplate = _fleet(n_devices)
    need_w = NEEDED_FRAC * float(members.reach_w.sum(dtype=np.float64))
    figure_s = best_s(lambda: merit_order(need_w, members, nameplate))
    left_w = merit_order(need_w, members, nameplate)
    reference_s = best_s(lambda: _shares_of_continuous(need_w, members.reach_w, members.order))
    is_on_off = nameplate.is_on_off == 1
    given_w = float(members.share_w.sum(dtype=np.float64))
    part = (members.share_w > 0.0) & (members.share_w < members.reach_w)
    return BenchResult(
        name="allocate",
        figures=(
            Figure(
                name="merit order",
                value=1e3 * figure_s,
                unit="ms",
                target=TARGET_MS,
                reference=1e3 * reference_s,
                reference_name="numpy, running sums, continuous devices only",
            ),
        ),
        checks={
            "agrees with a plain loop": _agrees_with_loop(min(n_devices, N_CHECKED)),
            "agrees with numpy where all are continuous": _agrees_with_numpy(min(n_devices, N_CHECKED)),
            "nobody beyond its reach": bool(np.all((members.share_w >= 0.0) & (members.share_w <= members.reach_w))),
            "on-off devices all or nothing": not bool(np.any(part & is_on_off)),
            "given and left add up": abs(given_w + left_w - need_w) <= 1e-6 * need_w,
        },
        sizes={"devices": n_devices},
        details={
            "ns_per_device": 1e9 * figure_s / n_devices,
            "target_mw": need_w / 1e6,
            "left_w": left_w,
            "on_off_frac": ON_OFF_FRAC,
        },
    )


def _fleet(n_devices: int, on_off_frac: float = ON_OFF_FRAC) -> tuple[Members, Nameplate]:
    """Return a fleet from the seed: 1 to 10 kW each, one held device in ten, prices in 200 steps."""
    chance = np.random.default_rng(SEED)
    nameplate, picture = allocate(Nameplate, n_devices), allocate(Picture, n_devices)
    leases = allocate(Leases, n_devices)
    nameplate.device_no[:] = np.arange(1, n_devices + 1)
    nameplate.is_on_off[:] = chance.random(n_devices) < on_off_frac
    nameplate.merit_micros_per_kwh[:] = chance.integers(0, 200, n_devices)
    members = new_members(np.arange(n_devices, dtype=np.int32), nameplate, picture, leases)
    members.reach_w[:] = np.round(chance.uniform(1_000.0, 10_000.0, n_devices))
    members.held_w[:] = np.where(chance.random(n_devices) < 0.1, members.reach_w, 0.0)
    members.mode[:] = FREE
    return members, nameplate


def _shares_of_continuous(need_w: float, reach_w: NDArray[np.float32], order: NDArray[np.int32]) -> NDArray[np.float32]:
    in_order_w = reach_w[order].astype(np.float64)
    before_w = np.cumsum(in_order_w) - in_order_w
    share_w = np.empty_like(reach_w)
    share_w[order] = np.clip(need_w - before_w, 0.0, in_order_w)
    return share_w


def _agrees_with_numpy(n_devices: int) -> bool:
    members, nameplate = _fleet(n_devices, on_off_frac=0.0)
    need_w = NEEDED_FRAC * float(members.reach_w.sum(dtype=np.float64))
    merit_order(need_w, members, nameplate)
    return bool(np.array_equal(members.share_w, _shares_of_continuous(need_w, members.reach_w, members.order)))


def _agrees_with_loop(n_devices: int) -> bool:
    members, nameplate = _fleet(n_devices)
    need_w = NEEDED_FRAC * float(members.reach_w.sum(dtype=np.float64))
    merit_order(need_w, members, nameplate)
    left_w = need_w
    for member in members.order.tolist():
        reach_w = float(members.reach_w[member])
        share_w = min(reach_w, max(left_w, 0.0))
        if nameplate.is_on_off[member]:
            least_w = KEEP_FRAC * reach_w if members.held_w[member] else reach_w
            share_w = reach_w if left_w > 0.0 and left_w >= least_w else 0.0
        if share_w != members.share_w[member]:
            return False
        left_w -= share_w
    return True
