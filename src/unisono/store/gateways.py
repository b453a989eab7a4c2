"""Gateways: added, given a secret, revoked; each change announces the whole record to fronts and realtime."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, insert, select, update

from unisono.base.errors import NotFound
from unisono.model.registry import GatewayRecord
from unisono.store import outbox
from unisono.store.identity import fresh_id
from unisono.store.tables.devices import GATEWAY

_RECORD = tuple(GATEWAY.c[name] for name in GatewayRecord.__struct_fields__)


def add(
    connection: Connection,
    organisation_id: str,
    now_ns: int,
    *,
    link: str = "mqtt",
    vendor: str = "",
    secret_sha256: str = "",
    partner_reference: str = "",
) -> GatewayRecord:
    """Add a gateway (Conflict if the reference is taken) and announce it; without a secret it may not connect."""
    row = {
        "gateway_id": fresh_id("gateway", now_ns),
        "organisation_id": organisation_id,
        "link": link,
        "vendor": vendor,
        "secret_sha256": secret_sha256,
        "partner_reference": partner_reference,
        "created_ns": now_ns,
    }
    record = GatewayRecord(**connection.execute(insert(GATEWAY).returning(*_RECORD), row).one()._asdict())
    outbox.put_records_for_all(connection, [record], organisation_id, now_ns)
    return record


def set_secret(
    connection: Connection, organisation_id: str, gateway_id: str, secret_sha256: str, now_ns: int
) -> GatewayRecord:
    """Replace the secret (the old one is refused from the moment the fronts hear of it) and lift a revocation."""
    return _change(connection, organisation_id, gateway_id, now_ns, secret_sha256=secret_sha256, is_revoked=False)


def revoke(connection: Connection, organisation_id: str, gateway_id: str, now_ns: int) -> GatewayRecord:
    """Shut the gateway out; again changes nothing but the revision."""
    return _change(connection, organisation_id, gateway_id, now_ns, is_revoked=True)


def records(connection: Connection, gateway_nos: Collection[int]) -> list[GatewayRecord]:
    """Return the registry records of these gateways."""
    found = select(*_RECORD).where(GATEWAY.c.gateway_no.in_(gateway_nos)).order_by(GATEWAY.c.gateway_no)
    return [GatewayRecord(**row._asdict()) for row in connection.execute(found)]


def numbers(connection: Connection, organisation_id: str) -> set[int]:
    """Return the numbers of an organisation's gateways."""
    mine = select(GATEWAY.c.gateway_no).where(GATEWAY.c.organisation_id == organisation_id)
    return set(connection.execute(mine).scalars())


def _change(
    connection: Connection, organisation_id: str, gateway_id: str, now_ns: int, **values: object
) -> GatewayRecord:
    mine = (GATEWAY.c.organisation_id == organisation_id) & (GATEWAY.c.gateway_id == gateway_id)
    change = update(GATEWAY).where(mine).values(revision=GATEWAY.c.revision + 1, **values).returning(*_RECORD)
    row = connection.execute(change).first()
    if row is None:
        raise NotFound("gateway", gateway_id)
    record = GatewayRecord(**row._asdict())
    outbox.put_records_for_all(connection, [record], organisation_id, now_ns)
    return record
