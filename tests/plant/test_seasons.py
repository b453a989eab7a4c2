"""How often an owner lets a device be called in a season: it is not called nor promised beyond that, until the next."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from tests.plant.fake_fleet import START_NS, FakeFleet, battery, dispatch_of, fleet_of
from unisono.base.instants import NS_PER_S
from unisono.model.ratings import OwnerLimits
from unisono.plant.checkpoint import Carried, checkpoint, restore
from unisono.plant.state import PlantConfig

ONCE = OwnerLimits(soc_reserve_frac=0.2, events_per_season_max=1)


def go_to(fleet: FakeFleet, *local: int) -> None:
    """Go to an instant of UTC; nothing is heard until then."""
    at_ns = round(datetime(*local, tzinfo=UTC).timestamp()) * NS_PER_S  # type: ignore[arg-type]
    fleet.at_s = (at_ns - START_NS) / NS_PER_S


def call(fleet: FakeFleet, dispatch_id: str) -> float:
    """Ask both for all they have in a short dispatch; return what they give."""
    fleet.cycle(dispatch_of(fleet, 10_000.0, duration_s=40.0, dispatch_id=dispatch_id))
    fleet.run(6)
    given_w = fleet.power_w
    fleet.run(10)
    return given_w


def promised_w(fleet: FakeFleet) -> float:
    return round(fleet.run(2).totals.portfolios[0].dispatchable_up_w)


@pytest.fixture
def fleet() -> FakeFleet:
    return fleet_of([battery(1, limits=ONCE, time_zone="America/Los_Angeles"), battery(2)])


def test_a_used_up_device_is_neither_called_nor_promised_until_its_season_ends(fleet: FakeFleet) -> None:
    both_w = promised_w(fleet)
    assert call(fleet, "dsp_1") == 10_000.0
    assert promised_w(fleet) == pytest.approx(both_w / 2, rel=0.05)
    assert call(fleet, "dsp_2") == 5000.0
    go_to(fleet, 2027, 1, 1, 7, 30)
    assert call(fleet, "dsp_3") == 5000.0
    go_to(fleet, 2027, 1, 1, 8, 0)
    assert promised_w(fleet) == pytest.approx(both_w, rel=0.05)
    assert call(fleet, "dsp_4") == 10_000.0
    assert call(fleet, "dsp_5") == 5000.0


def test_what_was_counted_survives_a_restart_and_a_clock_that_was_set_back(fleet: FakeFleet) -> None:
    call(fleet, "dsp_1")
    payload = checkpoint(fleet.state, Carried(), fleet.now_ns, fleet.mono_ns)
    fleet.state, _ = restore(payload, fleet.state.config, 2, fleet.now_ns, fleet.mono_ns)
    fleet.run(20)
    assert call(fleet, "dsp_2") == 5000.0
    fleet.wall_step_s = -300 * 86_400.0
    assert call(fleet, "dsp_3") == 5000.0


def test_a_dispatch_goes_on_over_the_turn_of_the_season(fleet: FakeFleet) -> None:
    go_to(fleet, 2027, 1, 1, 7, 58)
    fleet.run(4)
    spec = dispatch_of(fleet, 10_000.0, duration_s=300.0)
    fleet.cycle(spec)
    fleet.run(60)
    assert fleet.power_w == 10_000.0
    # It counts in the season that it began in, which is over for the first and not for the second.
    assert fleet.state.fleet.leases.n_events[:2].tolist() == [0, 1]


def test_the_plant_is_told_with_which_month_its_seasons_begin() -> None:
    config = PlantConfig(season_month=10)
    fleet = fleet_of([battery(1, limits=ONCE), battery(2)], config=config)
    call(fleet, "dsp_1")
    assert call(fleet, "dsp_2") == 5000.0
    go_to(fleet, 2026, 10, 1)
    fleet.run(4)
    assert call(fleet, "dsp_3") == 10_000.0


def test_a_time_zone_that_is_not_known_here_counts_as_utc() -> None:
    fleet = fleet_of([battery(1, time_zone="Mars/Olympus")])
    assert fleet.state.fleet.zones == ["UTC"]
    assert fleet.state.fleet.leases.season[0] == 2026
    known = msgspec.structs.replace(fleet.devices[0].record, revision=2, time_zone="Asia/Tokyo")
    fleet.state.fleet.upsert_device(known)
    assert fleet.state.fleet.zones == ["UTC", "Asia/Tokyo"]
