"""API keys: the bearer's token is random, its SHA-256 is all that is kept (enough for 256 random bits)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from unisono.base.errors import InvalidInput, NotFound
from unisono.store.identity import fresh_id
from unisono.store.tables.parties import API_KEY

# So that a leaked token is recognised by scanners, and a gateway's secret is not taken for a key.
TOKEN_PREFIX: Final = "uni_"  # noqa: S105 - no secret


class ApiKey(msgspec.Struct, frozen=True):
    """What a key allows, and to whom."""

    key_id: str
    organisation_id: str
    name: str
    scopes: tuple[str, ...]
    created_ns: int
    expires_at_ns: int | None
    revoked_at_ns: int | None

    def refusal(self, now_ns: int) -> str:
        """Return why the key is not good (any more), "" if it is."""
        if self.revoked_at_ns is not None and now_ns >= self.revoked_at_ns:
            return "revoked"
        if self.expires_at_ns is not None and now_ns >= self.expires_at_ns:
            return "expired"
        return ""


_COLUMNS = tuple(API_KEY.c[name] for name in ApiKey.__struct_fields__)


def make(
    connection: Connection,
    organisation_id: str,
    name: str,
    scopes: Collection[str],
    now_ns: int,
    *,
    expires_at_ns: int | None = None,
) -> tuple[ApiKey, str]:
    """Make a key and return it with its token, which can't be had again."""
    if expires_at_ns is not None and expires_at_ns <= now_ns:
        raise InvalidInput("expires_at", expires_at_ns, "must lie in the future")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    key_id = fresh_id("key", now_ns)
    key = ApiKey(key_id, organisation_id, name, tuple(sorted(set(scopes))), now_ns, expires_at_ns, None)
    row = {**msgspec.structs.asdict(key), "scopes": list(key.scopes), "secret_sha256": digest(token)}
    connection.execute(insert(API_KEY), row)
    return key, token


def find(connection: Connection, token: str) -> ApiKey | None:
    """Return the key of a token, good or not (ask ``refusal``), or None."""
    row = connection.execute(select(*_COLUMNS).where(API_KEY.c.secret_sha256 == digest(token))).first()
    return _key(row) if row else None


def locked(connection: Connection, organisation_id: str, key_id: str) -> ApiKey:
    """Return a key and keep it from being changed elsewhere until the transaction ends; else NotFound."""
    mine = (API_KEY.c.organisation_id == organisation_id) & (API_KEY.c.key_id == key_id)
    row = connection.execute(select(*_COLUMNS).where(mine).with_for_update()).first()
    if row is None:
        raise NotFound("key", key_id)
    return _key(row)


def revoke(connection: Connection, organisation_id: str, key_id: str, now_ns: int) -> ApiKey:
    """Revoke a key for good (again: the first instant stays) and return it; NotFound if the organisation has none."""
    mine = (API_KEY.c.organisation_id == organisation_id) & (API_KEY.c.key_id == key_id)
    revoked_at = func.coalesce(API_KEY.c.revoked_at_ns, now_ns)
    row = connection.execute(update(API_KEY).where(mine).values(revoked_at_ns=revoked_at).returning(*_COLUMNS)).first()
    if row is None:
        raise NotFound("key", key_id)
    return _key(row)


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret, hex; the same for API tokens and gateways' secrets."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Any) -> ApiKey:
    values = row._asdict()
    return ApiKey(**{**values, "scopes": tuple(values["scopes"])})
