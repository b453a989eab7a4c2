"""What a demonstration has seen: the facts that its verdict and both of its reports are made from."""

from __future__ import annotations

import msgspec


class Check(msgspec.Struct, frozen=True):
    """One condition of success: what was seen, what was asked."""

    name: str
    seen: str
    asked: str
    is_met: bool


class Share(msgspec.Struct, frozen=True):
    """One row of a breakdown (a technology or a failure domain).

    ``true_wh`` is what the region's meters say of the whole dispatch; the powers, in W, are of one instant in the hold.
    """

    name: str
    n_devices: int
    n_called: int
    true_wh: float
    estimated_w: float | None = None
    true_w: float | None = None


class Series(msgspec.Struct, frozen=True):
    """A line: instants in seconds from the dispatch's start, and powers in W."""

    at_s: list[float]
    power_w: list[float]


class DemoRecord(msgspec.Struct, kw_only=True):
    """Everything a report shows."""

    world: str
    seed: int
    n_devices: int
    n_sites: int
    n_gateways: int
    started: str
    phase_s: dict[str, float] = {}
    portfolios: list[dict[str, object]] = []
    target_w: float = 0.0
    true_deliverable_w: float = 0.0
    dispatchable_w: float = 0.0
    ramp_s: float = 0.0
    hold_start_s: float = 0.0
    hold_end_s: float = 0.0
    target: Series = Series([], [])
    estimated: Series = Series([], [])
    estimated_sd: Series = Series([], [])
    true: Series = Series([], [])
    shortfall: Series = Series([], [])
    funnel: dict[str, int] = {}
    n_refilled: int = 0
    refill_s: float | None = None
    # Seconds from the start at which the powers of by_technology were looked at.
    looked_at_s: float = 0.0
    by_technology: list[Share] = []
    by_domain: list[Share] = []
    ingest: dict[str, int] = {}
    n_acknowledged: int = 0
    misbehaviour: dict[str, object] = {}
    # While a vendor's cloud is dark, in seconds from the start.
    dark_from_s: float = 0.0
    dark_to_s: float = 0.0
    violations: dict[str, int] = {}
    log_entries: int = 0
    log_head: str = ""
    checks: list[Check] = []

    @property
    def is_success(self) -> bool:
        """True if every check is met (and there are some)."""
        return bool(self.checks) and all(check.is_met for check in self.checks)
