"""Who: organisations (tenants), participants (their customers), programmes, agreements, API keys."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ARRAY, Column, ForeignKey, Index, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from unisono.store.tables.metadata import METADATA, effective, instant, organisation, text

ORGANISATION: Final = Table(
    "organisation",
    METADATA,
    Column("organisation_id", Text, primary_key=True),
    text("name", None, unique=True),
    text("currency", "USD"),
    instant("created_ns"),
)

PARTICIPANT: Final = Table(
    "participant",
    METADATA,
    Column("participant_id", Text, primary_key=True),
    organisation(),
    text("name"),
    text("partner_reference"),
    instant("created_ns"),
    Index(None, "organisation_id"),
)

# What can be taken part in: a utility programme, a market's product; its currency and zone are those of its rules.
PROGRAMME: Final = Table(
    "programme",
    METADATA,
    Column("programme_id", Text, primary_key=True),
    organisation(),
    text("name", None),
    text("product"),
    text("counterparty"),
    text("currency", "USD"),
    text("time_zone", "UTC"),
    Column("rules", JSONB, nullable=False, server_default="{}"),
    *effective(),
    Index(None, "organisation_id"),
)

AGREEMENT: Final = Table(
    "agreement",
    METADATA,
    Column("agreement_id", Text, primary_key=True),
    organisation(),
    # interconnection, participation, programme
    text("kind", None),
    Column("participant_id", Text, ForeignKey("participant.participant_id")),
    text("counterparty"),
    text("reference"),
    Column("terms", JSONB, nullable=False, server_default="{}"),
    *effective(),
    Index(None, "organisation_id"),
)

API_KEY: Final = Table(
    "api_key",
    METADATA,
    Column("key_id", Text, primary_key=True),
    organisation(),
    text("name"),
    # hex; the secret itself is shown once and kept nowhere
    text("secret_sha256", None, unique=True),
    Column("scopes", ARRAY(Text), nullable=False),
    instant("created_ns"),
    instant("expires_at_ns", is_optional=True),
    instant("revoked_at_ns", is_optional=True),
    Index(None, "organisation_id"),
)
