"""Raises alarms from what the shards say of themselves, and clears them when it is over.

One open alarm stands for one thing that is wrong with one subject. A condition must hold for a while before it is
raised and be gone for a while before it is cleared, so that a value at its bound does not ring all day. The words of an
open alarm follow what is so, once a minute; the entry of its end says what is so then, and what was wrong last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection

from unisono.base.clock import Clock
from unisono.base.errors import Unavailable
from unisono.base.instants import NS_PER_S
from unisono.engines.room import Room
from unisono.model.technology import Lifecycle
from unisono.model.totals import LogEntry, PortfolioTotals
from unisono.services.picture import Picture
from unisono.store import alarms, event_log, views
from unisono.store.database import Database

log = logging.getLogger(__name__)

COVERAGE: Final = "coverage_below_floor"
SHORTFALL: Final = "dispatch_shortfall"
GATEWAY_SILENT: Final = "gateway_silent"
REALTIME_SILENT: Final = "realtime_not_heard"
OUTBOX_BACKLOG: Final = "outbox_backlog"
GATEWAY_FLOODS: Final = "gateway_over_rate"
DISK_FILLING: Final = "disk_filling"
KINDS: Final = (
    COVERAGE, SHORTFALL, GATEWAY_SILENT, GATEWAY_FLOODS, REALTIME_SILENT, OUTBOX_BACKLOG, DISK_FILLING,
)  # fmt: skip

SEVERITY_OF_KIND: Final = {
    COVERAGE: "warning",
    SHORTFALL: "critical",
    GATEWAY_SILENT: "warning",
    GATEWAY_FLOODS: "warning",
    REALTIME_SILENT: "critical",
    OUTBOX_BACKLOG: "critical",
    DISK_FILLING: "critical",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmSettings:
    """When something is wrong, and for how long it must be so."""

    look_every_s: float = 5.0
    # Below this share of fresh active devices a portfolio's sums are more guess than measurement.
    coverage_floor_frac: float = 0.8
    # A shortfall that the closed loop refills within a few cycles is its daily work.
    shortfall_frac: float = 0.05
    hold_s: float = 15.0
    clear_s: float = 30.0
    # Gateways that were counted before and then said nothing for this long.
    gateway_silent_s: float = 300.0
    # A gateway that was held to its rate so recently is over it still; fronts tell their counts every 2 s.
    over_rate_s: float = 15.0
    # An open alarm's words are written anew no sooner than this: ages grow with every look.
    refresh_s: float = 60.0
    # A waiting request is published within 0.1 s; after this something is away.
    outbox_age_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now; or, with ``is_wrong`` False, what is so of a subject that is well."""

    organisation_id: str
    kind: str
    subject_id: str
    detail: str
    portfolio_id: str = ""
    is_wrong: bool = True

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same alarm as before."""
        return self.organisation_id, self.kind, self.subject_id


@dataclass(slots=True)
class _Watched:
    condition: Condition
    since_ns: int
    seen_ns: int
    is_raised: bool
    # What was told of it last, and when.
    told: str = ""
    told_ns: int = 0


@dataclass(slots=True)
class AlarmBook:
    """What is wrong, since when, and whether it was raised. Pure: time comes as an argument."""

    settings: AlarmSettings
    _watched: dict[tuple[str, str, str], _Watched] = field(default_factory=dict)

    def adopt(self, conditions: Iterable[Condition], monotonic_ns: int) -> None:
        """Take over alarms that an earlier process left open, so that they are cleared when they are over."""
        for condition in conditions:
            self._watched[condition.key] = _Watched(
                condition, monotonic_ns, monotonic_ns, is_raised=True, told=condition.detail, told_ns=monotonic_ns
            )

    def look(self, conditions: Iterable[Condition], monotonic_ns: int) -> tuple[list[Condition], list[Condition]]:
        """Return what is to be raised and what is to be cleared, given all that is wrong now."""
        for condition in conditions:
            watched = self._watched.get(condition.key)
            if watched is None:
                watched = _Watched(condition, monotonic_ns, monotonic_ns, is_raised=False)
                self._watched[condition.key] = watched
            watched.condition, watched.seen_ns = condition, monotonic_ns
        to_raise, to_clear = [], []
        for key, watched in list(self._watched.items()):
            is_present = watched.seen_ns == monotonic_ns
            if is_present and not watched.is_raised:
                if monotonic_ns - watched.since_ns >= self.settings.hold_s * NS_PER_S:
                    watched.is_raised = True
                    watched.told, watched.told_ns = watched.condition.detail, monotonic_ns
                    to_raise.append(watched.condition)
            elif not is_present and not watched.is_raised:
                del self._watched[key]
            elif not is_present and monotonic_ns - watched.seen_ns >= self.settings.clear_s * NS_PER_S:
                to_clear.append(watched.condition)
                del self._watched[key]
        return to_raise, to_clear

    def to_refresh(self, monotonic_ns: int) -> list[Condition]:
        """Return those of the look at this instant whose alarm is open and has said something else for a while."""
        found = []
        for watched in self._watched.values():
            is_old = monotonic_ns - watched.told_ns >= self.settings.refresh_s * NS_PER_S
            is_present = watched.is_raised and watched.seen_ns == monotonic_ns
            if is_present and is_old and watched.condition.detail != watched.told:
                watched.told, watched.told_ns = watched.condition.detail, monotonic_ns
                found.append(watched.condition)
        return found


def conditions_of_portfolio(
    organisation_id: str, portfolio_id: str, totals: PortfolioTotals, settings: AlarmSettings
) -> list[Condition]:
    """Return whether a portfolio's picture is wrong; one without active devices has nothing to cover."""
    n_active = totals.n_by_lifecycle[Lifecycle.ACTIVE] if len(totals.n_by_lifecycle) > Lifecycle.ACTIVE else 0
    if not n_active:
        return []
    is_wrong = totals.completeness_frac < settings.coverage_floor_frac
    floor = f"{settings.coverage_floor_frac:.0%}"
    detail = f"{totals.completeness_frac:.1%} of {n_active} active devices are fresh; the floor is {floor}"
    return [Condition(organisation_id, COVERAGE, portfolio_id, detail, portfolio_id, is_wrong)]


def conditions_of_dispatches(picture: Picture, settings: AlarmSettings) -> list[Condition]:
    """Return the dispatches in force and whether they fall short, all shards together."""
    target_w: dict[str, float] = {}
    shortfall_w: dict[str, float] = {}
    owner: dict[str, tuple[str, str]] = {}
    for heard in picture.shards():
        for progress in heard.totals.dispatches:
            if progress.state == "active":
                dispatch_id = progress.dispatch_id
                target_w[dispatch_id] = target_w.get(dispatch_id, 0.0) + progress.target_w
                shortfall_w[dispatch_id] = shortfall_w.get(dispatch_id, 0.0) + progress.shortfall_w
                owner[dispatch_id] = progress.organisation_id, progress.portfolio_id
    found = []
    for dispatch_id, short_w in shortfall_w.items():
        is_wrong = abs(short_w) > settings.shortfall_frac * max(abs(target_w[dispatch_id]), 1.0)
        organisation_id, portfolio_id = owner[dispatch_id]
        detail = f"{short_w / 1000:.1f} kW of {target_w[dispatch_id] / 1000:.1f} kW are missing"
        found.append(Condition(organisation_id, SHORTFALL, dispatch_id, detail, portfolio_id, is_wrong))
    return found


class SilenceWatch:
    """Which gateways have been counted, and since when their counters stand still. Pure.

    Who was silent before this process began stays so until it is heard.
    """

    def __init__(self, silent_before: Iterable[int] = ()) -> None:
        self._seen: dict[int, tuple[int, int]] = {}
        self._unheard = set(silent_before)

    def silent(self, counts_of_gateway: Mapping[int, int], monotonic_ns: int, after_s: float) -> dict[int, float]:
        """Return for each gateway_no that says nothing (any more) for how many seconds, given its readings so far."""
        for gateway_no, count in counts_of_gateway.items():
            known = self._seen.get(gateway_no)
            if known is not None and known[0] != count:
                self._unheard.discard(gateway_no)
            if known is None or known[0] != count:
                self._seen[gateway_no] = count, monotonic_ns
        ages_s = {no: (monotonic_ns - at_ns) / NS_PER_S for no, (_, at_ns) in self._seen.items()}
        still_s = {no: max(after_s, ages_s.get(no, after_s)) for no in self._unheard}
        return still_s | {no: age_s for no, age_s in ages_s.items() if age_s >= after_s}


class FloodWatch:
    """Which gateways were held to their rate lately, and how often in all. Pure."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}

    def flooding(self, count_of_gateway: Mapping[int, int], monotonic_ns: int, within_s: float) -> dict[int, int]:
        """Return gateway_no -> count for those whose count has grown within this time."""
        for gateway_no, count in count_of_gateway.items():
            if self._seen.get(gateway_no, (0, 0))[0] != count:
                self._seen[gateway_no] = count, monotonic_ns
        newest_ns = monotonic_ns - within_s * NS_PER_S
        return {no: count for no, (count, at_ns) in self._seen.items() if at_ns >= newest_ns}


class AlarmLoop:
    """Looks at the picture and the outbox, and keeps the alarms of every organisation."""

    def __init__(
        self,
        database: Database,
        picture: Picture,
        clock: Clock,
        settings: AlarmSettings,
        *,
        room: Callable[[], Room] | None = None,
    ) -> None:
        self._room = room
        self._database, self._picture, self._clock, self._settings = database, picture, clock, settings
        self._book = AlarmBook(settings)
        self._silence = SilenceWatch()
        self._silent: Mapping[int, float] = {}
        self._flood = FloodWatch()
        self._has_adopted = False

    def look(self) -> tuple[int, int]:
        """Look once; return how many were raised and cleared. Blocking; raises Unavailable."""
        now_ns = self._clock.monotonic_ns()
        with self._database.begin() as connection:
            if not self._has_adopted:
                open_ones = _open_before(connection)
                self._book.adopt(open_ones, now_ns)
                silent_ids = [one.subject_id for one in open_ones if one.kind == GATEWAY_SILENT]
                self._silence = SilenceWatch(views.gateway_numbers(connection, silent_ids))
                self._has_adopted = True
            found = self._conditions(connection, now_ns)
            raised, cleared = self._book.look([one for one in found if one.is_wrong], now_ns)
            for one in self._book.to_refresh(now_ns):
                alarms.refresh(connection, one.organisation_id, one.kind, one.subject_id, one.detail)
            well = {one.key: one for one in found if not one.is_wrong}
            self._write(connection, raised, [(one, self._now(connection, one, well)) for one in cleared])
        return len(raised), len(cleared)

    def _conditions(self, connection: Connection, now_ns: int) -> list[Condition]:
        found = conditions_of_dispatches(self._picture, self._settings)
        organisations_ids = views.organisation_ids(connection)
        stale_reason = self._picture.stale_reason()
        _, oldest_ns = views.outbox_backlog(connection)
        age_s = 0.0 if oldest_ns is None else (self._clock.wall_ns() - oldest_ns) / NS_PER_S
        room = None if self._room is None else self._room()
        for organisation_id in organisations_ids:
            if room is not None:
                found.append(
                    Condition(organisation_id, DISK_FILLING, "platform", room.words(), is_wrong=room.is_little)
                )
            if stale_reason:
                found.append(Condition(organisation_id, REALTIME_SILENT, "platform", stale_reason))
            if age_s > self._settings.outbox_age_s:
                # How many wait would tell each organisation of the others.
                detail = f"messages wait to be published, the oldest for {age_s:.0f} s"
                found.append(Condition(organisation_id, OUTBOX_BACKLOG, "platform", detail))
        if not stale_reason:
            # A stale picture is one alarm; what it no longer says about portfolios would only be its echo.
            for row in views.portfolio_numbers(connection):
                totals = self._picture.portfolio(row["portfolio_no"]).totals
                if totals is not None:
                    found += conditions_of_portfolio(
                        row["organisation_id"], row["portfolio_id"], totals, self._settings
                    )
        return found + self._silent_gateways(connection, now_ns) + self._flooding_gateways(connection, now_ns)

    def _now(self, connection: Connection, over: Condition, well: Mapping[tuple[str, str, str], Condition]) -> str:
        """Return what is so of something that was wrong."""
        if over.key in well:
            return well[over.key].detail
        if over.kind == COVERAGE:
            return self._picture.stale_reason() or "no active device is left to be covered"
        if over.kind == GATEWAY_SILENT:
            is_silent = any(no in self._silent for no in views.gateway_numbers(connection, [over.subject_id]))
            return "it is out of service" if is_silent else "it is heard again"
        return {
            GATEWAY_FLOODS: "it keeps to its rate",
            SHORTFALL: "the dispatch is not in force any more",
            REALTIME_SILENT: "realtime is heard",
            DISK_FILLING: "the disk is not watched from here any more",
            OUTBOX_BACKLOG: f"nothing waits for longer than {self._settings.outbox_age_s:g} s",
        }[over.kind]

    def _silent_gateways(self, connection: Connection, now_ns: int) -> list[Condition]:
        counts = self._picture.heard_of_gateway()
        silent = self._silent = self._silence.silent(counts, now_ns, self._settings.gateway_silent_s)
        return [
            Condition(
                row["organisation_id"],
                GATEWAY_SILENT,
                row["gateway_id"],
                f"nothing for {silent[row['gateway_no']]:.0f} s; it carries {row['n_devices']} devices",
            )
            for row in views.gateways_in_service(connection, list(silent))
        ]

    def _flooding_gateways(self, connection: Connection, now_ns: int) -> list[Condition]:
        counts = self._picture.rate_limited_of_gateway()
        flooding = self._flood.flooding(counts, now_ns, self._settings.over_rate_s)
        return [
            Condition(
                row["organisation_id"],
                GATEWAY_FLOODS,
                row["gateway_id"],
                f"it sends more than it may: {flooding[row['gateway_no']]} dropped or refused so far",
            )
            for row in views.gateways_in_service(connection, list(flooding))
        ]

    def _write(self, connection: Connection, raised: list[Condition], cleared: list[tuple[Condition, str]]) -> None:
        now_ns = self._clock.wall_ns()
        entries = []
        for condition in raised:
            severity = SEVERITY_OF_KIND[condition.kind]
            alarms.raise_alarm(
                connection,
                condition.organisation_id,
                condition.kind,
                condition.subject_id,
                now_ns,
                severity=severity,
                detail=condition.detail,
            )
            entries.append(_entry("alarm.raised", condition, now_ns, detail=condition.detail))
        for condition, now in cleared:
            alarms.clear(connection, condition.organisation_id, condition.kind, condition.subject_id, now_ns)
            entries.append(_entry("alarm.cleared", condition, now_ns, detail=now, was=condition.detail))
        event_log.append(connection, entries)


async def run(
    database: Database,
    picture: Picture,
    clock: Clock,
    settings: AlarmSettings | None = None,
    *,
    room: Callable[[], Room] | None = None,
) -> None:
    """Keep the alarms until cancelled; ``room`` is asked for that of our own engines' disk."""
    settings = settings or AlarmSettings()
    loop = AlarmLoop(database, picture, clock, settings, room=room)
    while True:
        await asyncio.sleep(settings.look_every_s)
        try:
            n_raised, n_cleared = await asyncio.to_thread(loop.look)
        except Unavailable as away:
            log.warning("alarms can't be kept", extra={"why": str(away)})
            continue
        if n_raised or n_cleared:
            log.info("alarms", extra={"n_raised": n_raised, "n_cleared": n_cleared})


def _open_before(connection: Connection) -> list[Condition]:
    return [
        Condition(
            alarm.organisation_id,
            alarm.kind,
            alarm.subject_id,
            alarm.detail,
            alarm.subject_id if alarm.kind == COVERAGE else "",
        )
        for alarm in alarms.open_ones(connection)
        if alarm.kind in KINDS
    ]


def _entry(kind: str, condition: Condition, now_ns: int, **body: object) -> LogEntry:
    return LogEntry(
        at_ns=now_ns,
        kind=kind,
        organisation_id=condition.organisation_id,
        portfolio_id=condition.portfolio_id,
        subject_id=condition.subject_id,
        body={"alarm": condition.kind, **body},
    )
