"""The one MetaData, and the columns that recur. Instants are bigint nanoseconds; power is positive into the grid."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, ForeignKey, Identity, Index, Integer, MetaData, Text, text as literal

# Names that the error translation shows to people and that migrations can refer to.
METADATA: Final = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


def organisation() -> Column[str]:
    """The tenant that a row belongs to; every query names it."""
    return Column("organisation_id", Text, ForeignKey("organisation.organisation_id"), nullable=False)


def owner() -> Column[str]:
    """The tenant again, on a row that refers to a device or site of it: one check a row, that of the device or site."""
    return Column("organisation_id", Text, nullable=False)


def number(name: str) -> Column[int]:
    """A small integer for life, given by the database, from 1 on; streams and files carry it instead of the text id."""
    return Column(name, Integer, Identity(always=False, start=1), primary_key=True)


def text(name: str, default: str | None = "", **more: Any) -> Column[str]:
    """A text that is never NULL; without a default it must be given."""
    return Column(name, Text, nullable=False, server_default=default, **more)


def instant(name: str, *, is_optional: bool = False) -> Column[Any]:
    """An instant, nanoseconds since 1970 UTC; optional ones are NULL while they have not come."""
    return Column(name, BigInteger, nullable=is_optional)


def effective() -> tuple[Column[Any], ...]:
    """What makes a fact effective-dated: true in [valid_from_ns, valid_to_ns), known to us since known_at_ns."""
    return instant("valid_from_ns"), instant("valid_to_ns", is_optional=True), instant("known_at_ns")


def unique_reference(table: str) -> Index:
    """A caller's own name for a thing is unique within the organisation, unless it is left empty."""
    name = f"{table}_partner_reference_key"
    where = literal("partner_reference <> ''")
    return Index(name, "organisation_id", "partner_reference", unique=True, postgresql_where=where)
