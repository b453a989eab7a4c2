from __future__ import annotations

import numpy as np
import pytest

from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_S
from unisono.model.technology import Technology
from unisono.sim.build import build_roster
from unisono.sim.physics import water
from unisono.sim.roster import HTTP_CLOUD
from unisono.sim.spec import WorldSpec
from unisono.sim.world import World

# 2026-11-20T23:00Z: late afternoon over the states.
START_NS = 1_795_215_600 * NS_PER_S
SMALL = WorldSpec(seed=3, n_devices=400, spin_up_h=2.0)


def run(world: World, n_steps: int, step_s: float = 4.0) -> World:
    for _ in range(n_steps):
        world.advance(world.now_ns + round(step_s * NS_PER_S))
    return world


def test_the_twin_equals_the_device_that_is_never_called() -> None:
    world = run(World(SMALL, START_NS), 900)
    np.testing.assert_array_equal(world.power_w, world.twin_w)


def test_one_seed_makes_one_world_bit_for_bit_and_another_seed_another() -> None:
    one, same = (run(World(SMALL, START_NS), 50) for _ in range(2))
    for t, state in one.state.items():
        np.testing.assert_array_equal(state, same.state[t])
    other = run(World(WorldSpec(seed=4, n_devices=400, spin_up_h=2.0), START_NS), 50)
    assert not np.array_equal(one.power_w, other.power_w)


def test_the_outside_does_not_depend_on_the_length_of_steps() -> None:
    """What is drawn from chance is the same however one walks; only the integration differs a little."""
    fine, coarse = run(World(SMALL, START_NS), 240, 1.0), run(World(SMALL, START_NS), 60, 4.0)
    sun = fine.roster.rows_of[Technology.PV]
    np.testing.assert_array_equal(fine.power_w[sun], coarse.power_w[sun])
    tanks = (fine.state[Technology.WATER_HEATER], coarse.state[Technology.WATER_HEATER])
    assert np.abs(tanks[0][water.UPPER] - tanks[1][water.UPPER]).max() < 2.0


def test_a_called_battery_moves_and_its_twin_does_not() -> None:
    world = World(SMALL, START_NS)
    rows = world.roster.rows_of[Technology.BESS]
    promised_w = world.deliverable_up_w(60.0)[rows]
    world.commanded_w[rows] = world.roster.nameplate.power_max_w[rows]
    run(world, 10)
    delivered_w = (world.power_w - world.twin_w)[rows]
    np.testing.assert_allclose(delivered_w, promised_w, rtol=0.02, atol=100.0)
    others = np.ones(400, bool)
    others[rows] = False
    np.testing.assert_array_equal(world.power_w[others], world.twin_w[others])


def test_what_is_deliverable_can_really_be_held() -> None:
    world = World(SMALL, START_NS)
    promised_w = world.deliverable_up_w(300.0).sum()
    plate = world.roster.nameplate
    world.commanded_w[:] = np.where(plate.power_max_w > 0, plate.power_max_w, 0.0)
    world.commanded_w[world.roster.rows_of[Technology.PV]] = np.nan
    run(world, 30)
    held_w = []
    for _ in range(45):
        run(world, 1)
        held_w.append((world.power_w - world.twin_w).sum())
    assert np.mean(held_w) == pytest.approx(promised_w, rel=0.1)


def test_the_roster_is_what_the_spec_says() -> None:
    roster = build_roster(WorldSpec(seed=5))
    n_by_technology = {t: rows.stop - rows.start for t, rows in roster.rows_of.items()}
    assert n_by_technology[Technology.BESS] == 3000
    assert sum(n_by_technology.values()) == 10_000
    assert roster.size_of_site.size == 4000
    assert (roster.gateway_kind != HTTP_CLOUD).sum() <= 1000
    behind = np.bincount(roster.cloud_of_gateway[roster.gateway_of_row] + 1)
    assert behind[1:].tolist() == [1000, 1000, 1000]
    assert len({roster.vendor[row] for row in np.flatnonzero(roster.cloud_of_gateway[roster.gateway_of_row] == 0)}) == 1
    assert np.unique(roster.gateway_of_row).size == roster.n_gateways, "no gateway without a device"
    plate = roster.nameplate
    bess = roster.rows_of[Technology.BESS]
    assert plate.power_max_w[bess].min() >= 5000
    assert plate.power_max_w[bess].max() <= 11_500
    assert plate.energy_capacity_wh[bess].min() >= 10_000
    assert plate.energy_capacity_wh[bess].max() <= 27_000
    both = np.isin(roster.site_of_row[bess], roster.site_of_row[roster.rows_of[Technology.PV]]).mean()
    assert both > 0.6, "batteries stand beside PV"


@pytest.mark.parametrize("n_devices", [1, 2, 3, 17, 101])
def test_a_world_of_any_size_can_be_built_and_run(n_devices: int) -> None:
    world = run(World(WorldSpec(seed=1, n_devices=n_devices, spin_up_h=0.1), START_NS), 3)
    assert world.power_w.size == n_devices
    assert np.isfinite(world.power_w).all()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (WorldSpec(n_devices=0), "n_devices"),
        (WorldSpec(shares={Technology.PV: 0.5}), "shares"),
        (WorldSpec(cloud_device_frac=0.5), "cloud_device_frac"),
        (WorldSpec(n_gateways_max=0), "n_gateways_max"),
    ],
)
def test_a_spec_that_can_not_be_built_names_its_field(spec: WorldSpec, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        build_roster(spec)
    assert refused.value.field == field
