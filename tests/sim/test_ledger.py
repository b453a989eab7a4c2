"""The ledger finds what is planted: it judges what devices did, not what their logic thinks."""

from __future__ import annotations

import numpy as np
import pytest
from tests.sim.fleet_of_commands import frames_for

from unisono.base.instants import NS_PER_S
from unisono.model.technology import Technology
from unisono.sim import leases
from unisono.sim.physics import battery
from unisono.sim.region import Region
from unisono.sim.spec import NetworkSpec, WorldSpec
from unisono.sim.world import World

START_NS = 1_795_215_600 * NS_PER_S
SPEC = WorldSpec(
    seed=2,
    n_devices=200,
    spin_up_h=0.2,
    cloud_device_frac=0.0,
    declared_opt_out_frac=0.0,
    limited_site_frac=0.0,
    network=NetworkSpec(loss_frac=0.0, duplicate_frac=0.0, reorder_frac=0.0, gateway_outage_interval_h=0.0),
)


def called_region(ttl_s: float = 40.0) -> tuple[Region, np.ndarray, int]:
    region = Region(World(SPEC, START_NS))
    rows = np.arange(200)[region.roster.rows_of[Technology.BESS]]
    now_ns = run(region, START_NS, 8)
    region.deliver(frames_for(region.roster, rows, 3000.0, now_ns, ttl_s=ttl_s), now_ns)
    return region, rows, run(region, now_ns, 12)


def run(region: Region, now_ns: int, duration_s: int) -> int:
    for _ in range(duration_s // 4):
        now_ns += 4 * NS_PER_S
        region.advance(now_ns)
    return now_ns


def found(region: Region) -> dict[str, int]:
    return {name: n for name, n in region.ledger_summary()["n_violations"].items() if n}


def test_a_region_that_behaves_breaks_nothing() -> None:
    region, _, now_ns = called_region()
    run(region, now_ns, 100)
    assert found(region) == {}


def test_a_device_that_goes_on_after_its_lease_is_found() -> None:
    region, rows, now_ns = called_region()
    region.devices.lease[leases.END_NS, rows[:3]] += 10**15
    run(region, now_ns, 60)
    assert found(region) == {"acted_after_expiry": 3}


def test_a_device_that_obeys_an_old_epoch_is_found() -> None:
    region, rows, now_ns = called_region()
    region.devices.epochs[0][0, region.roster.gateway_of_row[rows[0]]] = 9
    region.devices.lease[leases.HAS_BEGUN, rows[0]] = 0
    run(region, now_ns, 4)
    assert found(region) == {"old_epoch_obeyed": 1}


def test_an_owner_who_objected_and_is_moved_all_the_same_is_found() -> None:
    region, rows, now_ns = called_region()
    region.roster.is_opted_out[rows[:2]] = True
    run(region, now_ns, 4)
    assert found(region) == {"opted_out_moved": 2}


def test_power_beyond_the_nameplate_and_energy_below_the_reserve_are_found() -> None:
    region, rows, now_ns = called_region()
    fixed = region.devices.world.fixed[Technology.BESS]
    fixed[battery.RESERVE, 0] = 0.0
    region.devices.world.state[Technology.BESS][battery.SOC, 0, 0] = 0.05
    run(region, now_ns, 4)
    fixed[battery.RESERVE, 0] = 0.2
    region.ledger._check_reserve(now_ns, region.devices.world)
    assert found(region) == {"below_reserve": 1}
    region.ledger._high[rows[1]] = 1000.0
    run(region, now_ns, 8)
    assert found(region) == {"below_reserve": 1, "beyond_limits": 1}


def test_a_site_driven_beyond_its_export_limit_is_found_after_a_grace() -> None:
    region, rows, now_ns = called_region(ttl_s=400.0)
    region.roster.export_limit_w[region.roster.site_of_row[rows[0]]] = 500.0
    now_ns = run(region, now_ns, 16)
    assert found(region) == {}
    run(region, now_ns, 20)
    assert found(region) == {"site_export_exceeded": 1}


def test_intervals_tell_what_the_meters_saw() -> None:
    region, rows, now_ns = called_region()
    summary = region.ledger_summary()
    assert summary["delivered_w"][0] == 0.0
    assert summary["delivered_w"][-1] == pytest.approx(summary["delivered_w_by_technology"]["bess"][-1], abs=1.0)
    assert summary["delivered_w"][-1] > 0.7 * 3000 * rows.size
    assert summary["by_technology"]["bess"]["n_called"] == rows.size
    assert summary["interval_start_ns"] == [START_NS + 4 * NS_PER_S * k for k in range(len(summary["power_w"]))]
    assert region.ledger.delivered_w_between(now_ns - 8 * NS_PER_S, now_ns).size in {1, 2}
    assert region.ledger_summary() == summary, "asking changes nothing"
