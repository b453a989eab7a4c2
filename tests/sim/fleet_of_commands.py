"""Command frames for tests of the region, made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.model.batches import CommandFrames
from unisono.model.technology import CommandKind
from unisono.sim.roster import Roster


def frames_for(
    roster: Roster,
    rows: NDArray[Any],
    value_w: Any,
    now_ns: int,
    *,
    seq: int = 1,
    epoch: int = 1,
    ttl_s: float = 60.0,
    kind: CommandKind = CommandKind.POWER_SETPOINT,
    fallback: int = 0,
    valid_s: float = 60.0,
) -> CommandFrames:
    """Return one command a row, with consecutive sequences from ``seq``."""
    n = len(rows)
    columns = {
        "device_no": rows + 1,
        "gateway_no": roster.gateway_of_row[rows] + 1,
        "dispatch_no": np.ones(n),
        "seq": np.arange(seq, seq + n),
        "kind": np.full(n, int(kind)),
        "fallback": np.full(n, fallback),
        "value": np.broadcast_to(value_w, (n,)),
        "start_ns": np.full(n, now_ns),
        "expires_ns": np.full(n, now_ns + round(valid_s * NS_PER_S)),
        "ttl_s": np.full(n, ttl_s),
    }
    return CommandFrames.of_columns({"shard": 0, "epoch": epoch, "cycle": 0, "issued_ns": now_ns}, columns)


def renewals_for(roster: Roster, through_seq: int, now_ns: int, *, epoch: int = 1) -> CommandFrames:
    """Return a renewal for every gateway."""
    n = roster.n_gateways
    columns = {
        "device_no": np.full(n, -1),
        "gateway_no": np.arange(1, n + 1),
        "seq": np.full(n, through_seq),
        "expires_ns": np.full(n, now_ns + 60 * NS_PER_S),
    }
    return CommandFrames.of_columns({"shard": 0, "epoch": epoch, "cycle": 0, "issued_ns": now_ns}, columns)
