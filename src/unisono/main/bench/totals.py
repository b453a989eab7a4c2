"""Power, up, down and trust of a million devices, and the same and more by 200 portfolios that overlap.

The references are one read pass over the columns that each figure touches. Checked against numpy on the same columns.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unisono.brain.flexibility.firm import DERATE, firm_w
from unisono.fleet.groups import SUM_NAMES, fleet_sums, portfolio_sums
from unisono.fleet.table import FleetTable
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure, best_s
from unisono.main.bench.fleet import enrolled, reported
from unisono.main.bench.passes import read_pass_s
from unisono.model.technology import Lifecycle, Technology, Trust

N_DEVICES: Final = 1_000_000
N_PORTFOLIOS: Final = 200
RATIO_TARGET: Final = 2.0
MEMBER_RATIO_TARGET: Final = 8.0
HOLD_S: Final = 900.0


def bench(options: BenchOptions) -> BenchResult:
    """Measure both sums and check them."""
    n = options.n_devices or N_DEVICES
    state = enrolled(n, N_PORTFOLIOS)
    mono_ns = reported(state)
    table = state.fleet
    up_w, down_w = np.zeros(n, np.float32), np.zeros(n, np.float32)
    firm_w(n, mono_ns, HOLD_S, DERATE, table.nameplate, table.picture, table.leases, up_w, down_w)
    fleet_s = best_s(lambda: fleet_sums(table))
    portfolio_s = best_s(lambda: portfolio_sums(table, up_w, down_w))
    n_memberships = table.portfolio_of.size
    return BenchResult(
        name="totals",
        figures=(
            Figure(
                name="whole fleet",
                value=1e3 * fleet_s,
                unit="ms",
                reference=1e3 * read_pass_s(_columns_of_all(table)),
                reference_name="read pass over the same columns",
                ratio_target=RATIO_TARGET,
            ),
            Figure(
                name="by portfolio, per membership",
                value=1e9 * portfolio_s / n_memberships,
                unit="ns",
                reference=1e9 * read_pass_s([*_columns_by_portfolio(table), up_w, down_w]) / n,
                reference_name="read pass over the same columns, per device",
                ratio_target=MEMBER_RATIO_TARGET,
            ),
        ),
        checks={
            "the fleet's sums agree with numpy": _fleet_agrees(table),
            "every portfolio's sums agree with numpy": portfolios_agree(table, up_w, down_w),
            "all trusts but unknown are there": bool(np.unique(table.picture.trust[:n]).size == len(Trust) - 1),
        },
        sizes={"devices": n, "portfolios": len(table.portfolios), "memberships": n_memberships},
        details={"by_portfolio_ms": 1e3 * portfolio_s},
    )


def _columns_of_all(table: FleetTable) -> list[NDArray[Any]]:
    n, picture, plate = table.n_devices, table.picture, table.nameplate
    columns = (
        picture.power_w, picture.reference_w, picture.high_w, picture.low_w, picture.trust,
        plate.lifecycle, plate.technology,
    )  # fmt: skip
    return [column[:n] for column in columns]


def _columns_by_portfolio(table: FleetTable) -> list[NDArray[Any]]:
    n, picture, leases = table.n_devices, table.picture, table.leases
    columns = (
        picture.power_sd_w, picture.energy_up_wh, picture.energy_down_wh,
        leases.state, leases.acked_seq, leases.setpoint_w, leases.acked_w,
    )  # fmt: skip
    return [*_columns_of_all(table), *(column[:n] for column in columns), *table.slots.power_w[:, :n]]


def _moves(table: FleetTable, rows: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what each of ``rows`` can do up and down."""
    picture, plate = table.picture, table.nameplate
    is_wide = picture.high_w[rows] - picture.low_w[rows] >= 1.0
    takes = is_wide & (plate.lifecycle[rows] == Lifecycle.ACTIVE)
    up_w = np.maximum(picture.high_w[rows] - picture.reference_w[rows], 0.0).astype(float)
    down_w = np.maximum(picture.reference_w[rows] - picture.low_w[rows], 0.0).astype(float)
    return np.where(takes & (plate.technology[rows] != Technology.PV), up_w, 0.0), np.where(takes, down_w, 0.0)


def _fleet_agrees(table: FleetTable) -> bool:
    watts, counts = fleet_sums(table)
    rows = np.arange(table.n_devices, dtype=np.int32)
    up_w, down_w = _moves(table, rows)
    expected = [float(np.nansum(table.picture.power_w[rows].astype(float))), float(up_w.sum()), float(down_w.sum())]
    trusts = np.bincount(table.picture.trust[rows], minlength=len(Trust))
    return bool(np.allclose(watts, expected, rtol=1e-9) and np.array_equal(counts, trusts))


def portfolios_agree(table: FleetTable, firm_up_w: NDArray[Any], firm_down_w: NDArray[Any]) -> bool:
    """Return whether the sums of every portfolio are those that numpy finds."""
    sums = portfolio_sums(table, firm_up_w, firm_down_w)
    picture, slots = table.picture, table.slots
    for found, portfolio in zip(sums, table.portfolios.values(), strict=True):
        rows = table.rows_of(np.array(portfolio.device_nos))
        up_w, down_w = _moves(table, rows)
        said_w = np.where(np.isnan(slots.power_w[1, rows]), slots.power_w[2, rows], slots.power_w[1, rows])
        expected = {
            "power_w": np.nansum(picture.power_w[rows].astype(float)),
            "up_w": up_w.sum(),
            "down_w": down_w.sum(),
            "dispatchable_up_w": firm_up_w[rows].sum(dtype=float),
            "dispatchable_down_w": firm_down_w[rows].sum(dtype=float),
            "reported_w": np.nansum(said_w.astype(float)),
            "n_reported": np.count_nonzero(~np.isnan(said_w)),
            "n_fresh": np.count_nonzero(picture.trust[rows] == Trust.FRESH),
            "n_suspect": np.count_nonzero(picture.trust[rows] == Trust.SUSPECT),
        }
        seen = dict(zip(SUM_NAMES, found.tolist(), strict=True))
        if not np.allclose([seen[name] for name in expected], list(expected.values()), rtol=1e-9):
            return False
    return True
