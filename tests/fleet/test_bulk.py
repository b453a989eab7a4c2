"""Many devices taken in at once are what one after the other makes of them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given, strategies as st

from tests.fleet.builders import record
from unisono.fleet.columns import GROUPS
from unisono.fleet.table import FleetTable
from unisono.model.ratings import OptOut, OwnerLimits, Ratings
from unisono.model.registry import (
    FIELDS,
    DeviceColumns,
    DeviceRecord,
    RegistryBatch,
    decode_registry,
    encode_registry,
)
from unisono.model.technology import CommandKind

ZONES = ("America/Denver", "Europe/Berlin", "Nowhere/Atall", "UTC")


@st.composite
def devices(draw: st.DrawFn) -> DeviceRecord:
    no = draw(st.integers(1, 90))
    opt_outs = (OptOut(start_ns=5, end_ns=draw(st.integers(6, 9))),) if draw(st.booleans()) else ()
    return record(
        no,
        revision=draw(st.integers(1, 4)),
        organisation_id=draw(st.sampled_from(("org_1", "org_2"))),
        site_no=draw(st.integers(1, 40)),
        gateway_no=draw(st.integers(-1, 30)),
        time_zone=draw(st.sampled_from(ZONES)),
        export_limit_w=draw(st.sampled_from((float("inf"), 0.0, 7_000.0))),
        export_is_allowed=draw(st.booleans()),
        control_kinds=tuple(draw(st.lists(st.sampled_from(CommandKind), min_size=1, max_size=3))),
        command_ttl_s=draw(st.sampled_from((30.0, 60.0, 90.0))),
        ratings=Ratings(power_max_w=draw(st.sampled_from((0.0, 5e3))), power_min_w=-9e3, ramp_w_per_s=0.01),
        limits=OwnerLimits(events_per_season_max=draw(st.sampled_from((3, 2**40)))),
        opt_outs=opt_outs,
    )


def one_by_one(batches: list[list[DeviceRecord]]) -> FleetTable:
    table = FleetTable()
    for batch in batches:
        for one in batch:
            table.upsert_device(one)
    return table


def at_once(batches: list[list[DeviceRecord]]) -> FleetTable:
    table = FleetTable()
    for batch in batches:
        table.upsert_devices(DeviceColumns.of(batch))
    return table


def newest_only(batch: list[DeviceRecord]) -> list[DeviceRecord]:
    """Return a batch in which each device is told of once: its newest record in the place of its first one."""
    newest: dict[int, DeviceRecord] = {}
    for one in batch:
        known = newest.setdefault(one.device_no, one)
        if one.revision > known.revision:
            newest[one.device_no] = one
    return list(newest.values())


def shown(table: FleetTable) -> dict[str, Any]:
    """Return all that a table holds, in plain lists."""
    groups = {group.__name__.lower(): getattr(table, group.__name__.lower()) for group in GROUPS}
    columns = {f"{name}.{column}": getattr(group, column) for name, group in groups.items() for column in group._fields}
    arrays = columns | {"rows": table.row_of_device[:91], "ids": table.device_ids, "organisation": table.organisation}
    sites, gateways = table.site_of_no[:41], table.gateway_of_no[:31]
    plain = {
        name: np.nan_to_num(array, nan=-99.0).tolist() for name, array in arrays.items() if array.dtype.kind != "S"
    }
    return plain | {
        "ids": table.device_ids.tolist(),
        "sites": sites.tolist(),
        "gateways": gateways.tolist(),
        "zones": table.zones,
        "organisations": table.organisations,
        "opt_outs": table.opt_outs_of_row,
        "numbers": (table.n_devices, table.n_sites, table.n_gateways),
    }


@given(batches=st.lists(st.lists(devices(), max_size=30), max_size=3))
def test_a_batch_makes_of_the_columns_what_its_records_one_by_one_do(batches: list[list[DeviceRecord]]) -> None:
    once = [newest_only(batch) for batch in batches]
    assert shown(at_once(once)) == shown(one_by_one(once))


@given(batch=st.lists(devices(), max_size=40))
def test_of_a_device_told_of_twice_in_a_batch_the_newest_record_holds(batch: list[DeviceRecord]) -> None:
    table = at_once([batch])
    for one in newest_only(batch):
        row = table.row(one.device_no)
        assert table.device_id(row) == one.device_id
        assert table.organisation_id(row) == one.organisation_id
        assert table.nameplate.revision[row] == one.revision
        assert table.nameplate.ttl_s[row] == one.command_ttl_s
        assert table.sites.site_no[table.nameplate.site[row]] == one.site_no
        assert table.gateways.gateway_no[table.nameplate.gateway[row]] == one.gateway_no
    firsts = list(dict.fromkeys(one.device_no for one in batch))
    assert table.nameplate.device_no[: table.n_devices].tolist() == firsts


@given(batch=st.lists(devices(), min_size=1, max_size=20))
def test_records_come_out_of_columns_as_they_went_in(batch: list[DeviceRecord]) -> None:
    known = {"latitude_deg": 45.5, "longitude_deg": -122.6}
    limits = OwnerLimits(comfort_low_degc=18.0, comfort_high_degc=27.0)
    told = tuple(msgspec.structs.replace(one, limits=limits, vendor="Ære", **known) for one in batch)
    sent = RegistryBatch(devices=DeviceColumns.of(told))
    assert decode_registry(encode_registry(sent)).everything() == told


def test_columns_hold_every_fact_of_a_record() -> None:
    facts = {field.name for field in msgspec.structs.fields(DeviceRecord)} - {"ratings", "limits", "opt_outs"}
    assert set(FIELDS) == facts | set(Ratings.__struct_fields__) | set(OwnerLimits.__struct_fields__)
