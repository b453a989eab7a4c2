"""The twin of the bench ``recover`` agrees with the plant, and finds out a plant that is wrong."""

from __future__ import annotations

from tests.plant.fake_fleet import FakeFleet, batteries, fleet_of

from unisono.bus.consumers import KeptMessage
from unisono.main.bench.twin import Twin


def fed(fleet: FakeFleet) -> Twin:
    """The twin of a fleet whose newest readings came late once more, behind them."""
    old = [arrival.batch for arrival in fleet.readings()]
    fleet.cycle()
    twin = Twin(len(fleet.devices))
    newest = [arrival.batch for arrival in fleet.readings()]
    for seq, batch in enumerate([*newest, *old], 1):
        twin._fold(KeptMessage(seq, 1, "readings.0", batch.encode(), ""))
    return twin


def test_the_newest_instant_wins_whatever_comes_after_it() -> None:
    fleet = fleet_of(batteries(3))
    twin = fed(fleet)
    assert twin.n_differences(fleet.state) == 0
    assert (twin.n_rows, twin.n_rows_to(0), twin.n_rows_to(1), twin.n_rows_to(9)) == (6, 0, 3, 6)


def test_a_column_that_is_not_the_fold_is_found() -> None:
    fleet = fleet_of(batteries(3))
    twin = fed(fleet)
    fleet.state.fleet.picture.soc_frac[fleet.state.fleet.row(2)] += 0.01
    assert twin.n_differences(fleet.state) == 1
