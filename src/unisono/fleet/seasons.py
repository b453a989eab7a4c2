"""Seasons, within which an owner's events are counted: each begins with a month, at a site's local midnight.

A season lasts a year, the longest that programmes mean by one: whoever agreed to ten events in a summer is not called
ten times more in the winter. Where a programme's year begins with another month than January, the plant is told so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import numpy as np

from unisono.base.calendar import zone
from unisono.base.instants import NS_PER_S
from unisono.fleet.table import FleetTable

# All zones' midnights fall on one of UTC's quarter-hours, so that looking once in each is enough.
_LOOK_EVERY_NS: Final = 900 * NS_PER_S


def season_of(at_ns: int, time_zone: str, first_month: int) -> int:
    """Return the year in which the season began that an instant lies in.

    >>> new_year_ns = 1_798_790_400 * NS_PER_S  # 2027-01-01 08:00 UTC, midnight in Los Angeles
    >>> [season_of(new_year_ns + s * NS_PER_S, "America/Los_Angeles", 1) for s in (-1, 0)]
    [2026, 2027]
    >>> season_of(new_year_ns, "America/Los_Angeles", 4)
    2026
    """
    local = datetime.fromtimestamp(at_ns // NS_PER_S, UTC).astimezone(zone(time_zone))
    return local.year if local.month >= first_month else local.year - 1


def begin_seasons(table: FleetTable, now_ns: int, first_month: int) -> None:
    """Count events anew where a season has begun; a clock that is set back brings no season back.

    Does nothing until the next quarter-hour or change of a device.
    """
    looked_at = now_ns // _LOOK_EVERY_NS
    if looked_at == table.seasons_looked_at:
        return
    table.seasons_looked_at = looked_at
    season_of_zone = np.array([season_of(now_ns, name, first_month) for name in table.zones], np.int32)
    season = season_of_zone[table.nameplate.zone[: table.n_devices]]
    rows = np.flatnonzero(season > table.leases.season[: table.n_devices])
    table.leases.season[rows] = season[rows]
    table.leases.n_events[rows] = 0
