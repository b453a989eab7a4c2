"""Instants are int nanoseconds since 1970 UTC; here they meet RFC 3339 text."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from unisono.base.errors import InvalidInput

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
MISSING_NS: Final = -1

# Earliest and latest instant that any interface accepts: 2000-01-01 and 2100-01-01.
EARLIEST_NS: Final = 946_684_800 * NS_PER_S
LATEST_NS: Final = 4_102_444_800 * NS_PER_S

_RFC3339 = re.compile(r"^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)$")


def parse_rfc3339(text: str, field: str = "instant") -> int:
    """Return the instant of ``text``; an offset (or Z) is required, so that no zone is guessed.

    >>> parse_rfc3339("2026-03-08T09:59:59.5-08:00")
    1772992799500000000
    """
    match = _RFC3339.match(text)
    if match is None:
        raise InvalidInput(field, text, "must be RFC 3339 with an offset, like 2026-11-20T17:00:00Z")
    date, time, fraction, offset = match.groups()
    try:
        whole = datetime.fromisoformat(f"{date}T{time}{'+00:00' if offset in 'Zz' else offset}")
    except ValueError as wrong:
        raise InvalidInput(field, text, f"is no date and time: {wrong}") from wrong
    at_ns = int(whole.timestamp()) * NS_PER_S + int((fraction or "0").ljust(9, "0"))
    if not EARLIEST_NS <= at_ns < LATEST_NS:
        raise InvalidInput(field, text, "must lie between the years 2000 and 2100")
    return at_ns


def format_rfc3339(at_ns: int) -> str:
    """Return ``at_ns`` as RFC 3339 UTC with milliseconds (with nanoseconds when they matter).

    >>> format_rfc3339(1772992799500000000)
    '2026-03-08T17:59:59.500Z'
    """
    seconds, nanos = divmod(at_ns, NS_PER_S)
    stem = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if nanos % NS_PER_MS == 0:
        return f"{stem}.{nanos // NS_PER_MS:03d}Z"
    return f"{stem}.{nanos:09d}Z"
