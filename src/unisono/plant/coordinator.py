"""The coordinator of a plant of several shards: reads their totals each cycle, tells each its share of each dispatch.

Pure, and nearly without memory: which share a shard holds stands in its own totals, so another coordinator goes on
where one left off, and a shard that hears nothing keeps what it has. With one shard it has nothing to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.brain.dispatch.controller import ACTIVE, SCHEDULED
from unisono.brain.dispatch.shares import NOTICEABLE_FRAC, Shards, first_shares, moved_shares
from unisono.fleet.columns import F8
from unisono.model.dispatch import DispatchProgress, DispatchShare, ShardPart
from unisono.model.technology import EventKind
from unisono.model.totals import PortfolioTotals, ShardTotals

# An owner that died is replaced in some seconds and finds its devices at their setpoints: leases (60 s by default) are
# renewed every 20 s, so none has run out by then. Longer than this, and some have: the others take over.
AWAY_AFTER_S: Final = 45.0
# Before it begins, a dispatch is shared out anew when a share would differ by more than this.
DRIFT_FRAC: Final = 0.02
# What a shard lacks counts when it lacks it in so many cycles after each other: what is slow has begun by then.
LACKING_CYCLES: Final = 2

# A round that some hold and others don't: one that was not kept on its stream, after so many cycles.
UNSETTLED_CYCLES: Final = 5
# The base elsewhere is told anew when it has moved by this, or by a noticeable part of what is asked for.
DRIFT_LEAST_W: Final = 100.0

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Heard:
    totals: ShardTotals
    mono_ns: int
    progress: Mapping[str, DispatchProgress]
    portfolios: Mapping[int, PortfolioTotals]


@dataclass(slots=True)
class _Lacking:
    """What each shard lacked at least in the cycles since all held the newest round, and how many those were."""

    round: int
    left_w: F8
    n_cycles: int = 0


@dataclass(slots=True)
class Coordinator:
    """``fold`` takes totals in, ``decide`` is called once a cycle. ``began_ns``: monotonic instant of its start."""

    n_shards: int
    began_ns: int
    _heard: dict[int, _Heard] = field(default_factory=dict)
    _lacking: dict[str, _Lacking] = field(default_factory=dict)
    _n_unsettled: dict[str, int] = field(default_factory=dict)

    def fold(self, totals: ShardTotals, mono_ns: int) -> None:
        """Take a shard's newest totals in, unless an older owner or an older cycle speaks."""
        known = self._heard.get(totals.shard)
        if totals.shard >= self.n_shards or (known and _place(totals) <= _place(known.totals)):
            return
        progress = {one.dispatch_id: one for one in totals.dispatches if one.part and one.state in (SCHEDULED, ACTIVE)}
        portfolios = {one.portfolio_no: one for one in totals.portfolios}
        self._heard[totals.shard] = _Heard(totals, mono_ns, progress, portfolios)

    def decide(self, mono_ns: int) -> list[tuple[int, DispatchShare]]:
        """Return what to tell which shard; nothing while a shard is not known to be there or away."""
        if self.n_shards == 1:
            return []
        is_away = self._away(mono_ns)
        known = [shard for shard in range(self.n_shards) if shard in self._heard]
        if len(known) < self.n_shards and not is_away[[s for s in range(self.n_shards) if s not in self._heard]].all():
            return []
        there = [self._heard[shard] for shard in known if not is_away[shard]]
        ids = sorted({dispatch_id for heard in there for dispatch_id in heard.progress})
        self._lacking = {dispatch_id: self._lacking[dispatch_id] for dispatch_id in ids if dispatch_id in self._lacking}
        self._n_unsettled = {dispatch_id: n for dispatch_id, n in self._n_unsettled.items() if dispatch_id in ids}
        return [told for dispatch_id in ids for told in self._told(dispatch_id, is_away)]

    def _away(self, mono_ns: int) -> Bools:
        heard_ns = np.full(self.n_shards, self.began_ns, np.int64)
        for shard, heard in self._heard.items():
            heard_ns[shard] = heard.mono_ns
        away: Bools = mono_ns - heard_ns > AWAY_AFTER_S * NS_PER_S
        return away

    def _told(self, dispatch_id: str, is_away: Bools) -> list[tuple[int, DispatchShare]]:
        """Return the shares of one dispatch if they change; nothing while shards differ in where it stands."""
        rows = [self._heard[s].progress.get(dispatch_id) if s in self._heard else None for s in range(self.n_shards)]
        there = [row for row, away in zip(rows, is_away.tolist(), strict=True) if row is not None and not away]
        same = {(row.revision, row.state) for row in there}
        if len(there) < self.n_shards - int(is_away.sum()) or len(same) != 1:
            return []
        [(revision, state)] = same
        view = _View.of([row.part if row else None for row in rows], is_away)
        spec = view.first
        if state != ACTIVE and spec.kind != EventKind.CHANGE_W:
            # What the members are without it is known when it runs; until told, each aims at as much as the others.
            return []
        change_w = spec.power_w if spec.kind == EventKind.CHANGE_W else _beyond_w(spec, float(view.base_w.sum()))
        if not view.is_settled:
            # Somebody has not heard the newest round (yet): after a while all are told the same again.
            n_waited = self._n_unsettled.get(dispatch_id, 0) + 1
            self._n_unsettled[dispatch_id] = n_waited % UNSETTLED_CYCLES
            if n_waited < UNSETTLED_CYCLES:
                return []
            share_frac = view.share_frac / max(float(view.share_frac.sum()), 1e-9)
        elif state != ACTIVE:
            share_frac = self._before(spec, view, change_w)
        else:
            share_frac = self._during(dispatch_id, view, change_w)
        elsewhere_w = view.base_w.sum() - view.base_w
        if spec.kind == EventKind.CHANGE_W:
            elsewhere_w = np.full(self.n_shards, math.nan)
        if view.newest_round and view.is_settled and not view.differs(share_frac, elsewhere_w, abs(change_w)):
            return []
        return [
            (
                shard,
                DispatchShare(
                    dispatch_id=dispatch_id,
                    revision=revision,
                    round=view.newest_round + 1,
                    share_frac=float(share_frac[shard]),
                    elsewhere_w=float(elsewhere_w[shard]),
                ),
            )
            for shard in range(self.n_shards)
        ]

    def _before(self, part: ShardPart, view: _View, change_w: float) -> F8:
        """Return the shares of one that has not begun: told once, and again when what the shards can has moved."""
        found = first_shares(abs(change_w), self._shards(part, view, change_w, np.zeros(self.n_shards)))
        is_near = view.newest_round and np.abs(found - view.share_frac).max() <= DRIFT_FRAC
        return view.share_frac if is_near else found

    def _during(self, dispatch_id: str, view: _View, change_w: float) -> F8:
        """Return the shares of one that runs: they move when all hold what was told, and some lack it for a while."""
        part = view.first
        if not view.newest_round:
            return first_shares(abs(change_w), self._shards(part, view, change_w, np.zeros(self.n_shards)))
        lacking = self._lacking.get(dispatch_id)
        if lacking is None or lacking.round != view.newest_round:
            lacking = self._lacking[dispatch_id] = _Lacking(view.newest_round, view.left_w)
        lacking.left_w = np.minimum(lacking.left_w, view.left_w)
        lacking.n_cycles += 1
        if lacking.n_cycles < LACKING_CYCLES:
            return view.share_frac
        left_w, lacking.left_w, lacking.n_cycles = lacking.left_w, view.left_w, 1
        return moved_shares(abs(change_w), self._shards(part, view, change_w, left_w))

    def _shards(self, part: ShardPart, view: _View, change_w: float, left_w: F8) -> Shards:
        firm_w, free_w = np.zeros(self.n_shards), np.zeros(self.n_shards)
        for shard, heard in self._heard.items():
            totals = heard.portfolios.get(part.portfolio_no)
            if totals is not None:
                firm_w[shard] = abs(totals.dispatchable_up_w if change_w >= 0.0 else totals.dispatchable_down_w)
                free_w[shard] = abs(totals.up_w if change_w >= 0.0 else totals.down_w)
        return Shards(view.share_frac, left_w, firm_w, free_w, view.is_away)


@dataclass(frozen=True, slots=True)
class _View:
    """What all shards say of one dispatch, as columns; of one that is away, what it said last."""

    first: ShardPart
    share_frac: F8
    elsewhere_w: F8
    base_w: F8
    left_w: F8
    is_away: Bools
    newest_round: int
    is_settled: bool

    @classmethod
    def of(cls, parts: Sequence[ShardPart | None], is_away: Bools) -> _View:
        """Return the columns; at least one shard must be there."""
        rounds = [part.round if part else 0 for part in parts]
        newest = max(rounds)
        found = [part for part, away in zip(parts, is_away.tolist(), strict=True) if part is not None and not away]
        share_frac = np.array([part.share_frac if part else 0.0 for part in parts])
        if is_away.any():
            # What they were told since they were last heard is what the others were not.
            share_frac[is_away] = max(0.0, 1.0 - float(share_frac[~is_away].sum())) / is_away.sum()
        return cls(
            first=found[0],
            share_frac=share_frac,
            elsewhere_w=np.array([part.elsewhere_w if part else math.nan for part in parts]),
            base_w=np.array([part.base_w if part else 0.0 for part in parts]),
            left_w=np.array([part.left_w if part else 0.0 for part in parts]),
            is_away=is_away,
            newest_round=newest,
            is_settled=all(part.round == newest for part in found),
        )

    def differs(self, share_frac: F8, elsewhere_w: F8, whole_w: float) -> bool:
        """Return whether the shards that are there must be told."""
        there = ~self.is_away
        if (share_frac != self.share_frac)[there].any():
            return True
        drift_w = np.abs(elsewhere_w - self.elsewhere_w)[there]
        is_new = np.isnan(self.elsewhere_w)[there] & ~np.isnan(elsewhere_w)[there]
        return bool(is_new.any() or (drift_w > max(NOTICEABLE_FRAC * whole_w, DRIFT_LEAST_W)).any())


def _beyond_w(part: ShardPart, base_w: float) -> float:
    """Return the change that a target of absolute power asks of the whole plant."""
    beyond_w = part.power_w - base_w
    if part.kind == EventKind.NET_W:
        return beyond_w
    return min(0.0, beyond_w) if part.limit_is_export else max(0.0, beyond_w)


def _place(totals: ShardTotals) -> tuple[int, int]:
    return totals.epoch, totals.cycle
