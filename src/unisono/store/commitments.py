"""The one ledger of what is owed: commitments by interval, never changed, only withdrawn."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from unisono.base.errors import NotFound
from unisono.model.commitment import Commitment, CommitmentInterval
from unisono.store.tables.dispatches import COMMITMENT, COMMITMENT_INTERVAL
from unisono.store.tables.portfolios import PORTFOLIO

_C = COMMITMENT.c
_I = COMMITMENT_INTERVAL.c


def add(connection: Connection, commitment: Commitment, now_ns: int) -> None:
    """Keep a commitment with its intervals; Conflict if the id is taken, NotFound for a portfolio of somebody else."""
    p = PORTFOLIO.c
    mine = (p.organisation_id == commitment.organisation_id) & (p.portfolio_id == commitment.portfolio_id)
    portfolio_no = connection.execute(select(p.portfolio_no).where(mine)).scalar_one_or_none()
    if portfolio_no is None:
        raise NotFound("portfolio", commitment.portfolio_id)
    head = {
        "commitment_id": commitment.commitment_id,
        "organisation_id": commitment.organisation_id,
        "portfolio_no": portfolio_no,
        "counterparty": commitment.counterparty,
        "basis": commitment.basis,
        "currency": commitment.currency,
        "created_ns": now_ns,
    }
    connection.execute(insert(COMMITMENT), head)
    owner = {"commitment_id": commitment.commitment_id, "organisation_id": commitment.organisation_id}
    rows = [{**owner, **msgspec.structs.asdict(interval)} for interval in commitment.intervals]
    if rows:
        connection.execute(insert(COMMITMENT_INTERVAL), rows)


def withdraw(connection: Connection, organisation_id: str, commitment_id: str, now_ns: int) -> None:
    """Let a commitment count no more from now on (again: the first instant stays); NotFound if it is not there."""
    mine = (_C.organisation_id == organisation_id) & (_C.commitment_id == commitment_id)
    withdrawn = update(COMMITMENT).where(mine).values(withdrawn_ns=func.coalesce(_C.withdrawn_ns, now_ns))
    if connection.execute(withdrawn).rowcount != 1:
        raise NotFound("commitment", commitment_id)


def owed(
    connection: Connection, organisation_id: str, portfolio_id: str, start_ns: int, end_ns: int
) -> list[CommitmentInterval]:
    """Return the intervals of standing commitments that touch [start_ns, end_ns), by their start."""
    p = PORTFOLIO.c
    mine = (_C.organisation_id == organisation_id) & (p.portfolio_id == portfolio_id) & _C.withdrawn_ns.is_(None)
    found = (
        select(*(_I[name] for name in CommitmentInterval.__struct_fields__))
        .join_from(COMMITMENT_INTERVAL, COMMITMENT, _C.commitment_id == _I.commitment_id)
        .join(PORTFOLIO, p.portfolio_no == _C.portfolio_no)
        .where(mine & (_I.start_ns < end_ns) & (_I.end_ns > start_ns))
        .order_by(_I.start_ns, _I.commitment_id)
    )
    return [CommitmentInterval(**row._asdict()) for row in connection.execute(found)]
