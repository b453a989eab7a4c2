"""Where: sites, their connection points and meters, and the nodes of the grid."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
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
    UniqueConstraint,
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

SITE: Final = Table(
    "site",
    METADATA,
    number("site_no"),
    Column("site_id", Text, nullable=False, unique=True),
    organisation(),
    Column("participant_id", Text, ForeignKey("participant.participant_id")),
    text("name"),
    text("zip"),
    # IANA, for local days
    text("time_zone", "UTC"),
    Column("latitude_deg", Double),
    Column("longitude_deg", Double),
    # A stable hash of site_id: a site's limits couple its devices, so they live on one shard.
    Column("shard", SmallInteger, nullable=False),
    text("partner_reference"),
    instant("created_ns"),
    CheckConstraint("latitude_deg BETWEEN -90 AND 90", name="latitude"),
    CheckConstraint("longitude_deg BETWEEN -180 AND 180", name="longitude"),
    Index(None, "organisation_id", "site_no"),
    unique_reference("site"),
)

CONNECTION_POINT: Final = Table(
    "connection_point",
    METADATA,
    Column("connection_point_id", Text, primary_key=True),
    owner(),
    Column("site_no", Integer, ForeignKey("site.site_no"), nullable=False),
    text("utility"),
    text("utility_account"),
    text("utility_meter"),
    # Power into the grid is positive: import <= 0 <= export; infinite where nothing is agreed.
    Column("import_limit_w", Double, nullable=False, server_default="-Infinity"),
    Column("export_limit_w", Double, nullable=False, server_default="Infinity"),
    Column("export_is_allowed", Boolean, nullable=False, server_default="true"),
    # none, applied, approved, permitted (to operate), suspended
    text("interconnection_status", "none"),
    Column("agreement_id", Text, ForeignKey("agreement.agreement_id")),
    text("node_path"),
    *effective(),
    CheckConstraint("import_limit_w <= 0", name="import_limit"),
    CheckConstraint("export_limit_w >= 0", name="export_limit"),
    Index(None, "site_no"),
)

METER: Final = Table(
    "meter",
    METADATA,
    Column("meter_id", Text, primary_key=True),
    organisation(),
    Column("connection_point_id", Text, ForeignKey("connection_point.connection_point_id"), nullable=False),
    # revenue, sub
    text("kind", "revenue"),
    text("serial"),
    Column("interval_s", Integer, nullable=False, server_default="900"),
    # a register starts again at 0 beyond this
    Column("register_max_wh", Double),
    *effective(),
    Index(None, "connection_point_id"),
)

TOPOLOGY_NODE: Final = Table(
    "topology_node",
    METADATA,
    number("node_no"),
    organisation(),
    # zone/substation/feeder/transformer, as far as it is known
    text("node_path", None),
    text("kind", None),
    Column("import_limit_w", Double),
    Column("export_limit_w", Double),
    *effective(),
    UniqueConstraint("organisation_id", "node_path", "valid_from_ns"),
)
