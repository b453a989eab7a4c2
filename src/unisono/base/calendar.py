"""Local days and their quarter-hours, right on the two days a year that have 23 and 25 hours."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from unisono.base.errors import InvalidInput
from unisono.base.instants import NS_PER_S

QUARTER_S = 900


def zone(name: str, field: str = "time_zone") -> ZoneInfo:
    """Return the IANA zone of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as unknown:
        raise InvalidInput(field, name, "must be an IANA time zone, like America/Los_Angeles") from unknown


def day_bounds_ns(day: date, time_zone: str) -> tuple[int, int]:
    """Return the half-open bounds of a local day.

    >>> [(b - a) // 3_600_000_000_000 for a, b in [day_bounds_ns(date(2026, m, d), "America/Los_Angeles")
    ...                                            for m, d in [(3, 8), (3, 9), (11, 1)]]]
    [23, 24, 25]
    """
    local = zone(time_zone)
    return _midnight_ns(day, local), _midnight_ns(day + timedelta(days=1), local)


def quarters_of_day(day: date, time_zone: str) -> list[int]:
    """Return the starts of the day's quarter-hours: 92, 96 or 100 of them."""
    start_ns, end_ns = day_bounds_ns(day, time_zone)
    return list(range(start_ns, end_ns, QUARTER_S * NS_PER_S))


def instant_of_local(
    local: datetime, time_zone: str, when_ambiguous: Literal["first", "second", "raise"] = "raise"
) -> int:
    """Return the instant of a naive local time; a time that does not exist, or exists twice without a choice, raises.

    >>> instant_of_local(datetime(2026, 11, 1, 1, 30), "America/Los_Angeles", "second")
    1793525400000000000
    """
    assert local.tzinfo is None, "a local time carries no zone"
    place = zone(time_zone)
    first, second = (local.replace(tzinfo=place, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first.astimezone(place).replace(tzinfo=None) != local:
        raise InvalidInput("local_time", local.isoformat(), f"does not exist in {time_zone} (the clocks go forward)")
    if first != second and when_ambiguous == "raise":
        raise InvalidInput("local_time", local.isoformat(), f"exists twice in {time_zone}; say first or second")
    return _ns(second if when_ambiguous == "second" else first)


def _midnight_ns(day: date, place: ZoneInfo) -> int:
    return _ns(datetime.combine(day, time(0), place))


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * NS_PER_S
