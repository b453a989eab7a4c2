"""Commitment: a quantity per interval owed to someone, with the price of deviating up and down; one ledger for all."""

from __future__ import annotations

import msgspec


class CommitmentInterval(msgspec.Struct, frozen=True, kw_only=True):
    """[start_ns, end_ns) and the mean power owed in it; prices in a currency's millionths per kWh."""

    start_ns: int
    end_ns: int
    power_w: float
    deviation_up_micros_per_kwh: int = 0
    deviation_down_micros_per_kwh: int = 0


class Commitment(msgspec.Struct, frozen=True, kw_only=True):
    """What is owed, to whom, from which portfolio, by virtue of what (``basis``: a dispatch, an award, a contract)."""

    commitment_id: str
    organisation_id: str
    portfolio_id: str
    counterparty: str
    basis: str
    currency: str
    intervals: tuple[CommitmentInterval, ...]
