"""After the dispatch: what the platform recorded and what the region's ledger says, brought into one record."""

from __future__ import annotations

import time
from typing import Any, Final

from unisono.base.instants import NS_PER_S, parse_rfc3339
from unisono.main.client import ApiClient
from unisono.main.demo.children import RegionProcess, wait_until
from unisono.main.demo.record import DemoRecord, Series, Share
from unisono.main.demo.verdict import judge, refill_time_s
from unisono.model.ingest import COUNTER_NAMES
from unisono.model.technology import Technology
from unisono.sim.spec import WorldSpec

# A shortfall counts as one when it is more than this share of the target.
SHORTFALL_FRAC: Final = 0.05
# The recorder is a second or two behind the last cycle.
RECORDER_TIMEOUT_S: Final = 15.0
# Fronts tell their counts every 2 s: what they accepted and has its fate, and does not grow for longer, is the end.
COUNTERS_STILL_S: Final = 2.5
# After so long without a change, a reading without a fate is shown as it is: accepted and none of the rest.
COUNTERS_GIVEN_UP_S: Final = 10.0
COUNTERS_TIMEOUT_S: Final = 60.0


def fill_record(
    record: DemoRecord,
    client: ApiClient,
    dispatch: dict[str, Any],
    portfolios: list[dict[str, Any]],
    region: RegionProcess,
    *,
    is_kept: bool,
) -> None:
    """Fill in everything that the reports show, and the verdict."""
    start_ns = round(dispatch["start_at"].timestamp() * NS_PER_S)
    _fill_outcomes(record, _recorded(client, dispatch), start_ns)
    record.portfolios = [_portfolio(client, portfolio) for portfolio in portfolios]
    ledger = region.ask_truth()
    if not is_kept:
        region.stop()
    record.ingest = _ingest(client, is_settled=not is_kept)
    _fill_ledger(record, ledger, start_ns, dispatch["estimated_w_of_technology"])
    log = client.get("/v1/log/verification")
    record.log_entries, record.log_head = int(log["n_entries"]), str(log["head"])
    n_acknowledged = int(ledger["counters"].get("readings_acknowledged", 0))
    # Readings at QoS 0 carry no promise, but are accepted too: they must not stand in for promised ones.
    n_unpromised = int(ledger["counters"].get("readings_at_qos_0", 0))
    n_lost = max(0, n_acknowledged + n_unpromised - record.ingest["accepted"])
    record.n_acknowledged = n_acknowledged
    record.checks = judge(record, is_log_whole=bool(log["is_whole"]), n_acknowledged_lost=n_lost)


def _recorded(client: ApiClient, dispatch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the recorded cycles, once the last one is there."""
    path = f"/v1/vpp/dispatches/{dispatch['dispatch_id']}/outcome"

    def finished() -> list[dict[str, Any]] | None:
        cycles = list(client.pages(path))
        return cycles if any(cycle["state"] == "completed" for cycle in cycles) else None

    cycles: list[dict[str, Any]] = wait_until(finished, RECORDER_TIMEOUT_S, "the record of the last cycle", every_s=0.5)
    return sorted(cycles, key=lambda cycle: str(cycle["at"]))


def _fill_outcomes(record: DemoRecord, cycles: list[dict[str, Any]], start_ns: int) -> None:
    at_s = [(parse_rfc3339(cycle["at"]) - start_ns) / NS_PER_S for cycle in cycles]

    def line(name: str) -> Series:
        return Series(at_s, [float(cycle[name]) * 1e3 for cycle in cycles])

    record.target, record.estimated = line("target_kw"), line("delivered_kw")
    record.estimated_sd, record.shortfall = line("delivered_sd_kw"), line("shortfall_kw")
    within = Series(
        [s for s in at_s if s < record.hold_end_s],
        [w for s, w in zip(at_s, record.shortfall.power_w, strict=True) if s < record.hold_end_s],
    )
    record.refill_s = refill_time_s(within, threshold_w=SHORTFALL_FRAC * record.target_w, from_s=record.hold_start_s)
    in_hold = [c for s, c in zip(at_s, cycles, strict=True) if record.hold_start_s <= s < record.hold_end_s]
    if in_hold:
        record.funnel = {name: int(n) for name, n in in_hold[-1]["funnel"].items()}
        record.n_refilled = sum(int(cycle["funnel"]["refilled"]) for cycle in in_hold)


def estimate_by_technology(client: ApiClient) -> dict[str, float]:
    """Return what the platform believes that each technology delivers now, in W; called devices only."""
    estimates_w: dict[str, float] = {}
    for technology in Technology:
        states = client.pages("/v1/devices/states", asset_type=technology.asset_type)
        called = [state for state in states if state["dispatch_no"] is not None and state["expected_kw"] is not None]
        delivered_kw = sum(state["expected_kw"] - (state["reference_kw"] or 0.0) for state in called)
        estimates_w[technology.asset_type] = delivered_kw * 1e3
    return estimates_w


def _fill_ledger(
    record: DemoRecord, ledger: dict[str, Any], start_ns: int, estimated_w_of_technology: dict[str, float]
) -> None:
    at_s = [(at_ns - start_ns) / NS_PER_S for at_ns in ledger["interval_start_ns"]]
    shown = [i for i, s in enumerate(at_s) if s >= -12.0]
    record.true = Series([at_s[i] for i in shown], [float(ledger["delivered_w"][i]) for i in shown])
    record.violations = {name: int(n) for name, n in ledger["n_violations"].items()}
    looked_at = max((i for i in shown if at_s[i] <= record.looked_at_s), default=None)
    for name, share in ledger["by_technology"].items():
        lines = ledger["delivered_w_by_technology"][name]
        true_w = None if looked_at is None else float(lines[looked_at])
        estimated_w = estimated_w_of_technology.get(name, 0.0)
        record.by_technology.append(
            Share(name, share["n_devices"], share["n_called"], share["delivered_wh"], estimated_w, true_w)
        )
    record.by_domain = [
        Share(name, share["n_devices"], share["n_called"], share["delivered_wh"])
        for name, share in ledger["by_vendor"].items()
    ]
    record.misbehaviour = dict(ledger["faults"])
    fault = WorldSpec().misbehaviour
    record.dark_from_s = (ledger["misbehaves_from_ns"] - start_ns) / NS_PER_S + fault.cloud_dark_after_s
    record.dark_to_s = record.dark_from_s + fault.cloud_dark_s


def _portfolio(client: ApiClient, portfolio: dict[str, Any]) -> dict[str, object]:
    status = client.get(f"/v1/vpp/portfolios/{portfolio['portfolio_id']}/status")
    return {
        "name": portfolio["name"],
        "n_devices": status["n_devices"],
        "enrolled_mw": f"{status['enrolled_kw'] / 1e3:.2f}",
        "dispatchable_mw": f"{(status['dispatchable_capacity_kw'] or 0.0) / 1e3:.2f}",
    }


def _ingest(client: ApiClient, *, is_settled: bool) -> dict[str, int]:
    """Return what became of every reading; once nothing comes in, wait until each has its fate and no count moves."""
    seen: list[tuple[float, dict[str, int]]] = []

    def is_over() -> bool:
        counted = client.get("/v1/ingest/counters")["totals"]
        counts = {name: int(counted[name]) for name in COUNTER_NAMES}
        if not seen or counts != seen[-1][1]:
            seen.append((time.monotonic(), counts))
        changed_s, counts = seen[-1]
        n_open = counts["accepted"] - sum(n for name, n in counts.items() if name != "accepted")
        still_s = COUNTERS_STILL_S if n_open == 0 else COUNTERS_GIVEN_UP_S
        return not is_settled or time.monotonic() - changed_s >= still_s

    wait_until(is_over, COUNTERS_TIMEOUT_S, "the fate of every reading", every_s=0.5)
    return seen[-1][1]
