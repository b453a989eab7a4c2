"""The newest picture that the shards publish, folded for the web process, and the way to ask a shard a question.

The fold keeps the newest totals of every shard and the counters of every process. Age is counted from the
monotonic instant of receipt, so that a stepped wall clock ages nothing. Nothing heard is said to be so, never zero.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.clock import Clock
from unisono.base.errors import Unavailable
from unisono.base.instants import NS_PER_S
from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.model.dispatch import DispatchProgress
from unisono.model.ingest import COUNTER_NAMES, IngestCounters, no_counts
from unisono.model.queries import Answer, Query, Refused, decode_answer, encode_query
from unisono.model.technology import Lifecycle, Trust
from unisono.model.totals import PortfolioTotals, ShardTotals

log = logging.getLogger(__name__)

# Totals come each cycle (1-4 s); after three slow cycles without any, the picture is called stale.
STALE_AFTER_S: Final = 12.0
# A query is answered within one cycle's pause; realtime that takes longer is as good as away for a person waiting.
QUERY_TIMEOUT_S: Final = 3.0
# The role that counts what became of the readings that the others took in.
REALTIME: Final = "realtime"


class Asker(Protocol):
    """The part of the bus that questions need."""

    async def request(self, subject: str, payload: bytes, timeout_s: float = ...) -> bytes:
        """Return the answer of whoever serves ``subject``."""
        ...


@dataclass(frozen=True, slots=True)
class Heard:
    """One shard's newest totals and the monotonic instant at which they came."""

    totals: ShardTotals
    received_monotonic_ns: int


@dataclass(frozen=True, slots=True)
class PortfolioPicture:
    """Sums over all shards, as old as their oldest part; ``totals`` None: never heard."""

    totals: PortfolioTotals | None
    as_of_ns: int
    age_s: float | None
    stale_reason: str


@dataclass(slots=True)
class Counted:
    """What one process has told of its counts, row gateway_no + 1: in its present run and, last known, in former ones.

    Realtime has no former runs: its counts are in its checkpoint and go on.
    """

    run: int
    n_gateways: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: no_counts(1))
    former: NDArray[np.int64] = field(default_factory=lambda: no_counts(1))
    ended_runs: set[int] = field(default_factory=set)

    def fold(self, counters: IngestCounters) -> None:
        """Take a slice in, unless it is a late one of a former run."""
        if counters.run in self.ended_runs:
            return
        if counters.run != self.run:
            self.ended_runs.add(self.run)
            self.run = counters.run
            if counters.role != REALTIME:
                self.former += self.counts
            self.counts = np.zeros_like(self.counts)
        self.n_gateways = counters.n_gateways
        gateway_no, counts = counters.rows()
        if gateway_no.size:
            lacking = int(gateway_no.max()) + 2 - len(self.counts)
            if lacking > 0:
                room = no_counts(max(lacking, len(self.counts)))
                self.counts, self.former = np.concatenate([self.counts, room]), np.concatenate([self.former, room])
            self.counts[gateway_no + 1] = counts

    @property
    def sums(self) -> NDArray[np.int64]:
        """Counts (gateway_no + 1, COUNTER_NAMES) of all runs."""
        return self.former + self.counts

    def of(self, gateway_nos: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the counts (gateway, COUNTER_NAMES) of these gateways; zeros of one never told of."""
        counts = no_counts(gateway_nos.size)
        is_here = gateway_nos + 1 < len(self.counts)
        at = gateway_nos[is_here] + 1
        counts[is_here] = self.former[at] + self.counts[at]
        return counts

    def n_told(self) -> int:
        """Return of how many gateways this process has told in its present run."""
        return int(self.counts.any(axis=1).sum())


class Picture:
    """What was heard last. Used from one event loop; ``changed`` lets live streams wait for news."""

    def __init__(self, clock: Clock, n_shards: int = 1) -> None:
        self._clock = clock
        self._n_shards = n_shards
        self._heard_of_shard: dict[int, Heard] = {}
        self._counted: dict[tuple[str, str], Counted] = {}
        self._version = 0
        self._news = asyncio.Event()

    @property
    def n_shards(self) -> int:
        """How many shards the plant has."""
        return self._n_shards

    @property
    def version(self) -> int:
        """A number that grows with each totals message."""
        return self._version

    def fold_totals(self, totals: ShardTotals) -> bool:
        """Take a shard's totals unless an older owner or an older cycle speaks; return whether they were taken."""
        heard = self._heard_of_shard.get(totals.shard)
        if heard is not None and (totals.epoch, totals.at_ns) < (heard.totals.epoch, heard.totals.at_ns):
            return False
        self._heard_of_shard[totals.shard] = Heard(totals, self._clock.monotonic_ns())
        if totals.ingest is not None:
            self.fold_counters(totals.ingest)
        self._version += 1
        self._news.set()
        self._news = asyncio.Event()
        return True

    def fold_counters(self, counters: IngestCounters) -> None:
        """Take a slice of a process's counters (they are sums since its run began)."""
        self._counted.setdefault((counters.role, counters.instance), Counted(counters.run)).fold(counters)

    async def changed(self, after_version: int, timeout_s: float) -> int:
        """Return the version as soon as it is above ``after_version``, or after ``timeout_s`` as it is."""
        if self._version <= after_version:
            # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes together with the news.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
        return self._version

    def shards(self) -> tuple[Heard, ...]:
        """Return the newest of every shard ever heard."""
        return tuple(self._heard_of_shard.values())

    def stale_reason(self) -> str:
        """Return why the picture can't be believed to be present; "" when it can."""
        if len(self._heard_of_shard) < self._n_shards:
            return "realtime has not been heard since this process started"
        age_s = max(self.age_s(heard) for heard in self._heard_of_shard.values())
        return f"realtime was last heard {age_s:.0f} s ago" if age_s > STALE_AFTER_S else ""

    def age_s(self, heard: Heard) -> float:
        """Return for how long these totals have been here."""
        return (self._clock.monotonic_ns() - heard.received_monotonic_ns) / NS_PER_S

    def portfolio(self, portfolio_no: int) -> PortfolioPicture:
        """Return the sums over one portfolio; shards that don't know it (yet) add nothing."""
        parts, heards = [], []
        for heard in self._heard_of_shard.values():
            for totals in heard.totals.portfolios:
                if totals.portfolio_no == portfolio_no:
                    parts.append(totals)
                    heards.append(heard)
        reason = self.stale_reason()
        if not parts:
            return PortfolioPicture(None, -1, None, reason or "realtime does not know this portfolio yet")
        as_of_ns = min(heard.totals.at_ns for heard in heards)
        return PortfolioPicture(merged(parts), as_of_ns, max(self.age_s(heard) for heard in heards), reason)

    def dispatch(self, dispatch_id: str) -> tuple[tuple[DispatchProgress, float], ...]:
        """Return each shard's newest progress of a dispatch, with its age in seconds."""
        return tuple(
            (progress, self.age_s(heard))
            for heard in self._heard_of_shard.values()
            for progress in heard.totals.dispatches
            if progress.dispatch_id == dispatch_id
        )

    def heard_of_gateway(self) -> dict[int, int]:
        """Return for each gateway a number that grows with every reading of it; realtime's part outlives restarts."""
        heard: dict[int, int] = {}
        for counted in self._counted.values():
            of_gateway = counted.sums[1:, 0]
            for gateway_no in np.flatnonzero(of_gateway).tolist():
                heard[gateway_no] = heard.get(gateway_no, 0) + int(of_gateway[gateway_no])
        return heard

    def rate_limited_of_gateway(self) -> dict[int, int]:
        """Return how often each gateway was held to its rate, where it was at all."""
        nos = np.arange(max((len(counted.counts) for counted in self._counted.values()), default=1) - 1, dtype=np.int32)
        found = self._rows(nos)[:, COUNTER_NAMES.index("rate_limited")]
        return {no: int(found[no]) for no in np.flatnonzero(found).tolist()}

    def ingest_counts(self, gateway_nos: NDArray[np.int32] | None = None) -> dict[tuple[str, str], dict[str, int]]:
        """Return sums over these gateways (None: all) by (role, instance), named as in COUNTER_NAMES."""
        return {
            key: _named((counted.sums if gateway_nos is None else counted.of(gateway_nos)).sum(axis=0))
            for key, counted in self._counted.items()
        }

    def ingest_totals(self, gateway_nos: NDArray[np.int32] | None = None) -> dict[str, int]:
        """Return the sums of ``ingest_of_gateways`` over these gateways (None: all, and what no known one sent)."""
        if gateway_nos is None:
            n_rows = max((len(counted.counts) for counted in self._counted.values()), default=0)
            gateway_nos = np.arange(-1, n_rows - 1, dtype=np.int32)
        return _named(self._rows(gateway_nos).sum(axis=0))

    def ingest_of_gateways(self, gateway_nos: NDArray[np.int32]) -> list[dict[str, int] | None]:
        """Return each gateway's counts over all processes; None: not told of yet, though there is more to be told."""
        is_all_known = bool(self._counted) and not self.ingest_missing()
        return [_named(row) if is_all_known or row.any() else None for row in self._rows(gateway_nos)]

    def ingest_missing(self) -> list[str]:
        """Return what is not known yet of the counts since this process began to listen."""
        if not self._counted:
            return ["no process has told of its counts yet"]
        return [
            f"{role} {instance} has not told of all gateways yet"
            for (role, instance), counted in sorted(self._counted.items(), key=lambda item: item[0])
            if counted.n_told() < counted.n_gateways
        ]

    def _rows(self, gateway_nos: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return these gateways' counts over all processes.

        What was accepted is counted at the fronts alone: realtime sees the same readings a second time. It is no less
        than what became of them, whatever of the fronts' counts was lost with a process.
        """
        counts = no_counts(gateway_nos.size)
        for (role, _), counted in self._counted.items():
            part = counted.of(gateway_nos)
            if role == REALTIME:
                part[:, 0] = 0
            counts += part
        counts[:, 0] = np.maximum(counts[:, 0], counts[:, 1:].sum(axis=1))
        return counts


def _named(counts: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(COUNTER_NAMES, counts.tolist(), strict=True))


def merged(parts: Iterable[PortfolioTotals]) -> PortfolioTotals:
    """Return the sum of one portfolio's totals over shards; deviations add as independent, completeness by weight."""
    parts = tuple(parts)
    first = parts[0]
    if len(parts) == 1:
        return first
    n_active = [max(part.n_by_lifecycle[Lifecycle.ACTIVE], 0) for part in parts]
    summed = {
        name: sum(getattr(part, name) for part in parts)
        for name in (
            "n_devices",
            "power_w",
            "commanded_w",
            "acknowledged_w",
            "reported_w",
            "measured_w",
            "up_w",
            "down_w",
            "dispatchable_up_w",
            "dispatchable_down_w",
            "energy_up_wh",
            "energy_down_wh",
        )
    }
    n_of_technology: dict[int, int] = {}
    export_w_of_technology: dict[int, float] = {}
    for part in parts:
        for technology, count in part.n_by_technology.items():
            n_of_technology[technology] = n_of_technology.get(technology, 0) + count
        for technology, power_w in part.enrolled_export_w_by_technology.items():
            export_w_of_technology[technology] = export_w_of_technology.get(technology, 0.0) + power_w
    return msgspec.structs.replace(
        first,
        **summed,
        n_by_trust=tuple(map(sum, zip(*(part.n_by_trust for part in parts), strict=True))),
        n_by_level=tuple(map(sum, zip(*(part.n_by_level for part in parts), strict=True))),
        n_by_lifecycle=tuple(map(sum, zip(*(part.n_by_lifecycle for part in parts), strict=True))),
        n_by_technology=n_of_technology,
        enrolled_export_w_by_technology=export_w_of_technology,
        power_sd_w=sum(part.power_sd_w**2 for part in parts) ** 0.5,
        dispatchable_hold_s=min(part.dispatchable_hold_s for part in parts),
        completeness_frac=sum(n * part.completeness_frac for n, part in zip(n_active, parts, strict=True))
        / max(sum(n_active), 1),
    )


def count_of_trust(totals: PortfolioTotals) -> dict[str, int]:
    """Return the counts by the names of Trust."""
    return {trust.name.lower(): totals.n_by_trust[trust] for trust in Trust if trust < len(totals.n_by_trust)}


async def ask(bus: Asker, shard: int, query: Query, timeout_s: float = QUERY_TIMEOUT_S) -> Answer:
    """Return the shard's answer; raises Unavailable when it gives none, refuses, or answers in a foreign tongue."""
    try:
        payload = await bus.request(subjects.query(shard), encode_query(query), timeout_s=timeout_s)
    except Unavailable as away:
        raise Unavailable("realtime", f"it does not answer ({away.why})") from away
    try:
        answer = decode_answer(payload)
    except msgspec.DecodeError as foreign:
        raise Unavailable("realtime", f"its answer can't be read: {foreign}") from foreign
    if isinstance(answer, Refused):
        raise Unavailable("realtime", answer.reason)
    return answer


async def run(bus: Bus, picture: Picture) -> None:
    """Fold what passes until cancelled."""

    async def on_totals(subject: str, payload: bytes) -> None:
        try:
            picture.fold_totals(msgspec.msgpack.decode(payload, type=ShardTotals))
        except msgspec.DecodeError as foreign:
            log.warning("%s: unreadable totals of %d bytes: %s", subject, len(payload), foreign)

    async def on_counters(subject: str, payload: bytes) -> None:
        try:
            picture.fold_counters(msgspec.msgpack.decode(payload, type=IngestCounters))
        except msgspec.DecodeError as foreign:
            log.warning("%s: unreadable counters of %d bytes: %s", subject, len(payload), foreign)

    subscriptions = [await bus.subscribe("totals.*", on_totals), await bus.subscribe("counters.*.*", on_counters)]
    try:
        await asyncio.Event().wait()
    finally:
        for subscription in subscriptions:
            try:
                await subscription.stop()
            except Unavailable as away:
                log.debug("leaving %s", away)
