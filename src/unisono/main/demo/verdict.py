"""Whether a demonstration succeeded, by the simulator's own meters and ledger; pure."""

from __future__ import annotations

from typing import Final

from unisono.main.demo.record import Check, DemoRecord, Series

# The bounds that a plant has to hold to be called dependable here.
ENERGY_ERROR_MAX_FRAC: Final = 0.02
INTERVAL_ERROR_MAX_FRAC: Final = 0.05
INTERVALS_WITHIN_MIN_FRAC: Final = 0.95
DISPATCHABLE_MIN_FRAC: Final = 0.50


def hold_energy_error_frac(record: DemoRecord) -> float:
    """Return the relative error of true energy over the hold against the target; NaN without intervals."""
    powers_w = _within(record.true, record.hold_start_s, record.hold_end_s)
    if not powers_w or record.target_w == 0:
        return float("nan")
    return sum(powers_w) / len(powers_w) / record.target_w - 1.0


def hold_intervals_within_frac(record: DemoRecord) -> float:
    """Return the share of the hold's intervals with true power within 5 % of the target; NaN without intervals."""
    powers_w = _within(record.true, record.hold_start_s, record.hold_end_s)
    if not powers_w or record.target_w == 0:
        return float("nan")
    n_within = sum(abs(power_w / record.target_w - 1.0) <= INTERVAL_ERROR_MAX_FRAC for power_w in powers_w)
    return n_within / len(powers_w)


def judge(record: DemoRecord, *, is_log_whole: bool, n_acknowledged_lost: int) -> list[Check]:
    """Return the checks that decide the exit code."""
    energy_error_frac = hold_energy_error_frac(record)
    within_frac = hold_intervals_within_frac(record)
    promised_frac = record.dispatchable_w / record.true_deliverable_w if record.true_deliverable_w else 0.0
    n_violations = sum(record.violations.values())
    named = ", ".join(f"{name} {n}" for name, n in sorted(record.violations.items()) if n)
    return [
        Check(
            "energy over the hold, by the region's meters",
            f"{100 * energy_error_frac:+.2f} %",
            f"within {_percent(ENERGY_ERROR_MAX_FRAC)} of target",
            abs(energy_error_frac) <= ENERGY_ERROR_MAX_FRAC,
        ),
        Check(
            "4 s intervals of the hold within 5 % of target",
            _percent(within_frac),
            f"at least {_percent(INTERVALS_WITHIN_MIN_FRAC)}",
            within_frac >= INTERVALS_WITHIN_MIN_FRAC,
        ),
        Check(
            "dispatchable capacity promised beforehand, of what was truly deliverable",
            _percent(promised_frac),
            f"at least {_percent(DISPATCHABLE_MIN_FRAC)}, at most 100 %",
            DISPATCHABLE_MIN_FRAC <= promised_frac <= 1.0,
        ),
        Check(
            "limits, opt-outs, expiries and epochs broken (the region's ledger)", named or "0", "0", n_violations == 0
        ),
        Check("readings acknowledged and lost", str(n_acknowledged_lost), "0", n_acknowledged_lost == 0),
        Check(
            "event log re-hashed",
            f"{record.log_entries} entries, {'whole' if is_log_whole else 'BROKEN'}",
            "whole",
            is_log_whole and record.log_entries > 0,
        ),
    ]


def _percent(frac: float) -> str:
    return f"{100 * frac:.4g} %"


def refill_time_s(shortfall: Series, *, threshold_w: float, from_s: float) -> float | None:
    """Return how long the longest shortfall above ``threshold_w`` after ``from_s`` lasted; None if it never ended."""
    longest_s, began_s = 0.0, None
    for at_s, power_w in zip(shortfall.at_s, shortfall.power_w, strict=True):
        if at_s < from_s:
            continue
        if power_w > threshold_w:
            began_s = at_s if began_s is None else began_s
        elif began_s is not None:
            longest_s, began_s = max(longest_s, at_s - began_s), None
    return None if began_s is not None else longest_s


def _within(series: Series, start_s: float, end_s: float) -> list[float]:
    """Return the powers of intervals that begin in [start_s, end_s)."""
    return [w for at_s, w in zip(series.at_s, series.power_w, strict=True) if start_s <= at_s < end_s]
