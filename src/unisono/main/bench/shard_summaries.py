"""What shards would say of themselves each cycle, without any devices: for the coordinator alone."""

from __future__ import annotations

from typing import Any

import msgspec

from unisono.model.dispatch import DispatchProgress, ShardPart
from unisono.model.totals import PortfolioTotals, ShardTotals

PORTFOLIO_NO = 1

_PORTFOLIO = PortfolioTotals(
    portfolio_no=PORTFOLIO_NO,
    n_devices=1000,
    n_by_trust=(0, 1000, 0, 0, 0),
    n_by_lifecycle=(0, 0, 1000, 0, 0),
    n_by_technology={1: 1000},
    enrolled_export_w_by_technology={1: 5e6},
    power_w=0.0,
    power_sd_w=0.0,
    commanded_w=0.0,
    acknowledged_w=0.0,
    reported_w=0.0,
    measured_w=0.0,
    n_by_level=(0, 0, 0, 0),
    up_w=4e6,
    down_w=4e6,
    dispatchable_up_w=3e6,
    dispatchable_down_w=3e6,
    dispatchable_hold_s=900.0,
    energy_up_wh=0.0,
    energy_down_wh=0.0,
    completeness_frac=1.0,
)
_PART = ShardPart(
    portfolio_no=PORTFOLIO_NO,
    kind="change_w",
    limit_is_export=True,
    round=0,
    share_frac=1.0,
    elsewhere_w=float("nan"),
    power_w=1e6,
    base_w=0.0,
    left_w=0.0,
)
_PROGRESS = DispatchProgress(
    dispatch_id="dsp_1",
    revision=1,
    organisation_id="org_1",
    portfolio_id="pfo_1",
    shard=0,
    epoch=1,
    cycle=1,
    at_ns=0,
    state="active",
    target_w=0.0,
    commanded_w=None,
    acknowledged_w=None,
    reported_w=None,
    measured_w=None,
    delivered_w=0.0,
    delivered_sd_w=0.0,
    shortfall_w=0.0,
    reference_w=0.0,
    n_eligible=0,
    n_targeted=0,
    n_sent=0,
    n_acknowledged=0,
    n_moving=0,
    n_delivered=0,
    n_opted_out=0,
    n_refused=0,
    n_silent=0,
    n_suspect=0,
    part=_PART,
)


def summary(
    shard: int,
    cycle: int,
    *,
    progress: dict[str, Any] | None = None,
    portfolio: dict[str, Any] | None = None,
    epoch: int = 1,
    n_dispatches: int = 1,
    **part: Any,
) -> ShardTotals:
    """Return a shard's totals of a cycle with one portfolio and its dispatches; the keywords change their fields."""
    row = msgspec.structs.replace(
        _PROGRESS,
        shard=shard,
        epoch=epoch,
        cycle=cycle,
        part=msgspec.structs.replace(_PART, **part),
        **(progress or {}),
    )
    return ShardTotals(
        shard=shard,
        epoch=epoch,
        cycle=cycle,
        at_ns=cycle,
        cycle_ms=1.0,
        n_devices=1000,
        n_by_trust=(0, 1000, 0, 0, 0),
        power_w=0.0,
        up_w=0.0,
        down_w=0.0,
        readings_seq=0,
        portfolios=(msgspec.structs.replace(_PORTFOLIO, **(portfolio or {})),),
        dispatches=tuple(
            msgspec.structs.replace(row, dispatch_id=f"dsp_{number}") for number in range(1, n_dispatches + 1)
        ),
        ingest=None,
    )
