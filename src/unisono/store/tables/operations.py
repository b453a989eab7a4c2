"""What keeps the platform going: alarms, idempotency keys, jobs, the outbox, stream positions, shard leases."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    text as literal,
)
from sqlalchemy.dialects.postgresql import JSONB

from unisono.store.tables.metadata import METADATA, instant, organisation, text

ALARM: Final = Table(
    "alarm",
    METADATA,
    Column("alarm_id", Text, primary_key=True),
    organisation(),
    text("kind", None),
    text("subject_id", None),
    # information, warning, critical
    text("severity", "warning"),
    text("detail"),
    Column("n_raised", Integer, nullable=False, server_default="1"),
    instant("raised_ns"),
    instant("last_raised_ns"),
    instant("acknowledged_ns", is_optional=True),
    text("acknowledged_by"),
    text("note"),
    instant("cleared_ns", is_optional=True),
    CheckConstraint("severity IN ('information', 'warning', 'critical')", name="severity"),
    Index(
        "alarm_open_key",
        "organisation_id",
        "kind",
        "subject_id",
        unique=True,
        postgresql_where=literal("cleared_ns IS NULL"),
    ),
    Index(None, "organisation_id", "raised_ns"),
)

IDEMPOTENCY_KEY: Final = Table(
    "idempotency_key",
    METADATA,
    Column("organisation_id", Text, ForeignKey("organisation.organisation_id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("request_sha256", LargeBinary, nullable=False),
    # in_progress, done
    text("state", "in_progress"),
    # Grows with each take-over of a request whose server died; only the newest may finish.
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("status", SmallInteger),
    Column("response", LargeBinary),
    instant("begun_ns"),
    instant("done_ns", is_optional=True),
    Index(None, "begun_ns"),
)

JOB: Final = Table(
    "job",
    METADATA,
    Column("job_id", Text, primary_key=True),
    organisation(),
    text("kind", None),
    # queued, running, completed, failed
    text("state", "queued"),
    # The work itself, so that it survives whoever began it.
    Column("request", LargeBinary, nullable=False),
    Column("n_total", Integer, nullable=False, server_default="0"),
    Column("n_done", Integer, nullable=False, server_default="0"),
    Column("n_failed", Integer, nullable=False, server_default="0"),
    Column("result", JSONB, nullable=False, server_default="{}"),
    text("problem"),
    text("worker"),
    instant("created_ns"),
    instant("heartbeat_ns", is_optional=True),
    instant("finished_ns", is_optional=True),
    Index(None, "organisation_id", "job_id"),
    Index("job_open_idx", "created_ns", postgresql_where=literal("state IN ('queued', 'running')")),
)

JOB_ERROR: Final = Table(
    "job_error",
    METADATA,
    Column("job_id", Text, ForeignKey("job.job_id"), primary_key=True),
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("field", Text, primary_key=True),
    organisation(),
    text("partner_reference"),
    text("value"),
    text("rule", None),
)

# Written in the transaction of the fact it announces; organisation_id "" for what belongs to no tenant.
OUTBOX: Final = Table(
    "outbox",
    METADATA,
    Column("outbox_id", BigInteger, primary_key=True, autoincrement=True),
    text("organisation_id"),
    text("subject", None),
    Column("payload", LargeBinary, nullable=False),
    instant("created_ns"),
    instant("published_at_ns", is_optional=True),
    Index("outbox_waiting_idx", "outbox_id", postgresql_where=literal("published_at_ns IS NULL")),
    Index("outbox_published_idx", "published_at_ns", postgresql_where=literal("published_at_ns IS NOT NULL")),
)

# Up to where a consumer has put a stream into this database; moved in the transaction of what it wrote.
STREAM_POSITION: Final = Table(
    "stream_position",
    METADATA,
    Column("consumer", Text, primary_key=True),
    Column("stream_seq", BigInteger, nullable=False),
)

# One row, of the platform: how many shards there are.
PLANT_LAYOUT: Final = Table(
    "plant_layout",
    METADATA,
    Column("is_the_one", Boolean, CheckConstraint("is_the_one", name="one_row"), primary_key=True),
    Column("n_shards", SmallInteger, nullable=False),
)

# Of the platform, not of a tenant. Expiry is by the database's clock, the only one that all owners share.
SHARD_LEASE: Final = Table(
    "shard_lease",
    METADATA,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    text("owner", None),
    instant("expires_ns"),
)
