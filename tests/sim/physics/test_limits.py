"""Energy is conserved and limits hold, whatever a device is asked: each kernel against random commands."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, strategies as st

from unisono.sim.physics import battery, block, chp, house, pv, vehicle, water

STEPS_S = st.sampled_from([1.0, 4.0, 10.0])


def wishes(least_w: float, most_w: float) -> st.SearchStrategy[list[float]]:
    """Commands, some beyond the rating, some missing."""
    return st.lists(
        st.one_of(st.just(math.nan), st.floats(1.5 * least_w - 10, 1.5 * most_w + 10)), min_size=1, max_size=40
    )


@given(wishes(-5000, 5000), st.floats(0.2, 1.0), STEPS_S, st.floats(-20, 45))
def test_a_battery_keeps_its_energy_its_rating_and_its_reserve(
    commands_w: list[float], soc: float, step_s: float, ambient_degc: float
) -> None:
    fixed = np.array([[5000.0], [10_000.0], [0.95], [0.2], [2500.0], [0.0], [0.0]])
    state = np.zeros((battery.N_STATES, 2, 1))
    state[battery.SOC] = soc
    power, twin = np.zeros(1), np.zeros(1)
    for command_w in commands_w:
        before_wh = state[battery.SOC, 0, 0] * 10_000.0
        was_w = float(power[0])
        command = np.array([command_w])
        battery.advance(state, fixed, command, np.zeros(1), np.array([ambient_degc]), power, twin, step_s)
        gained_wh = state[battery.SOC, 0, 0] * 10_000.0 - before_wh
        exported_wh = power[0] * step_s / 3600.0
        assert gained_wh + exported_wh <= 1e-6, "energy comes from nowhere"
        assert abs(power[0]) <= 5000.0 + 1e-6
        assert abs(power[0]) <= abs(was_w) + 2500.0 * step_s + 1e-6
        assert state[battery.SOC, 0, 0] <= 1.0 + 1e-12
        if soc >= 0.2:
            assert state[battery.SOC, 0, 0] >= 0.2 - 0.005
    assert twin[0] == 0.0, "the twin is never called"


@given(st.floats(0, 8000), wishes(0, 6000), STEPS_S)
def test_pv_never_gives_more_than_the_sun_or_its_inverter(sun_w: float, commands_w: list[float], step_s: float) -> None:
    fixed = np.zeros((pv.N_FIXED, 1))
    fixed[pv.AC_MAX] = 5000.0
    state, power, twin = np.zeros((pv.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    for command_w in commands_w:
        pv.advance(state, fixed, np.array([command_w]), np.array([sun_w]), power, twin, step_s)
        assert 0.0 <= power[0] <= twin[0] <= min(5000.0, sun_w)


@given(wishes(-7200, 7200), st.floats(0.05, 0.6), st.booleans(), STEPS_S)
def test_a_car_keeps_its_energy_its_least_current_and_its_reserve(
    commands_w: list[float], need_frac: float, gives_back: bool, step_s: float
) -> None:
    out_w = 7200.0 if gives_back else 0.0
    fixed = np.array([[7200.0], [out_w], [60_000.0], [0.9], [1440.0], [0.3], [3600.0], [0.9]])
    session = np.array([[0.0], [50_000.0], [need_frac]])
    state, power, twin = np.zeros((vehicle.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    now_s, before_wh = 0.0, (0.9 - need_frac) * 60_000.0
    for command_w in commands_w:
        now_s += step_s
        vehicle.advance(state, fixed, session, np.array([command_w]), power, twin, now_s, step_s)
        after_wh = state[vehicle.SOC, 0, 0] * 60_000.0
        assert after_wh - before_wh + power[0] * step_s / 3600.0 <= 1e-6, "energy comes from nowhere"
        assert -7200.0 - 1e-6 <= power[0] <= out_w + 1e-6
        room_w = max(0.0, 0.9 * 60_000.0 - before_wh) / 0.9 * 3600.0 / step_s
        assert power[0] >= 0.0 or power[0] <= -1440.0 + 1e-6 or room_w <= 1440.0 + 1e-6
        if power[0] > 0.0:
            assert state[vehicle.SOC, 0, 0] >= 0.3 - 1e-9
        before_wh = after_wh


def test_a_car_that_is_held_back_still_leaves_full_enough() -> None:
    fixed = np.array([[7200.0], [0.0], [60_000.0], [0.9], [1440.0], [0.0], [3600.0], [0.9]])
    session = np.array([[0.0], [6 * 3600.0], [0.3]])
    state, power, twin = np.zeros((vehicle.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    for k in range(1, 6 * 900):
        vehicle.advance(state, fixed, session, np.array([0.0]), power, twin, 4.0 * k, 4.0)
    assert state[vehicle.SOC, 0, 0] >= 0.9 - 1e-6
    assert twin[0] == 0.0, "the twin was full long ago"


@given(wishes(-4500, 0), st.floats(0, 12), STEPS_S)
def test_a_tank_keeps_its_heat_and_its_bounds(commands_w: list[float], draw_l_per_min: float, step_s: float) -> None:
    fixed = np.array([[4500.0], [200.0], [0.0], [52.0], [5.0], [43.0], [62.0]])
    state, power, twin = np.zeros((water.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    state[water.UPPER], state[water.LOWER] = 52.0, 48.0
    heat = np.array([water.UPPER_SHARE, 1.0 - water.UPPER_SHARE]) * 200.0 * water.WH_PER_L_K
    for command_w in commands_w:
        before_wh = float(heat @ state[: water.LOWER + 1, 0, 0])
        upper = float(state[water.UPPER, 0, 0])
        water.advance(state, fixed, np.array([command_w]), np.array([draw_l_per_min]), 12.0, power, twin, step_s)
        drawn_wh_k = min(draw_l_per_min * step_s / 60.0 * water.WH_PER_L_K, 0.5 * heat[0])
        # With no standing loss: heat gained is the element's less what left with the water (lower node feeds upper).
        gained_wh = float(heat @ state[: water.LOWER + 1, 0, 0]) - before_wh
        assert gained_wh <= -power[0] * step_s / 3600.0 - drawn_wh_k * 0.0 + 1e-6 or upper < 12.0
        assert power[0] in {0.0, -4500.0}
        assert 11.0 <= state[water.LOWER, 0, 0] <= 63.0


@given(wishes(-3000, 0), st.floats(-15, 40))
def test_a_compressor_keeps_its_minimum_times_whatever_is_asked(commands_w: list[float], ambient_degc: float) -> None:
    fixed = np.zeros((house.N_FIXED, 1))
    for fact, value in {
        house.P_COMPRESSOR: 3000.0, house.COP: 3.0, house.UA: 220.0, house.H_MASS: 1300.0, house.C_AIR: 3e6,
        house.C_MASS: 3e7, house.HEAT_SET: 20.5, house.COOL_SET: 24.0, house.BAND: 1.0, house.LOW: 18.5,
        house.HIGH: 26.0, house.MIN_ON_S: 180.0, house.MIN_OFF_S: 300.0,
    }.items():  # fmt: skip
        fixed[fact] = value
    state, power, twin = np.zeros((house.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    state[house.AIR], state[house.MASS], state[house.SINCE_S], state[house.MODE] = 21.0, 21.0, 3600.0, house.HEATS
    since_s, was_on = 3600.0, False
    for command_w in commands_w * 5:
        for _ in range(12):
            house.advance(state, fixed, np.array([command_w]), np.zeros(1), np.array([ambient_degc]), power, twin, 10.0)
            is_on = power[0] < 0.0
            if is_on != was_on:
                assert since_s >= (180.0 if was_on else 300.0)
                since_s = 0.0
            since_s, was_on = since_s + 10.0, is_on


def test_a_house_alone_stays_within_its_comfort_band() -> None:
    fixed = np.array(
        [
            [3000.0],
            [3.0],
            [220.0],
            [1300.0],
            [3e6],
            [3e7],
            [20.5],
            [24.0],
            [1.0],
            [18.5],
            [26.0],
            [180.0],
            [300.0],
            [0.0],
        ]
    )
    state, power, twin = np.zeros((house.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    state[house.AIR], state[house.MASS], state[house.SINCE_S], state[house.MODE] = 20.5, 20.5, 3600.0, house.HEATS
    air_degc = []
    for _ in range(8640):
        house.advance(state, fixed, np.array([0.0]), np.zeros(1), np.array([0.0]), power, twin, 10.0)
        air_degc.append((state[house.AIR, 0, 0], state[house.AIR, 1, 0]))
    held, alone = np.array(air_degc).T
    assert held.min() > 18.0, "asked to stay off, it still saves the owner's comfort"
    assert alone.min() > 19.5
    assert alone.max() < 22.0


@given(st.floats(0, 100_000), wishes(-100_000, 0), STEPS_S)
def test_a_block_load_sheds_no_more_than_it_takes_and_owes_what_it_shed(
    base_w: float, commands_w: list[float], step_s: float
) -> None:
    fixed = np.array([[100_000.0], [8.0], [math.inf], [0.5], [3600.0]])
    state, power, twin = np.zeros((block.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    for command_w in commands_w:
        owed_wh = state[block.OWED_WH, 0, 0]
        block.advance(state, fixed, np.array([command_w]), np.array([-base_w]), power, twin, step_s)
        assert -100_000.0 - 1e-6 <= power[0] <= 0.0
        shed_wh = max(0.0, power[0] + base_w) * step_s / 3600.0
        back_wh = max(0.0, -power[0] - base_w) * step_s / 3600.0
        assert math.isclose(state[block.OWED_WH, 0, 0], max(0.0, owed_wh + 0.5 * shed_wh - back_wh), abs_tol=1e-3)
    assert twin[0] == -base_w


def test_a_shed_block_comes_back_in_the_hour_after() -> None:
    fixed = np.array([[100_000.0], [8.0], [math.inf], [0.5], [7200.0]])
    state, power, twin = np.zeros((block.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    base = np.array([-60_000.0])
    for _ in range(900):
        block.advance(state, fixed, np.array([0.0]), base, power, twin, 4.0)
    assert power[0] == 0.0
    block.advance(state, fixed, np.array([math.nan]), base, power, twin, 4.0)
    assert power[0] < -60_000.0, "rebound"
    for _ in range(20_000):
        block.advance(state, fixed, np.array([math.nan]), base, power, twin, 4.0)
    assert abs(power[0] - twin[0]) < 1.0, "and then it is over"


@given(wishes(0, 20_000), st.floats(0, 20_000))
def test_an_engine_runs_between_half_and_full_power_or_not_at_all(commands_w: list[float], base_w: float) -> None:
    fixed = np.array([[20_000.0], [0.5], [1000.0], [600.0], [300.0]])
    state, power, twin = np.zeros((chp.N_STATES, 2, 1)), np.zeros(1), np.zeros(1)
    state[chp.SINCE_S] = 3600.0
    was_w = 0.0
    for command_w in commands_w:
        for _ in range(15):
            chp.advance(state, fixed, np.array([command_w]), np.array([base_w]), power, twin, 4.0)
            assert 0.0 <= power[0] <= 20_000.0
            assert abs(power[0] - was_w) <= 4000.0 + 1e-6
            was_w = float(power[0])
        settled_w = state[chp.IS_ON, 0, 0]
        assert settled_w == 0.0 or power[0] >= 10_000.0 - 1e-6
