"""Groupings: overlapping portfolios with dated members, and enrolments in programmes."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text, text as literal

from unisono.store.tables.metadata import METADATA, effective, instant, number, organisation, text, unique_reference

PORTFOLIO: Final = Table(
    "portfolio",
    METADATA,
    number("portfolio_no"),
    Column("portfolio_id", Text, nullable=False, unique=True),
    organisation(),
    text("name", None),
    # trading, programme, view
    text("purpose", "trading"),
    Column("programme_id", Text, ForeignKey("programme.programme_id")),
    Column("revision", BigInteger, nullable=False, server_default="1"),
    text("partner_reference"),
    instant("created_ns"),
    instant("retired_ns", is_optional=True),
    CheckConstraint("purpose IN ('trading', 'programme', 'view')", name="purpose"),
    Index("portfolio_name_key", "organisation_id", "name", unique=True, postgresql_where=literal("retired_ns IS NULL")),
    unique_reference("portfolio"),
)

PORTFOLIO_MEMBER: Final = Table(
    "portfolio_member",
    METADATA,
    Column("membership_no", BigInteger, primary_key=True, autoincrement=True),
    organisation(),
    Column("portfolio_no", Integer, ForeignKey("portfolio.portfolio_no"), nullable=False),
    Column("device_no", Integer, ForeignKey("device.device_no"), nullable=False),
    *effective(),
    Index(
        "portfolio_member_open_key",
        "portfolio_no",
        "device_no",
        unique=True,
        postgresql_where=literal("valid_to_ns IS NULL"),
    ),
    Index(None, "device_no"),
)

ENROLMENT: Final = Table(
    "enrolment",
    METADATA,
    Column("enrolment_no", BigInteger, primary_key=True, autoincrement=True),
    organisation(),
    Column("device_no", Integer, ForeignKey("device.device_no"), nullable=False),
    Column("programme_id", Text, ForeignKey("programme.programme_id"), nullable=False),
    Column("agreement_id", Text, ForeignKey("agreement.agreement_id")),
    # pending, eligible, active, ineligible, not_participating
    text("status", "pending"),
    text("reason"),
    *effective(),
    Index(
        "enrolment_open_key",
        "programme_id",
        "device_no",
        unique=True,
        postgresql_where=literal("valid_to_ns IS NULL"),
    ),
    Index(None, "device_no"),
)
