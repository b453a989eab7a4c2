"""The timeline of what goes wrong: which devices lie, refuse, drop out, and when the vendor cloud goes dark.

Who does what is drawn from the seed when the region is built; it begins at the instant of ``begin``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import MISSING_NS, NS_PER_S
from unisono.sim import leases
from unisono.sim.roster import HTTP_CLOUD, Floats, Roster
from unisono.sim.spec import Misbehaviour, WorldSpec


@dataclass(slots=True)
class Faults:
    """What is wrong now: ``trait`` bits (``leases``), who can be reached, whose clock is off, which cloud is dark."""

    spec: Misbehaviour
    roster: Roster
    trait: NDArray[np.uint8]
    planned_trait: NDArray[np.uint8]
    skew_s: Floats
    planned_skew_s: Floats
    drop_at_s: Floats
    drop_for_s: Floats
    is_dropped: NDArray[np.bool_]
    gateway_is_up: NDArray[np.bool_]
    dark_gateways: NDArray[np.intp]
    begun_ns: int = MISSING_NS

    def begin(self, now_ns: int) -> None:
        """Let everything that is planned go wrong from ``now_ns`` on."""
        self.begun_ns = now_ns
        self.trait[:] = self.planned_trait
        self.skew_s[:] = self.planned_skew_s

    def advance(self, now_ns: int) -> NDArray[np.intp]:
        """Bring dropouts and the dark cloud up to ``now_ns``; return the gateways that have just come back."""
        if self.begun_ns == MISSING_NS:
            return np.zeros(0, np.intp)
        since_s = (now_ns - self.begun_ns) / NS_PER_S
        if self.spec.repeat_s > 0.0:
            since_s %= self.spec.repeat_s
        np.logical_and(since_s >= self.drop_at_s, since_s < self.drop_at_s + self.drop_for_s, out=self.is_dropped)
        dark_from, dark_to = self.spec.cloud_dark_after_s, self.spec.cloud_dark_after_s + self.spec.cloud_dark_s
        was_up = self.gateway_is_up[self.dark_gateways].copy()
        self.gateway_is_up[self.dark_gateways] = not dark_from <= since_s < dark_to
        return self.dark_gateways[~was_up & self.gateway_is_up[self.dark_gateways]]

    def reachable(self) -> NDArray[np.bool_]:
        """Return for each device whether its own link works (its gateway may be down all the same)."""
        return ~self.is_dropped

    def counts(self) -> dict[str, int]:
        """Return how many devices have each planned fault."""
        names = {
            "acknowledges_and_does_nothing": leases.DOES_NOTHING,
            "frozen_telemetry": leases.FROZEN,
            "wrong_sign": leases.WRONG_SIGN,
            "refuses": leases.REFUSES,
            "acts_and_never_acknowledges": leases.MUTE,
            "over_delivers": leases.OVER_DELIVERS,
            "opts_out": leases.OPTS_OUT,
        }
        counts = {name: int(np.count_nonzero(self.planned_trait & bit)) for name, bit in names.items()}
        counts["drops_out"] = int(np.count_nonzero(np.isfinite(self.drop_at_s)))
        counts["clock_skew"] = int(np.count_nonzero(self.planned_skew_s))
        counts["behind_dark_cloud"] = int(np.count_nonzero(np.isin(self.roster.gateway_of_row, self.dark_gateways)))
        return counts


def plan_faults(spec: WorldSpec, roster: Roster) -> Faults:
    """Draw who will misbehave; a device has one bad trait at most, and may drop out besides."""
    rng = np.random.default_rng([spec.seed, 5])
    bad, n = spec.misbehaviour, roster.n_devices
    trait = np.zeros(n, np.uint8)
    free = rng.permutation(n)
    third = bad.liar_frac / 3.0
    for bit, share in (
        (leases.DOES_NOTHING, third),
        (leases.FROZEN, third),
        (leases.WRONG_SIGN, third),
        (leases.REFUSES, bad.refuse_frac),
        (leases.MUTE, bad.mute_frac),
        (leases.OVER_DELIVERS, bad.over_deliver_frac),
        (leases.OPTS_OUT, bad.opt_out_frac),
    ):
        take = round(share * n)
        trait[free[:take]] |= bit
        free = free[take:]
    skew = np.zeros(n)
    skewed = free[: round(bad.skew_frac * n)]
    skew[skewed] = rng.uniform(5.0, max(5.0, bad.skew_max_s), skewed.size) * rng.choice([-1.0, 1.0], skewed.size)
    drop_at, drop_for = np.full(n, np.inf), np.zeros(n)
    dropped = rng.permutation(n)[: round(bad.dropout_frac * n)]
    drop_at[dropped] = rng.uniform(0.0, bad.dropout_window_s, dropped.size)
    drop_for[dropped] = rng.uniform(0.1, 1.0, dropped.size) * bad.dropout_s
    dark = (roster.gateway_kind == HTTP_CLOUD) & (roster.cloud_of_gateway == bad.dark_cloud)
    return Faults(
        spec=bad,
        roster=roster,
        trait=np.zeros(n, np.uint8),
        planned_trait=trait,
        skew_s=np.zeros(n),
        planned_skew_s=skew,
        drop_at_s=drop_at,
        drop_for_s=drop_for,
        is_dropped=np.zeros(n, bool),
        gateway_is_up=np.ones(roster.n_gateways, bool),
        dark_gateways=np.flatnonzero(dark),
    )
