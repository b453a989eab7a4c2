"""What a command tells of time, for receivers whose clocks are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.plant.fake_fleet import battery, fleet_of
from unisono.base.instants import NS_PER_S
from unisono.fleet.fold_kernels import CLOCK_BOUND_S
from unisono.fleet.table import FleetTable
from unisono.model.batches import CommandFrames
from unisono.model.technology import SourceKind
from unisono.plant.clocks import in_their_clocks


def table_of(offsets_s: list[float]) -> FleetTable:
    """Devices 1.. behind gateways 1, 1, 2, with these offsets of their clocks."""
    table = fleet_of([battery(1), battery(2), battery(3, gateway_no=2)]).state.fleet
    rows = table.row_of_device[[1, 2, 3]]
    table.slots.offset_s[SourceKind.DEVICE, rows] = offsets_s
    return table


def told_later_s(table: FleetTable, device_no: list[int], gateway_no: list[int]) -> list[float]:
    expires_ns = np.full(len(device_no), 60 * NS_PER_S)
    columns = {"device_no": device_no, "gateway_no": gateway_no, "expires_ns": expires_ns}
    frames = CommandFrames.of_columns({"shard": 0, "epoch": 1, "cycle": 1, "issued_ns": 0}, columns)
    later_ns = in_their_clocks(table, frames).expires_ns - expires_ns
    return [later_s / NS_PER_S for later_s in later_ns.tolist()]


@pytest.mark.parametrize(
    ("offset_s", "later_s"),
    [(-200.4, 200.0), (-1e6, 300.0), (-0.9, 0.0), (float("nan"), 0.0), (0.3, 0.0), (200.0, 0.0)],
)
def test_only_a_clock_that_is_known_to_be_ahead_is_told_a_later_expiry_and_never_beyond_the_bound(
    offset_s: float, later_s: float
) -> None:
    assert told_later_s(table_of([offset_s, 0.0, 0.0]), [1, 2], [1, 1]) == [later_s, 0.0]


def test_a_gateway_is_told_a_later_expiry_only_when_all_clocks_behind_it_are_ahead() -> None:
    assert told_later_s(table_of([-100.0, 0.0, -50.0]), [-1, -1, 3], [1, 2, 2]) == [0.0, 50.0, 50.0]
    assert told_later_s(table_of([-100.0, -80.0, -50.0]), [-1], [1]) == [80.0]


def plain_lead_s(own_s: float, cloud_s: float) -> float:
    known_s = cloud_s if np.isnan(own_s) else own_s
    return 0.0 if np.isnan(known_s) else float(np.floor(np.clip(-np.float32(known_s), 0.0, CLOCK_BOUND_S)))


OFFSETS_S = st.floats(-400.0, 50.0, width=32) | st.sampled_from([float("nan"), float("-inf"), float("inf"), -0.0])


@given(st.data())
def test_the_kernels_agree_with_the_plain_way(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    gateway_nos = data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    table = fleet_of([battery(no, gateway_no=gateway_nos[no - 1]) for no in range(1, n + 1)]).state.fleet
    own_s, cloud_s = (data.draw(st.lists(OFFSETS_S, min_size=n, max_size=n)) for _ in range(2))
    rows = table.row_of_device[1 : n + 1]
    table.slots.offset_s[SourceKind.DEVICE, rows] = own_s
    table.slots.offset_s[SourceKind.VENDOR_CLOUD, rows] = cloud_s
    leads_s = [plain_lead_s(*offsets) for offsets in zip(own_s, cloud_s, strict=True)]
    present = sorted(set(gateway_nos))
    least_s = [min(leads_s[k] for k in range(n) if gateway_nos[k] == no) for no in present]
    told_s = told_later_s(table, [*range(1, n + 1), *[-1] * len(present)], [*gateway_nos, *present])
    assert told_s == [*leads_s, *least_s]
