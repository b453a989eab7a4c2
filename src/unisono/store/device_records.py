"""Registry records of devices, made from the rows behind them, and their announcement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, select

from unisono.model.ratings import OptOut, OwnerLimits, Ratings
from unisono.model.registry import DeviceColumns, DeviceRecord
from unisono.store import outbox
from unisono.store.tables.devices import DEVICE, DEVICE_RATING, GATEWAY, OPT_OUT
from unisono.store.tables.places import CONNECTION_POINT, SITE

RATING_FIELDS: Final = Ratings.__struct_fields__
LIMIT_FIELDS: Final = OwnerLimits.__struct_fields__
_DEVICE_FIELDS: Final = (
    "revision",
    "organisation_id",
    "device_id",
    "device_no",
    "technology",
    "lifecycle",
    "telemetry_period_s",
    "command_latency_s",
    "command_ttl_s",
    "control_kinds",
    "fallback",
    "merit_micros_per_kwh",
    "vendor",
    "carrier",
    "node_path",
)


def of_devices(connection: Connection, device_nos: Collection[int], now_ns: int) -> list[DeviceRecord]:
    """Return the records as this transaction sees them, by device_no; opt-outs that are over are left out."""
    return [record for _, record in _with_shard(connection, device_nos, now_ns)]


def announce(
    connection: Connection, organisation_id: str, device_nos: Collection[int], now_ns: int
) -> list[DeviceRecord]:
    """Put the present records of these devices into the outbox, each for its shard, and return them.

    Whoever changes a device raises its revision first: the newest wins.
    """
    records_of_shard: defaultdict[int, list[DeviceRecord]] = defaultdict(list)
    found = _with_shard(connection, device_nos, now_ns)
    for shard, record in found:
        records_of_shard[shard].append(record)
    for shard, records in records_of_shard.items():
        outbox.put_records(connection, shard, records, organisation_id, now_ns)
    return [record for _, record in found]


def columns_of_shards(connection: Connection, device_nos: Collection[int], now_ns: int) -> dict[int, DeviceColumns]:
    """Return the present records of these devices as columns, for each shard that has any of them."""
    found = _with_shard(connection, device_nos, now_ns)
    return {
        shard: DeviceColumns.of([record for of, record in found if of == shard]) for shard in {of for of, _ in found}
    }


def _with_shard(connection: Connection, device_nos: Collection[int], now_ns: int) -> list[tuple[int, DeviceRecord]]:
    if not device_nos:
        return []
    opt_outs = _opt_outs(connection, device_nos, now_ns)
    rows = connection.execute(_ROWS.where(DEVICE.c.device_no.in_(device_nos)).order_by(DEVICE.c.device_no))
    return [(row.shard, _record(row, opt_outs.get(row.device_no, ()))) for row in rows]


_ROWS = (
    select(
        *(DEVICE.c[name] for name in _DEVICE_FIELDS),
        *(DEVICE_RATING.c[name] for name in (*RATING_FIELDS, *LIMIT_FIELDS)),
        SITE.c.shard,
        SITE.c.site_id,
        SITE.c.site_no,
        SITE.c.time_zone,
        SITE.c.latitude_deg,
        SITE.c.longitude_deg,
        GATEWAY.c.gateway_id,
        GATEWAY.c.gateway_no,
        CONNECTION_POINT.c.export_limit_w,
        CONNECTION_POINT.c.import_limit_w,
        CONNECTION_POINT.c.export_is_allowed,
    )
    .join_from(DEVICE, SITE, DEVICE.c.site_no == SITE.c.site_no)
    .join(DEVICE_RATING, (DEVICE_RATING.c.device_no == DEVICE.c.device_no) & DEVICE_RATING.c.valid_to_ns.is_(None))
    .outerjoin(GATEWAY, GATEWAY.c.gateway_no == DEVICE.c.gateway_no)
    .outerjoin(CONNECTION_POINT, CONNECTION_POINT.c.connection_point_id == DEVICE.c.connection_point_id)
)


def _record(row: Any, opt_outs: Collection[OptOut]) -> DeviceRecord:
    values = row._asdict()
    optional: dict[str, Any] = {
        name: values[name]
        for name in (
            "gateway_id",
            "gateway_no",
            "latitude_deg",
            "longitude_deg",
            "export_limit_w",
            "import_limit_w",
            "export_is_allowed",
        )
        if values[name] is not None
    }
    return DeviceRecord(
        **{**{name: values[name] for name in _DEVICE_FIELDS}, "control_kinds": tuple(values["control_kinds"])},
        **optional,
        site_id=row.site_id,
        site_no=row.site_no,
        time_zone=row.time_zone,
        ratings=Ratings(**{name: values[name] for name in RATING_FIELDS}),
        limits=OwnerLimits(**{name: values[name] for name in LIMIT_FIELDS}),
        opt_outs=tuple(opt_outs),
    )


def _opt_outs(connection: Connection, device_nos: Collection[int], now_ns: int) -> dict[int, list[OptOut]]:
    c = OPT_OUT.c
    in_force = c.device_no.in_(device_nos) & (c.end_ns > now_ns) & c.withdrawn_ns.is_(None)
    found: defaultdict[int, list[OptOut]] = defaultdict(list)
    for row in connection.execute(
        select(c.device_no, c.start_ns, c.end_ns, c.reason).where(in_force).order_by(c.device_no, c.start_ns)
    ):
        found[row.device_no].append(OptOut(start_ns=row.start_ns, end_ns=row.end_ns, reason=row.reason))
    return found


def rating_values(ratings: Ratings, limits: OwnerLimits) -> dict[str, Any]:
    """Return the values of a device_rating row that come from these."""
    return {**msgspec.structs.asdict(ratings), **msgspec.structs.asdict(limits)}
