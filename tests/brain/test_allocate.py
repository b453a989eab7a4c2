from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.fleet.builders import record, table_of
from unisono.brain.dispatch.allocate import merit_order, pro_rata, snap, soc_fair
from unisono.brain.dispatch.members import FREE, Members, new_members
from unisono.brain.dispatch.repair import JUMPERS_MAX, repair
from unisono.fleet.table import FleetTable
from unisono.model.ratings import Ratings

# reach, merit, on-off?, least power, state of charge, mode
MEMBER = st.tuples(
    st.floats(0, 5000, width=32),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from([0.0, 1500.0]),
    st.floats(0.0625, 0.9375, width=32),
    st.sampled_from([0, 1, 1, 1]),
)
FLEET = st.lists(MEMBER, min_size=1, max_size=JUMPERS_MAX)
# The same with jumps that are large beside the need: all of them FREE.
JUMPING = st.lists(
    st.tuples(
        st.sampled_from([2000.0, 20_000.0, 25_000.0, 40_000.0]),
        st.integers(0, 5),
        st.booleans(),
        st.sampled_from([0.0, 2000.0, 20_000.0]),
        st.floats(0.0625, 0.9375, width=32),
        st.just(1),
    ),
    min_size=1,
    max_size=JUMPERS_MAX,
)


def build(fleet: list, *, all_smooth: bool = False, all_free: bool = False) -> tuple[FleetTable, Members]:
    records = []
    for k, (_, merit, is_on_off, least_w, _, _) in enumerate(fleet):
        ratings = Ratings(
            power_max_w=5000.0,
            power_min_w=-5000.0,
            energy_capacity_wh=10_000.0,
            is_on_off=is_on_off and not all_smooth,
            power_step_min_w=0.0 if all_smooth else least_w,
        )
        records.append(record(k + 1, merit_micros_per_kwh=merit, ratings=ratings))
    table = table_of(*records)
    members = new_members(np.arange(len(fleet), dtype=np.int32), table.nameplate, table.picture, table.leases)
    members.reach_w[:] = [m[0] for m in fleet]
    members.mode[:] = [FREE if all_free else m[5] for m in fleet]
    table.picture.soc_frac[: len(fleet)] = [m[4] for m in fleet]
    return table, members


def shared_out(need_w: float, sign: int, policy: str, table: FleetTable, members: Members) -> float:
    """Share the need out as the plant does; return what is left."""
    if policy == "merit_order":
        merit_order(need_w, members)
    elif policy == "pro_rata":
        pro_rata(need_w, members)
    else:
        soc_fair(need_w, sign, members, table.nameplate, table.picture)
    snap(sign, members)
    return repair(sign, need_w, members)


def jumps_of(table: FleetTable, members: Members) -> list[tuple[float, float]]:
    """Return the least and the most that each member gives when it gives anything."""
    return [
        (0.0 if row_least_w == 0.0 and not is_on_off else reach_w if is_on_off else min(row_least_w, reach_w), reach_w)
        for reach_w, row_least_w, is_on_off, mode in zip(
            members.reach_w.tolist(),
            table.nameplate.power_step_min_w.tolist(),
            table.nameplate.is_on_off.tolist(),
            members.mode.tolist(),
            strict=False,
        )
        if mode == FREE and reach_w > 0.0
    ]


def slow_nearest(need_w: float, devices: list[tuple[float, float]]) -> float:
    """Return how near any choice of who runs comes to the need: every subset of those who jump is tried."""
    smooth_w = sum(most for least, most in devices if least == 0.0)
    spans = {(0.0, smooth_w)}
    for least, most in devices:
        if least > 0.0:
            spans |= {(low + least, high + most) for low, high in spans}
    return min(max(low - need_w, need_w - high, 0.0) for low, high in spans)


def slow_merit_order(need_w: float, fleet: list) -> list[float]:
    shares, left_w = [0.0] * len(fleet), need_w
    for k in sorted(range(len(fleet)), key=lambda k: (fleet[k][1], k)):
        reach_w, _, is_on_off, _, _, mode = fleet[k]
        if mode != FREE or left_w <= 0.0:
            continue
        take_w = reach_w if is_on_off and left_w >= reach_w else 0.0 if is_on_off else min(reach_w, left_w)
        shares[k] = take_w
        left_w -= take_w
    return shares


@given(FLEET, st.floats(0, 40_000))
def test_merit_order_agrees_with_its_slow_twin(fleet: list, need_w: float) -> None:
    _, members = build(fleet)
    left_w = merit_order(need_w, members)
    expected = slow_merit_order(need_w, fleet)
    assert members.share_w.tolist() == pytest.approx(expected, abs=0.01)
    assert left_w == pytest.approx(need_w - sum(expected), abs=0.05)


@given(FLEET, st.floats(0, 40_000))
def test_pro_rata_gives_everyone_the_same_part(fleet: list, need_w: float) -> None:
    _, members = build(fleet, all_smooth=True)
    pro_rata(need_w, members)
    reach_w = np.where(members.mode == FREE, members.reach_w, 0.0).astype(float)
    part = min(1.0, need_w / reach_w.sum()) if reach_w.sum() > 0 else 0.0
    assert members.share_w.tolist() == pytest.approx((part * reach_w).tolist(), abs=0.01)


@given(FLEET, st.floats(0, 40_000), st.sampled_from([1, -1]))
def test_soc_fair_levels_the_stores(fleet: list, need_w: float, sign: int) -> None:
    """The slow twin is a bisection on the level."""
    table, members = build(fleet, all_smooth=True, all_free=True)
    soc_fair(need_w, sign, members, table.nameplate, table.picture)
    reach_w = members.reach_w.astype(float)
    soc = sign * np.array([m[4] for m in fleet])
    low, high = -3.0, 3.0
    for _ in range(100):
        level = (low + high) / 2
        given_w = np.clip((soc - level) * 10_000.0, 0.0, reach_w)
        low, high = (level, high) if given_w.sum() > min(need_w, reach_w.sum()) else (low, level)
    assert members.share_w.tolist() == pytest.approx(given_w.tolist(), abs=1.5)


@given(FLEET, st.floats(0, 40_000), st.sampled_from(["merit_order", "pro_rata", "soc_fair"]), st.sampled_from([1, -1]))
def test_no_policy_breaks_a_device_and_all_come_close(fleet: list, need_w: float, policy: str, sign: int) -> None:
    table, members = build(fleet)
    members.reach_w[members.reach_w < 1500.0] = 0.0
    left_w = shared_out(need_w, sign, policy, table, members)
    n = len(fleet)
    share_w, reach_w = members.share_w, members.reach_w
    assert (share_w[members.mode != FREE] == 0.0).all()
    assert (share_w >= 0.0).all()
    assert (share_w <= reach_w + 0.01).all()
    is_on_off = table.nameplate.is_on_off[:n] == 1
    assert np.isin(share_w[is_on_off], np.append(reach_w[is_on_off], 0.0)).all()
    least_w = table.nameplate.power_step_min_w[:n]
    assert ((share_w == 0.0) | (share_w >= least_w - 0.01) | is_on_off).all()
    assert left_w == pytest.approx(need_w - share_w.astype(float).sum(), abs=0.1)
    assert abs(left_w) <= slow_nearest(need_w, jumps_of(table, members)) + 1.0


@given(JUMPING, st.floats(0, 150_000), st.sampled_from(["merit_order", "pro_rata", "soc_fair"]))
def test_no_way_in_which_devices_can_jump_comes_nearer(fleet: list, need_w: float, policy: str) -> None:
    table, members = build(fleet)
    left_w = shared_out(need_w, 1, policy, table, members)
    assert abs(left_w) <= slow_nearest(need_w, jumps_of(table, members)) + 1.0


@pytest.mark.parametrize("policy", ["merit_order", "pro_rata", "soc_fair"])
def test_small_devices_make_up_what_the_least_power_of_large_ones_can_not(policy: str) -> None:
    plants = [(40_000.0, 1, False, 20_000.0, 0.5, 1)] * 2
    small = [(2000.0, 2, False, 0.0, 0.5, 1)] * 6
    table, members = build(plants + small)
    assert shared_out(30_000.0, 1, policy, table, members) == pytest.approx(0.0, abs=0.5)
    switched = [(20_000.0, 1, True, 0.0, 0.5, 1)] * 2
    table, members = build(switched + small)
    assert shared_out(30_000.0, 1, policy, table, members) == pytest.approx(0.0, abs=0.5)


def test_a_running_device_is_not_switched_off_for_a_little_less() -> None:
    table, members = build([(20_000.0, 1, True, 0.0, 0.5, 1)] + [(2000.0, 2, False, 0.0, 0.5, 1)] * 10)
    members.held_w[0] = 20_000.0
    left_w = shared_out(19_000.0, 1, "merit_order", table, members)
    assert members.share_w[0] == 20_000.0
    assert left_w == -1000.0
    assert shared_out(14_000.0, 1, "merit_order", table, members) == pytest.approx(0.0, abs=0.5)
    assert members.share_w[0] == 0.0


def test_of_a_large_fleet_with_least_powers_nothing_is_left_over() -> None:
    fleet = [(20_000.0 + k % 7 * 1000.0, k % 5, k % 3 == 0, 15_000.0, 0.5, 1) for k in range(3000)]
    for policy in ("merit_order", "pro_rata", "soc_fair"):
        table, members = build(fleet)
        assert abs(shared_out(21_234_567.0, 1, policy, table, members)) < 2.0


def test_ties_in_merit_go_to_the_older_device() -> None:
    _, members = build([(1000.0, 1, False, 0.0, 0.5, 1)] * 3)
    merit_order(1500.0, members)
    assert members.share_w.tolist() == [1000.0, 500.0, 0.0]
