"""A bulk job's secret seed: 32 random bytes in front of its request, from which its gateways' secrets are derived.

So no gateway's secret is ever stored, and the job alone can show them, until its result was handed out once: then the
seed is overwritten, and nobody can.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from sqlalchemy import Connection, func, select, update

from unisono.store.tables.operations import JOB

SEED_BYTES: Final = 32
SPENT: Final = bytes(SEED_BYTES)


def seed_of(connection: Connection, job_id: str) -> bytes | None:
    """Return the job's seed, or None once it is spent."""
    seed = connection.execute(
        select(func.substring(JOB.c.request, 1, SEED_BYTES)).where(JOB.c.job_id == job_id)
    ).scalar_one()
    return None if bytes(seed) == SPENT else bytes(seed)


def spend(connection: Connection, job_id: str) -> None:
    """Forget the seed for good; the rest of the request stays."""
    rest = func.substring(JOB.c.request, SEED_BYTES + 1)
    connection.execute(
        update(JOB).where(JOB.c.job_id == job_id).values(request=func.decode(SPENT.hex(), "hex").op("||")(rest))
    )


def gateway_secret(seed: bytes, gateway_reference: str) -> str:
    """Return the secret of the gateway that the job makes under this reference: 43 characters, 256 bits."""
    digest = hmac.new(seed, gateway_reference.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
