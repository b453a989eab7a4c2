from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.fleet.builders import record, table_of
from unisono.base.instants import NS_PER_S
from unisono.fleet.columns import GROUPS, Slots, allocate, column_table, columns_of
from unisono.fleet.snapshot import Snapshot
from unisono.fleet.table import NOT_CONTROLLABLE, OPT_OUT_KEPT_S
from unisono.model.ratings import OptOut
from unisono.model.registry import GatewayRecord, PortfolioRecord
from unisono.model.technology import CommandKind


def test_rows_are_stable_while_the_table_grows() -> None:
    records = [record(no) for no in range(500, 0, -1)]
    table = table_of(*records)
    assert [table.row(no) for no in (500, 499, 1)] == [0, 1, 499]
    assert table.nameplate.device_no[:3].tolist() == [500, 499, 498]
    assert table.row(501) == table.row(-1) == table.row(10**6) == -1
    assert Snapshot(table, 0, 0).device("dev_7").device_no == 7


def test_an_old_or_repeated_revision_changes_nothing() -> None:
    table = table_of(record(1, revision=3))
    version = table.version
    assert not table.upsert_device(record(1, revision=3, telemetry_period_s=99.0))
    assert not table.upsert_device(record(1, revision=2, telemetry_period_s=99.0))
    assert (table.version, table.nameplate.period_s[0]) == (version, 10.0)
    assert table.upsert_device(record(1, revision=4, telemetry_period_s=99.0))
    assert table.nameplate.period_s[0] == 99.0
    gateway = GatewayRecord(revision=1, organisation_id="org_1", gateway_id="gwy_1", gateway_no=1)
    assert [table.upsert_gateway(gateway) for _ in range(2)] == [True, False]


def test_portfolios_overlap_and_wait_for_members() -> None:
    table = table_of(record(1), record(2))

    def portfolio(no: int, *members: int) -> PortfolioRecord:
        return PortfolioRecord(
            revision=1, organisation_id="org_1", portfolio_id=f"pfo_{no}", portfolio_no=no, device_nos=members
        )

    table.upsert_portfolio(portfolio(1, 1, 2, 3, 3))
    table.upsert_portfolio(portfolio(2, 2))
    table.index_portfolios()
    assert table.portfolios[1].rows.tolist() == [0, 1]
    assert (table.portfolio_of.tolist(), table.portfolio_starts.tolist()) == ([0, 0, 1], [0, 1, 3])
    table.upsert_device(record(3))
    table.index_portfolios()
    assert table.portfolios[1].rows.tolist() == [0, 1, 2]
    assert not table.upsert_portfolio(portfolio(1))
    table.upsert_portfolio(msgspec.structs.replace(portfolio(1, 1), revision=2, is_retired=True))
    table.index_portfolios()
    assert table.portfolios[1].rows.size == 0


def test_opt_outs_begin_and_end_in_time_and_outlive_a_registry_record() -> None:
    table = table_of(record(1, opt_outs=(OptOut(start_ns=10, end_ns=20),)))
    seen = []
    for now_ns in (5, 10, 19, 20):
        table.refresh_opt_outs(now_ns)
        seen.append(int(table.picture.is_opted_out[0]))
    assert seen == [0, 1, 1, 0]
    assert table.set_opt_out(0, "r1", (30, 40))
    assert not table.set_opt_out(0, "r1", (30, 40))
    table.upsert_device(record(1, revision=2))
    table.refresh_opt_outs(35)
    assert table.picture.is_opted_out[0] == 1


def test_a_withdrawn_opt_out_ends_early_and_no_repetition_brings_it_back() -> None:
    table = table_of(record(1))
    for window in ((10, 40), (10, 20), (10, 40)):
        table.set_opt_out(0, "r1", window)
    table.set_opt_out(0, "r2", (30, 35))
    seen = []
    for now_ns in (10, 19, 20, 30, 35):
        table.refresh_opt_outs(now_ns)
        seen.append(int(table.picture.is_opted_out[0]))
    assert seen == [1, 1, 0, 1, 0]


def test_opt_outs_that_are_long_over_are_forgotten() -> None:
    table = table_of(record(1))
    table.set_opt_out(0, "r1", (10, 20))
    table.refresh_opt_outs(20)
    assert table.asked_opt_outs_of_row
    table.set_opt_out(0, "r2", (30, 31))
    table.refresh_opt_outs(20 + OPT_OUT_KEPT_S * NS_PER_S)
    assert table.asked_opt_outs_of_row == {0: {"r2": (30, 31)}}


def test_every_column_has_a_unit_and_a_meaning_and_starts_missing() -> None:
    for group in GROUPS:
        assert all(column.meaning for column in columns_of(group))
    slots = allocate(Slots, 3)
    assert slots.power_w.shape == (4, 3)
    assert np.isnan(slots.power_w).all()
    assert column_table().count("\n| `") == sum(len(columns_of(group)) for group in GROUPS)


@pytest.mark.parametrize(
    ("kinds", "steered_with"),
    [
        ((CommandKind.SHED_LEVEL, CommandKind.POWER_SETPOINT), CommandKind.SHED_LEVEL),
        ((CommandKind.POWER_SETPOINT, CommandKind.SHED_LEVEL), CommandKind.POWER_SETPOINT),
        ((CommandKind.SCHEDULE, CommandKind.TEMPERATURE_OFFSET), CommandKind.TEMPERATURE_OFFSET),
        ((CommandKind.MODE, CommandKind.RELEASE), NOT_CONTROLLABLE),
    ],
)
def test_a_device_is_steered_with_the_kind_that_its_owner_names_first(
    kinds: tuple[int, ...], steered_with: int
) -> None:
    assert table_of(record(1, control_kinds=kinds)).nameplate.control_kind[0] == steered_with
