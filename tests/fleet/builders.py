"""Small tables and batches for tests."""

from __future__ import annotations

import msgspec
import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.fleet.table import FleetTable
from unisono.model.batches import ReadingBatch
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.registry import DeviceRecord
from unisono.model.technology import Lifecycle, Technology

T0_NS = 1_790_000_000 * NS_PER_S
# Monotonic and wall clocks of the tests run side by side from here.
M0_NS = 1000 * NS_PER_S


def record(no: int, **changes: object) -> DeviceRecord:
    base = DeviceRecord(
        revision=1,
        organisation_id="org_1",
        device_id=f"dev_{no}",
        device_no=no,
        site_id=f"sit_{no}",
        site_no=no,
        gateway_id="gwy_1",
        gateway_no=1,
        technology=Technology.BESS,
        lifecycle=Lifecycle.ACTIVE,
        ratings=Ratings(power_max_w=5000.0, power_min_w=-5000.0, energy_capacity_wh=10_000.0),
        limits=OwnerLimits(soc_reserve_frac=0.2),
        telemetry_period_s=10.0,
    )
    return msgspec.structs.replace(base, **changes)


def table_of(*records: DeviceRecord) -> FleetTable:
    table = FleetTable()
    for one in records:
        table.upsert_device(one)
    table.index_portfolios()
    return table


def batch_of(rows: list[dict[str, float]], known_ns: int, *, gateway_no: int = 1, batch_seq: int = -1) -> ReadingBatch:
    defaults = {
        "device_no": 1,
        "source_kind": 1,
        "reading_kind": 0,
        "quality": 0,
        "status": 0,
        "measured_ns": known_ns,
        "interval_start_ns": -1,
        "power_w": np.nan,
        "energy_wh": np.nan,
        "soc_frac": np.nan,
        "temperature_degc": np.nan,
        "voltage_v": np.nan,
    }
    columns = {name: [row.get(name, default) for row in rows] for name, default in defaults.items()}
    return ReadingBatch.of_columns({"gateway_no": gateway_no, "batch_seq": batch_seq, "known_ns": known_ns}, columns)
