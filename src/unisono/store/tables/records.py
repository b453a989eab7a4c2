"""What is kept as evidence: the hash-chained event log and the manifest of history's Parquet files."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    text as literal,
)
from sqlalchemy.dialects.postgresql import JSONB

from unisono.store.tables.metadata import METADATA, instant, text

# Append-only by trigger. ``canon`` is what is hashed: jsonb does not keep its text (1e2 becomes 100).
# organisation_id may be "" (the platform itself), so it is no foreign key.
EVENT_LOG: Final = Table(
    "event_log",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    instant("at_ns"),
    text("kind", None),
    text("organisation_id", None),
    text("portfolio_id"),
    text("subject_id"),
    Column("body", JSONB, nullable=False),
    Column("canon", LargeBinary, nullable=False),
    Column("prev", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    CheckConstraint("seq > 0", name="seq"),
    Index(None, "organisation_id", "seq"),
    Index(None, "portfolio_id", "seq", postgresql_where=literal("portfolio_id <> ''")),
    Index(None, "subject_id", "seq", postgresql_where=literal("subject_id <> ''")),
)

# A file holds many tenants' rows (it is a shard's), so it has no organisation; queries filter by device_no.
HISTORY_FILE: Final = Table(
    "history_file",
    METADATA,
    Column("file_no", BigInteger, primary_key=True, autoincrement=True),
    # readings, acks, commands, rollup_15min, outcomes, ...
    text("kind", None),
    Column("shard", SmallInteger, nullable=False),
    # UTC day, YYYY-MM-DD
    text("day", None),
    text("path", None, unique=True),
    Column("n_rows", BigInteger, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    text("sha256", None),
    # Of the stream it was made from; NULL for what was compacted from several.
    Column("stream_seq_first", BigInteger),
    Column("stream_seq_last", BigInteger),
    instant("at_first_ns", is_optional=True),
    instant("at_last_ns", is_optional=True),
    Column("schema_version", Integer, nullable=False, server_default="1"),
    Column("replaced_by", BigInteger, ForeignKey("history_file.file_no")),
    instant("created_ns"),
    # From here on no query reads it; the file itself goes later.
    instant("retired_at_ns", is_optional=True),
    Index("history_file_live_idx", "kind", "shard", "day", postgresql_where=literal("retired_at_ns IS NULL")),
)
