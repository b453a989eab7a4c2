"""What is asked and owed: dispatches with all their revisions and cycles, commitments by interval."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
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
)
from sqlalchemy.dialects.postgresql import JSONB

from unisono.store.tables.metadata import METADATA, instant, number, organisation, text, unique_reference

DISPATCH: Final = Table(
    "dispatch",
    METADATA,
    number("dispatch_no"),
    Column("dispatch_id", Text, nullable=False, unique=True),
    organisation(),
    Column("portfolio_no", Integer, ForeignKey("portfolio.portfolio_no"), nullable=False),
    # The newest; the content of each is in dispatch_revision.
    Column("revision", Integer, nullable=False),
    # scheduled, active, completed, cancelled
    text("state", "scheduled"),
    instant("start_ns"),
    instant("end_ns"),
    text("partner_reference"),
    instant("created_ns"),
    Index(None, "organisation_id", "dispatch_no"),
    Index(None, "portfolio_no", "start_ns"),
    unique_reference("dispatch"),
)

# One row a revision, never changed; columns are those of model.dispatch.Dispatch.
DISPATCH_REVISION: Final = Table(
    "dispatch_revision",
    METADATA,
    Column("dispatch_no", Integer, ForeignKey("dispatch.dispatch_no"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    organisation(),
    text("kind", None),
    instant("start_ns"),
    instant("end_ns"),
    # A list of pairs: start_ns, power_w.
    Column("targets", JSONB, nullable=False),
    Column("ramp_s", Double, nullable=False),
    Column("limit_is_export", Boolean, nullable=False),
    text("policy", None),
    Column("priority", Integer, nullable=False),
    Column("is_test", Boolean, nullable=False),
    Column("is_cancelled", Boolean, nullable=False),
    text("reason"),
    instant("requested_ns"),
    text("requested_by"),
    CheckConstraint("end_ns > start_ns", name="window"),
    CheckConstraint("kind IN ('change_w', 'net_w', 'limit_w')", name="kind"),
    CheckConstraint("ramp_s >= 0", name="ramp"),
)


def _power(name: str) -> Column[Any]:
    return Column(name, Double, nullable=False)


def _count(name: str) -> Column[Any]:
    return Column(name, Integer, nullable=False)


# One row per dispatch, cycle and shard; the commands themselves are frames in history, bound here by their digest.
DISPATCH_CYCLE: Final = Table(
    "dispatch_cycle",
    METADATA,
    Column("dispatch_no", Integer, ForeignKey("dispatch.dispatch_no"), primary_key=True),
    Column("shard", SmallInteger, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("cycle", BigInteger, primary_key=True),
    organisation(),
    Column("revision", Integer, nullable=False),
    instant("at_ns"),
    text("state", None),
    *(
        _power(name)
        for name in (
            "target_w",
            "commanded_w",
            "acknowledged_w",
            "reported_w",
            "measured_w",
            "delivered_w",
            "delivered_sd_w",
            "shortfall_w",
            "reference_w",
        )
    ),
    *(
        _count(name)
        for name in (
            "n_eligible",
            "n_targeted",
            "n_sent",
            "n_acknowledged",
            "n_moving",
            "n_delivered",
            "n_opted_out",
            "n_refused",
            "n_silent",
            "n_suspect",
            "n_refilled",
            "n_released",
            "n_frames",
        )
    ),
    text("frames_digest"),
    Index(None, "dispatch_no", "at_ns"),
)

COMMITMENT: Final = Table(
    "commitment",
    METADATA,
    Column("commitment_id", Text, primary_key=True),
    organisation(),
    Column("portfolio_no", Integer, ForeignKey("portfolio.portfolio_no"), nullable=False),
    text("counterparty", None),
    text("basis", None),
    text("currency", None),
    instant("created_ns"),
    instant("withdrawn_ns", is_optional=True),
    Index(None, "organisation_id", "portfolio_no"),
)

COMMITMENT_INTERVAL: Final = Table(
    "commitment_interval",
    METADATA,
    Column("commitment_id", Text, ForeignKey("commitment.commitment_id"), primary_key=True),
    Column("start_ns", BigInteger, primary_key=True, autoincrement=False),
    organisation(),
    instant("end_ns"),
    Column("power_w", Double, nullable=False),
    Column("deviation_up_micros_per_kwh", BigInteger, nullable=False),
    Column("deviation_down_micros_per_kwh", BigInteger, nullable=False),
    CheckConstraint("end_ns > start_ns", name="interval"),
)
