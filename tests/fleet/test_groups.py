from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.fleet.builders import record, table_of
from unisono.fleet.groups import SUM_NAMES, fleet_sums, portfolio_sums
from unisono.fleet.table import FleetTable
from unisono.model.registry import PortfolioRecord
from unisono.model.technology import Lifecycle, Technology, Trust


def random_table(seed: int, n: int = 40) -> tuple[FleetTable, np.ndarray]:
    """Return a fleet of any state that columns can hold, and its firm power (up and down, row)."""
    rng = np.random.default_rng(seed)
    table = table_of(*(record(no) for no in range(1, n + 1)))
    rows = slice(0, n)
    table.nameplate.lifecycle[rows] = rng.choice([int(Lifecycle.ACTIVE), int(Lifecycle.SUSPENDED)], n)
    table.nameplate.technology[rows] = rng.choice([int(Technology.PV), int(Technology.BESS)], n)
    table.picture.trust[rows] = rng.integers(0, len(Trust), n)
    for column in ("power_w", "reference_w", "low_w", "high_w"):
        getattr(table.picture, column)[rows] = rng.uniform(-5000, 5000, n)
    table.picture.high_w[rows] = np.maximum(table.picture.high_w[rows], table.picture.low_w[rows])
    for column in ("power_sd_w", "energy_up_wh", "energy_down_wh"):
        getattr(table.picture, column)[rows] = rng.uniform(0, 5000, n)
    table.picture.power_w[:n][rng.random(n) < 0.2] = np.nan
    table.slots.power_w[:, rows] = rng.choice([np.nan, 1000.0, -250.5], (len(table.slots.power_w), n))
    table.leases.state[rows] = rng.integers(0, 3, n)
    table.leases.acked_seq[rows] = rng.integers(-1, 2, n)
    table.leases.setpoint_w[rows] = table.leases.acked_w[rows] = rng.uniform(-5000, 5000, n)
    return table, rng.uniform(0, 1, (2, table.nameplate.rating_w.size)).astype(np.float32)


def twin(table: FleetTable, firm_w: np.ndarray, rows: list[int]) -> dict[str, float]:
    """Add up the members one by one, each quantity by its definition."""
    sums = dict.fromkeys(SUM_NAMES, 0.0)
    plate, picture, slots, leases = table.nameplate, table.picture, table.slots, table.leases
    for row in rows:
        trust = Trust(int(picture.trust[row]))
        sums[f"n_{trust.name.lower()}"] += 1
        if not np.isnan(picture.power_w[row]):
            sums["power_w"] += float(picture.power_w[row])
            sums["power_var_w2"] += float(picture.power_sd_w[row]) ** 2
        if leases.state[row] == 1:
            sums["n_commanded"] += 1
            sums["commanded_w"] += float(leases.setpoint_w[row])
            if leases.acked_seq[row] >= 0:
                sums["n_acknowledged"] += 1
                sums["acknowledged_w"] += float(leases.acked_w[row])
        said_w = [float(w) for w in slots.power_w[1:3, row] if not np.isnan(w)]
        if said_w:
            sums["n_reported"] += 1
            sums["reported_w"] += said_w[0]
        if not np.isnan(slots.power_w[0, row]):
            sums["n_measured"] += 1
            sums["measured_w"] += float(slots.power_w[0, row])
        sums["dispatchable_up_w"] += float(firm_w[0, row])
        sums["dispatchable_down_w"] += float(firm_w[1, row])
        if plate.lifecycle[row] != Lifecycle.ACTIVE:
            continue
        sums["n_active"] += 1
        sums["n_active_fresh"] += trust == Trust.FRESH
        if picture.high_w[row] - picture.low_w[row] < 1.0:
            continue
        sums["down_w"] += max(0.0, float(picture.reference_w[row] - picture.low_w[row]))
        sums["energy_down_wh"] += float(picture.energy_down_wh[row])
        if plate.technology[row] != Technology.PV:
            sums["up_w"] += max(0.0, float(picture.high_w[row] - picture.reference_w[row]))
            sums["energy_up_wh"] += float(picture.energy_up_wh[row])
    return sums


@given(st.lists(st.lists(st.integers(1, 45), max_size=60), max_size=5), st.integers(0, 2**31))
def test_sums_over_overlapping_portfolios_agree_with_their_slow_twin(members: list[list[int]], seed: int) -> None:
    table, firm_w = random_table(seed)
    for no, nos in enumerate(members):
        portfolio = PortfolioRecord(
            revision=1, organisation_id="org_1", portfolio_id="", portfolio_no=no, device_nos=tuple(nos)
        )
        table.upsert_portfolio(portfolio)
    table.index_portfolios()
    sums = portfolio_sums(table, firm_w[0], firm_w[1])
    assert sums.shape == (len(members), len(SUM_NAMES))
    for found, nos in zip(sums, members, strict=True):
        rows = sorted({table.row(no) for no in nos} - {-1})
        assert dict(zip(SUM_NAMES, found.tolist(), strict=True)) == pytest.approx(twin(table, firm_w, rows), rel=1e-9)


@given(st.integers(0, 2**31), st.integers(0, 40))
def test_sums_over_the_whole_fleet_agree_with_the_slow_twin(seed: int, n: int) -> None:
    table, firm_w = random_table(seed)
    table.n_devices = n
    (power_w, up_w, down_w), n_by_trust = fleet_sums(table)
    expected = twin(table, firm_w, list(range(n)))
    assert (power_w, up_w, down_w) == pytest.approx([expected[name] for name in ("power_w", "up_w", "down_w")])
    assert n_by_trust == [expected[f"n_{trust.name.lower()}"] for trust in Trust]
