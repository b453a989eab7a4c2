"""Where a ZIP code of the United States lies: time zone and coordinates, from the table in package ``zipcodes``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import zipcodes

from unisono.base.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Place:
    """A ZIP code's centre."""

    zip: str
    time_zone: str
    latitude_deg: float
    longitude_deg: float


def place_of_zip(code: str, field: str = "zip") -> Place:
    """Return the place of a five-digit (or nine-digit) ZIP code; raises InvalidInput when there is none.

    >>> place_of_zip("97214").time_zone
    'America/Los_Angeles'
    """
    place = _places().get(code[:5])
    if place is None:
        raise InvalidInput(field, code, "is no ZIP code of the United States")
    return place


@cache
def _places() -> dict[str, Place]:
    return {
        row["zip_code"]: Place(row["zip_code"], row["timezone"], float(row["lat"]), float(row["long"]))
        for row in _rows()
        if row["timezone"] and row["lat"] and row["long"]
    }


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = zipcodes.list_all()  # type: ignore[no-untyped-call]
    return rows
