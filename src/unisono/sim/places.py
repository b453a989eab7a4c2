"""Where sites stand: real ZIP codes of a few states, grouped into zones that share weather and clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import zipcodes
from numpy.typing import NDArray

# States with large residential programmes, of different climates.
STATES = ("AZ", "CA", "CO", "IL", "MA", "NC", "NY", "OR", "TX", "VT")


@dataclass(frozen=True, slots=True)
class Zone:
    """Sites of one state and one clock; they share sun, clouds' extent and temperature."""

    state: str
    time_zone: str
    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True, slots=True)
class Places:
    """One entry a site."""

    zip_code: tuple[str, ...]
    latitude_deg: NDArray[np.float64]
    longitude_deg: NDArray[np.float64]
    zone_of_site: NDArray[np.int32]
    zones: tuple[Zone, ...]


@cache
def _active_zips(state: str) -> tuple[dict[str, Any], ...]:
    find: Callable[..., list[dict[str, Any]]] = zipcodes.filter_by
    rows = find(state=state, active=True, zip_code_type="STANDARD")
    return tuple(sorted((row for row in rows if row["lat"] and row["timezone"]), key=lambda row: str(row["zip_code"])))


def choose_places(rng: np.random.Generator, n_sites: int, n_states: int) -> Places:
    """Choose a ZIP for each site; sites cluster in few ZIPs, as programmes do."""
    states = sorted(rng.choice(np.array(STATES), min(n_states, len(STATES)), replace=False).tolist())
    pool = [row for state in states for row in _active_zips(state)]
    towns = rng.choice(len(pool), min(len(pool), max(3, n_sites // 20)), replace=False)
    chosen = [pool[int(town)] for town in towns[rng.integers(0, towns.size, n_sites)]]
    latitude = np.array([float(row["lat"]) for row in chosen])
    longitude = np.array([float(row["long"]) for row in chosen])
    names = sorted({(str(row["state"]), str(row["timezone"])) for row in chosen})
    zone_of_name = {name: index for index, name in enumerate(names)}
    zone_of_site = np.array([zone_of_name[str(row["state"]), str(row["timezone"])] for row in chosen], np.int32)
    zones = []
    for index, (state, time_zone) in enumerate(names):
        mine = zone_of_site == index
        zones.append(Zone(state, time_zone, float(latitude[mine].mean()), float(longitude[mine].mean())))
    return Places(tuple(str(row["zip_code"]) for row in chosen), latitude, longitude, zone_of_site, tuple(zones))
