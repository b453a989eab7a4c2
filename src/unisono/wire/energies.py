"""What a reading carries when it is no power: the energy of an interval, or a cumulative register.

A reading holds exactly one of a power, an interval's energy with its start (it ends at the measured instant), and a
register; positive into the grid, all three. Columns have one entry a reading, NaN where it was not given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_MS
from unisono.model.technology import ReadingKind

WH_PER_KWH: Final = 1000.0
# The longest local day: meters that report once a day end at its end.
INTERVAL_S_MAX: Final = 25 * 3600
# A gigawatt, as for powers, over the longest interval.
ENERGY_WH_MAX: Final = 25e9
# A gigawatt for a century; and a float64 still tells single watt-hours.
REGISTER_WH_MAX: Final = 1e15

_ALONE: Final = "must come alone: a reading is p, or energy_kwh with interval_start_ms, or register_kwh"
_OTHERS: Final = ("energy_kwh", "register_kwh", "interval_start_ms")


@dataclass(frozen=True, slots=True)
class Energies:
    """Unchecked columns beside those of ``RawReadings``."""

    energy_wh: NDArray[np.float64]
    register_wh: NDArray[np.float64]
    # From the interval's start to the measured instant.
    interval_ms: NDArray[np.float64]

    @property
    def reading_kind(self) -> NDArray[np.uint8]:
        """The ReadingKind of each row; right where ``misfits`` is False."""
        kinds = np.full(self.energy_wh.size, int(ReadingKind.POWER), np.uint8)
        kinds[~np.isnan(self.energy_wh)] = int(ReadingKind.INTERVAL_ENERGY)
        kinds[~np.isnan(self.register_wh)] = int(ReadingKind.REGISTER)
        return kinds

    def misfits(self, power_w: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which rows hold none of the three, more than one, or half an interval."""
        has_energy, has_start = ~np.isnan(self.energy_wh), ~np.isnan(self.interval_ms)
        n_given = has_energy.astype(np.int8) + ~np.isnan(power_w) + ~np.isnan(self.register_wh)
        is_misfit: NDArray[np.bool_] = (n_given != 1) | (has_energy != has_start)
        return is_misfit

    def batch_columns(self, measured_ms: NDArray[np.int64], rows: NDArray[np.bool_]) -> dict[str, NDArray[np.generic]]:
        """Return the columns of a ReadingBatch that energies fill, for the good ``rows``."""
        span_ms = np.nan_to_num(self.interval_ms[rows]).astype(np.int64)
        kinds = self.reading_kind[rows]
        is_interval = kinds == int(ReadingKind.INTERVAL_ENERGY)
        return {
            "reading_kind": kinds,
            "energy_wh": np.where(is_interval, self.energy_wh[rows], self.register_wh[rows]),
            "interval_start_ns": np.where(is_interval, (measured_ms[rows] - span_ms) * NS_PER_MS, -1),
        }


def misfit_of(sent: Callable[[str], object]) -> tuple[str, str]:
    """Return (field, rule) of a row that ``misfits``; ``sent`` tells the value of a field, None when not given."""
    given = [name for name in _OTHERS if sent(name) is not None]
    if sent("p") is None and not given:
        return "p", "must be given, or energy_kwh with interval_start_ms, or register_kwh"
    if sent("p") is None and given == ["energy_kwh"]:
        return "interval_start_ms", "must be given with energy_kwh"
    if sent("p") is None and given == ["interval_start_ms"]:
        return "energy_kwh", "must be given with interval_start_ms"
    return given[0], _ALONE
