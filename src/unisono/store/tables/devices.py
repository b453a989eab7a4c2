"""What: gateways, devices, their effective-dated ratings and place in the grid, points and sources."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    text as literal,
)

from unisono.store.tables.metadata import (
    METADATA,
    effective,
    instant,
    number,
    organisation,
    owner,
    text,
    unique_reference,
)


def _device() -> Column[int]:
    return Column("device_no", Integer, ForeignKey("device.device_no"), nullable=False)


GATEWAY: Final = Table(
    "gateway",
    METADATA,
    number("gateway_no"),
    Column("gateway_id", Text, nullable=False, unique=True),
    organisation(),
    # The shard whose registry announces it; every front reads all shards.
    Column("shard", SmallInteger, nullable=False, server_default="0"),
    text("link", "mqtt"),
    text("vendor"),
    text("secret_sha256"),
    Column("is_revoked", Boolean, nullable=False, server_default="false"),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    text("partner_reference"),
    instant("created_ns"),
    Index(None, "organisation_id", "gateway_no"),
    unique_reference("gateway"),
)

DEVICE: Final = Table(
    "device",
    METADATA,
    number("device_no"),
    Column("device_id", Text, nullable=False, unique=True),
    organisation(),
    Column("site_no", Integer, ForeignKey("site.site_no"), nullable=False),
    Column("connection_point_id", Text, ForeignKey("connection_point.connection_point_id")),
    Column("gateway_no", Integer, ForeignKey("gateway.gateway_no")),
    # Codes of model.technology
    Column("technology", SmallInteger, nullable=False),
    Column("lifecycle", SmallInteger, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    text("name"),
    text("vendor"),
    text("model"),
    text("serial"),
    text("carrier"),
    # The present one; the past is in device_topology.
    text("node_path"),
    Column("replaced_by", Integer, ForeignKey("device.device_no")),
    text("partner_reference"),
    Column("telemetry_period_s", Double, nullable=False),
    Column("command_latency_s", Double, nullable=False),
    Column("command_ttl_s", Double, nullable=False),
    Column("control_kinds", ARRAY(SmallInteger), nullable=False),
    Column("fallback", SmallInteger, nullable=False),
    Column("merit_micros_per_kwh", BigInteger, nullable=False),
    instant("created_ns"),
    CheckConstraint("lifecycle BETWEEN 0 AND 4", name="lifecycle"),
    CheckConstraint("telemetry_period_s > 0", name="telemetry_period"),
    CheckConstraint("command_ttl_s > 0", name="command_ttl"),
    Index(None, "organisation_id", "device_no"),
    Index(None, "site_no"),
    Index(None, "gateway_no"),
    unique_reference("device"),
)

# One row is open (valid_to_ns NULL) per device; columns are those of model.ratings, in its order.
DEVICE_RATING: Final = Table(
    "device_rating",
    METADATA,
    Column("rating_no", BigInteger, primary_key=True, autoincrement=True),
    owner(),
    _device(),
    *effective(),
    Column("power_max_w", Double, nullable=False),
    Column("power_min_w", Double, nullable=False),
    Column("energy_capacity_wh", Double, nullable=False),
    Column("charge_efficiency_frac", Double, nullable=False),
    Column("discharge_efficiency_frac", Double, nullable=False),
    Column("ramp_w_per_s", Double, nullable=False),
    Column("power_step_min_w", Double, nullable=False),
    Column("is_on_off", Boolean, nullable=False),
    Column("min_on_s", Double, nullable=False),
    Column("min_off_s", Double, nullable=False),
    Column("notice_s", Double, nullable=False),
    Column("duration_max_s", Double, nullable=False),
    Column("rebound_frac", Double, nullable=False),
    Column("soc_reserve_frac", Double, nullable=False),
    Column("soc_max_frac", Double, nullable=False),
    Column("comfort_low_degc", Double, nullable=False),
    Column("comfort_high_degc", Double, nullable=False),
    Column("ready_by_ns", BigInteger, nullable=False),
    Column("needed_energy_wh", Double, nullable=False),
    Column("events_per_season_max", BigInteger, nullable=False),
    CheckConstraint("power_max_w >= power_min_w", name="power"),
    CheckConstraint("power_max_w < 'Infinity' AND power_min_w > '-Infinity'", name="power_is_finite"),
    CheckConstraint("energy_capacity_wh >= 0", name="energy_capacity"),
    CheckConstraint("soc_reserve_frac BETWEEN 0 AND 1 AND soc_max_frac BETWEEN 0 AND 1", name="soc"),
    CheckConstraint("valid_to_ns IS NULL OR valid_to_ns > valid_from_ns", name="validity"),
    Index("device_rating_open_key", "device_no", unique=True, postgresql_where=literal("valid_to_ns IS NULL")),
    Index(None, "device_no", "valid_from_ns"),
)

DEVICE_TOPOLOGY: Final = Table(
    "device_topology",
    METADATA,
    Column("placement_no", BigInteger, primary_key=True, autoincrement=True),
    owner(),
    _device(),
    text("node_path", None),
    *effective(),
    Index("device_topology_open_key", "device_no", unique=True, postgresql_where=literal("valid_to_ns IS NULL")),
)

POINT: Final = Table(
    "point",
    METADATA,
    Column("point_id", Text, primary_key=True),
    organisation(),
    _device(),
    text("name", None),
    # Codes of model.technology.ReadingKind
    Column("reading_kind", SmallInteger, nullable=False),
    text("unit", None),
    Index(None, "device_no"),
)

SOURCE: Final = Table(
    "source",
    METADATA,
    Column("source_id", Text, primary_key=True),
    organisation(),
    Column("point_id", Text, ForeignKey("point.point_id"), nullable=False),
    Column("meter_id", Text, ForeignKey("meter.meter_id")),
    Column("gateway_no", Integer, ForeignKey("gateway.gateway_no")),
    # Codes of model.technology.SourceKind: a lower one wins
    Column("source_kind", SmallInteger, nullable=False),
    Column("period_s", Double, nullable=False),
    *effective(),
    Index(None, "point_id"),
)

OPT_OUT: Final = Table(
    "opt_out",
    METADATA,
    Column("opt_out_no", BigInteger, primary_key=True, autoincrement=True),
    text("request_id", None, unique=True),
    organisation(),
    _device(),
    instant("start_ns"),
    instant("end_ns"),
    text("reason"),
    instant("known_at_ns"),
    instant("withdrawn_ns", is_optional=True),
    CheckConstraint("end_ns > start_ns", name="window"),
    Index(None, "device_no", "end_ns"),
)
