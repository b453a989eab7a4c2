"""A target split over a million devices by each policy, on-off devices and least powers among them.

Measured is all that the plant does with a target: policy, snapping to what devices can run at, repair of the sum. The
reference is one read pass over the members' columns. Checked on the whole fleet: the policy against a twin in numpy and
plain Python, and the result against what each device can do and what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisono.brain.dispatch.allocate import merit_order, pro_rata, snap, soc_fair
from unisono.brain.dispatch.members import FREE, Members, new_members
from unisono.brain.dispatch.repair import MET_W, repair
from unisono.brain.dispatch.switches import KEEP_FRAC
from unisono.fleet.columns import Leases, Nameplate, Picture, allocate
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure, best_s
from unisono.main.bench.passes import read_pass_s

N_DEVICES: Final = 1_000_000
NEEDED_FRAC: Final = 0.6
ON_OFF_FRAC: Final = 0.3
LEAST_FRAC: Final = 0.2
STORE_FRAC: Final = 0.5
RATIO_TARGETS: Final = {"pro_rata": 3.0, "soc_fair": 12.0, "merit_order": 20.0}
SEED: Final = 7
BISECTIONS: Final = 60

Floats = NDArray[np.float64]


class Fleet(NamedTuple):
    """What is split over."""

    members: Members
    nameplate: Nameplate
    picture: Picture
    need_w: float


def bench(options: BenchOptions) -> BenchResult:
    """Measure each policy and check it."""
    n = options.n_devices or N_DEVICES
    fleet = _fleet(n)
    members = fleet.members
    policies: dict[str, tuple[Callable[[], float], Callable[[Fleet], Floats]]] = {
        "pro_rata": (lambda: pro_rata(fleet.need_w, members), _pro_rata_twin),
        "soc_fair": (
            lambda: soc_fair(fleet.need_w, 1, members, fleet.nameplate, fleet.picture),
            _soc_fair_twin,
        ),
        "merit_order": (lambda: merit_order(fleet.need_w, members), _merit_order_twin),
    }
    reference_s = read_pass_s(_columns(fleet))
    figures, checks, details = [], {}, {}
    for name, (policy, twin) in policies.items():
        policy()
        checks[f"{name} agrees with its twin"] = bool(np.allclose(members.share_w, twin(fleet), rtol=1e-5, atol=0.01))
        whole_s = best_s(lambda policy=policy: _whole(policy, fleet))  # type: ignore[misc]
        left_w = _whole(policy, fleet)
        checks |= {f"{name}: {what}": holds for what, holds in _holds(fleet, left_w).items()}
        details[f"{name}_policy_alone_ms"] = 1e3 * best_s(policy)
        figures.append(
            Figure(
                name=name,
                value=1e3 * whole_s,
                unit="ms",
                reference=1e3 * reference_s,
                reference_name="read pass over the members' columns",
                ratio_target=RATIO_TARGETS[name],
            )
        )
    return BenchResult(
        name="allocate",
        figures=tuple(figures),
        checks=checks,
        sizes={
            "devices": n,
            "on_off": int(members.is_on_off.sum()),
            "with_least_power": int((members.least_w > 0.0).sum()),
        },
        details={**details, "target_mw": fleet.need_w / 1e6},
    )


def _whole(policy: Callable[[], float], fleet: Fleet) -> float:
    policy()
    snap(1, fleet.members)
    return repair(1, fleet.need_w, fleet.members)


def _fleet(n_devices: int) -> Fleet:
    """Return a fleet from the seed: 1 to 10 kW each, one held device in ten, prices in 200 steps."""
    chance = np.random.default_rng(SEED)
    nameplate, picture = allocate(Nameplate, n_devices), allocate(Picture, n_devices)
    leases = allocate(Leases, n_devices)
    nameplate.device_no[:] = np.arange(1, n_devices + 1)
    nameplate.is_on_off[:] = chance.random(n_devices) < ON_OFF_FRAC
    is_smooth = nameplate.is_on_off == 0
    nameplate.power_step_min_w[:] = np.where(is_smooth & (chance.random(n_devices) < LEAST_FRAC), 1400.0, 0.0)
    is_store = is_smooth & (chance.random(n_devices) < STORE_FRAC)
    nameplate.energy_capacity_wh[:] = np.where(is_store, chance.uniform(5e3, 30e3, n_devices), 0.0)
    picture.soc_frac[:] = np.where(is_store, chance.uniform(0.2, 0.9, n_devices), np.nan)
    nameplate.merit_micros_per_kwh[:] = chance.integers(0, 200, n_devices)
    members = new_members(np.arange(n_devices, dtype=np.int32), nameplate, picture, leases)
    members.reach_w[:] = np.round(chance.uniform(1_000.0, 10_000.0, n_devices))
    members.held_w[:] = np.where(chance.random(n_devices) < 0.1, members.reach_w, 0.0)
    members.mode[:] = np.where(chance.random(n_devices) < 0.95, FREE, 0)
    is_free = members.mode == FREE
    return Fleet(members, nameplate, picture, NEEDED_FRAC * float(members.reach_w[is_free].sum(dtype=np.float64)))


def _columns(fleet: Fleet) -> list[NDArray[Any]]:
    members = fleet.members
    return [
        members.order, members.is_on_off, members.least_w, members.reference_w, members.held_w,
        members.reach_w, members.mode, members.share_w,
    ]  # fmt: skip


def _holds(fleet: Fleet, left_w: float) -> dict[str, bool]:
    """Return what must hold of the shares as they are sent."""
    members = fleet.members
    share_w, reach_w = members.share_w.astype(float), members.reach_w.astype(float)
    is_free = members.mode == FREE
    is_part = is_free & (share_w > 0.0) & (share_w < reach_w)
    return {
        "nobody beyond its reach": bool(np.all((share_w >= 0.0) & (share_w <= reach_w))),
        "on-off devices all or nothing": not bool(np.any(is_part & (members.is_on_off == 1))),
        "nobody below its least power": not bool(np.any(is_part & (share_w < members.least_w))),
        "what is asked for is given": abs(float(share_w[is_free].sum()) - fleet.need_w) <= MET_W + 0.01,
        "what is left is told": abs(float(share_w[is_free].sum()) + left_w - fleet.need_w) <= 0.01,
    }


def _switched(goal_w: float, members: Members) -> tuple[list[int], float]:
    """Return which on-off members are called up to ``goal_w`` in merit order, and what is left of it."""
    called, left_w = [], goal_w
    reach_w, held_w, mode = members.reach_w.tolist(), members.held_w.tolist(), members.mode.tolist()
    for k in members.order[members.is_on_off[members.order] == 1].tolist():
        if mode[k] == FREE and left_w >= (KEEP_FRAC * reach_w[k] if held_w[k] else reach_w[k]):
            called.append(k)
            left_w -= reach_w[k]
    return called, left_w


def _merit_order_twin(fleet: Fleet) -> Floats:
    members, left_w = fleet.members, fleet.need_w
    share_w = np.zeros(members.row.size)
    reach_w, held_w, mode = members.reach_w.tolist(), members.held_w.tolist(), members.mode.tolist()
    is_on_off = members.is_on_off.tolist()
    for k in members.order.tolist():
        if mode[k] != FREE or left_w <= 0.0:
            continue
        if is_on_off[k]:
            is_called = left_w >= (KEEP_FRAC * reach_w[k] if held_w[k] else reach_w[k])
            share_w[k] = reach_w[k] if is_called else 0.0
        else:
            share_w[k] = min(reach_w[k], left_w)
        left_w -= share_w[k]
    return share_w


def _pro_rata_twin(fleet: Fleet) -> Floats:
    members = fleet.members
    reach_w = np.where(members.mode == FREE, members.reach_w, 0.0).astype(float)
    is_on_off = members.is_on_off == 1
    common = fleet.need_w / reach_w.sum()
    called, left_w = _switched(common * reach_w[is_on_off].sum(), members)
    smooth_w = reach_w[~is_on_off].sum()
    share_w = np.where(is_on_off, 0.0, (common * smooth_w + left_w) / smooth_w * reach_w)
    share_w[called] = reach_w[called]
    return share_w


def _soc_fair_twin(fleet: Fleet) -> Floats:
    """Level the stores by bisection alone."""
    members = fleet.members
    reach_w = np.where(members.mode == FREE, members.reach_w, 0.0).astype(float)
    is_on_off = members.is_on_off == 1
    capacity_wh, soc_frac = fleet.nameplate.energy_capacity_wh.astype(float), fleet.picture.soc_frac.astype(float)
    is_store = ~is_on_off & (capacity_wh > 0.0) & np.isfinite(soc_frac)
    common = fleet.need_w / reach_w.sum()
    share_w = np.where(is_on_off | is_store, 0.0, common * reach_w)
    called, _ = _switched(common * reach_w[is_on_off].sum(), members)
    share_w[called] = reach_w[called]
    goal_w = fleet.need_w - share_w.sum()

    def poured_w(level: float) -> Floats:
        return np.where(is_store, np.clip((np.nan_to_num(soc_frac) - level) * capacity_wh, 0.0, reach_w), 0.0)

    low, high = -2.0, 1.0
    for _ in range(BISECTIONS):
        level = 0.5 * (low + high)
        low, high = (level, high) if poured_w(level).sum() > goal_w else (low, level)
    return share_w + poured_w(0.5 * (low + high))
