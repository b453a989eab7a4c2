"""Shard leases: who may command a shard, under which epoch. The epoch only grows; gateways drop lower ones."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import BigInteger, Connection, cast, extract, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from unisono.base.instants import NS_PER_S
from unisono.store.tables.operations import SHARD_LEASE

# Any number, the same for all owners of one database.
_EPOCH_LOCK: Final = 7_233_003


class Lease(msgspec.Struct, frozen=True):
    """A shard's present lease."""

    shard: int
    epoch: int
    owner: str
    expires_ns: int


def acquire(
    connection: Connection, shard: int, owner: str, duration_s: float, *, now_ns: int | None = None
) -> int | None:
    """Take the shard and return the new epoch, or None while another owner's lease runs.

    An owner of the same name takes over at once: it is the same place started again, and the higher epoch shuts out
    whatever may be left of it. ``now_ns`` None: by the database's clock, the only one that several machines share.
    """
    now = _now(now_ns)
    expires = now + round(duration_s * NS_PER_S)
    # Epochs differ over the whole plant, so that what a gateway hears from one shard is never taken for another's.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _EPOCH_LOCK})
    epoch = select(func.coalesce(func.max(SHARD_LEASE.c.epoch), 0) + 1).scalar_subquery()
    new = insert(SHARD_LEASE).values(shard=shard, epoch=epoch, owner=owner, expires_ns=expires)
    is_free = (SHARD_LEASE.c.expires_ns <= now) | (SHARD_LEASE.c.owner == owner)
    changes = {"epoch": new.excluded.epoch, "owner": owner, "expires_ns": expires}
    taken = new.on_conflict_do_update(index_elements=["shard"], set_=changes, where=is_free)
    return connection.execute(taken.returning(SHARD_LEASE.c.epoch)).scalar_one_or_none()


def renew(
    connection: Connection, shard: int, owner: str, epoch: int, duration_s: float, *, now_ns: int | None = None
) -> bool:
    """Let the lease run ``duration_s`` from now; False means that it is lost for good (another epoch has begun)."""
    expires = _now(now_ns) + round(duration_s * NS_PER_S)
    ours = update(SHARD_LEASE).where(_is(shard, owner, epoch)).values(expires_ns=expires)
    return connection.execute(ours).rowcount == 1


def release(connection: Connection, shard: int, owner: str, epoch: int) -> bool:
    """Give the shard up at once, so that a successor need not wait; False if it was not ours any more."""
    # The row stays, for its epoch.
    ours = update(SHARD_LEASE).where(_is(shard, owner, epoch)).values(expires_ns=0, owner="")
    return connection.execute(ours).rowcount == 1


def current(connection: Connection, shard: int) -> Lease | None:
    """Return the shard's newest lease, running or not; None if nobody ever had it."""
    columns = (SHARD_LEASE.c.shard, SHARD_LEASE.c.epoch, SHARD_LEASE.c.owner, SHARD_LEASE.c.expires_ns)
    row = connection.execute(select(*columns).where(SHARD_LEASE.c.shard == shard)).first()
    return Lease(*row) if row else None


def _is(shard: int, owner: str, epoch: int) -> ColumnElement[bool]:
    return (SHARD_LEASE.c.shard == shard) & (SHARD_LEASE.c.owner == owner) & (SHARD_LEASE.c.epoch == epoch)


def _now(now_ns: int | None) -> ColumnElement[int]:
    if now_ns is not None:
        return literal(now_ns, BigInteger)
    return cast(extract("epoch", func.clock_timestamp()) * NS_PER_S, BigInteger)
