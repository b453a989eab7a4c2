"""A day of many devices minute by minute, as a front puts it on the stream: recorded homes, shifted in time."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unisono.model.batches import ReadingBatch
from unisono.model.technology import ReadingKind, SourceKind

MINUTES: Final = 1440
NS_PER_MINUTE: Final = 60_000_000_000
# A front's batch: what comes in a tenth of a second at 10,000 readings a second.
BATCH_ROWS: Final = 1000
_BATTERY_WH: Final = 10_000.0
_RECORDED: Final = "loads_1min_open"
# Length of the tables of noise that devices read from different places; a power of two, for `&`.
_NOISE: Final = 1 << 16

Columns = dict[str, NDArray[Any]]


class Traces:
    """One day of ``n_devices``, numbered from 1; the same each time it is asked.

    Power and sun come from recorded homes where UNISONO_DATA has them (``origin`` says which), each device's shifted by
    minutes of its own. A battery of 10 kWh behind each meter gives the SoC (0.1 %), the load the voltage (0.1 V, with
    noise). Devices measure by the second, each at its own second of the minute, some a second early now and then.
    """

    def __init__(self, n_devices: int, day_ns: int, seed: int = 11) -> None:
        rng = np.random.default_rng(seed)
        self.n_devices, self._day_ns = n_devices, day_ns
        load_w, sun_frac, self.origin = _recorded(rng)
        n_homes = len(load_w)
        sun_w = sun_frac * rng.integers(0, 6, (n_homes, 1)) * 1000.0
        self._power_w = np.round(sun_w - load_w).astype(np.float32)
        stored_wh = np.clip(0.5 * _BATTERY_WH + np.cumsum(self._power_w / 60.0, axis=1), 500.0, _BATTERY_WH)
        self._soc_frac = np.round(stored_wh / _BATTERY_WH, 3).astype(np.float32)
        self._volts = 230.0 + self._power_w / 2000.0
        self._status = (sun_w > 0.0).astype(np.uint16)
        self._volt_noise = rng.normal(0.0, 0.5, _NOISE)
        self._early_ms = rng.integers(0, 200, _NOISE)
        self._is_odd = rng.random(_NOISE) < 0.001
        self._latency_ns = rng.integers(50_000_000, 400_000_000, _NOISE)

    def rows(self, minute: int, device_nos: NDArray[np.int32]) -> Columns:
        """Return what some devices measure in a minute of the day, and when it is known; see ``ReadingBatch``."""
        at = device_nos.astype(np.int64) - 1
        home = at % len(self._power_w)
        of_day = (minute + at * 17) % MINUTES
        chance = (at * 7919 + minute * 104_729) & (_NOISE - 1)
        offset_ms = at * 59_700 // self.n_devices
        measured_s = (offset_ms + 200 - self._early_ms[chance]) // 1000
        volts = self._volts[home, of_day] + self._volt_noise[chance]
        batch_no = at // BATCH_ROWS
        last_ms = (np.minimum((batch_no + 1) * BATCH_ROWS, self.n_devices) - 1) * 59_700 // self.n_devices + 200
        latency_ns = self._latency_ns[(batch_no * 31 + minute * 7919) & (_NOISE - 1)]
        begin_ns = self._day_ns + minute * NS_PER_MINUTE
        return {
            "device_no": device_nos,
            "known_ns": begin_ns + last_ms * 1_000_000 + latency_ns,
            "measured_ns": begin_ns + measured_s * 1_000_000_000,
            "source_kind": np.full(at.size, SourceKind.DEVICE, np.uint8),
            "reading_kind": np.full(at.size, ReadingKind.POWER, np.uint8),
            "quality": self._is_odd[chance].astype(np.uint8),
            "status": self._status[home, of_day],
            "power_w": self._power_w[home, of_day],
            "soc_frac": self._soc_frac[home, of_day],
            "voltage_v": np.round(volts, 1).astype(np.float32),
        }

    def device_day(self, device_no: int) -> Columns:
        """Return the day of one device, a row a minute."""
        numbers = np.array([device_no], np.int32)
        minutes = [self.rows(minute, numbers) for minute in range(MINUTES)]
        return {name: np.concatenate([columns[name] for columns in minutes]) for name in minutes[0]}

    def batches(self, columns: Columns) -> Iterator[bytes]:
        """Yield a minute of all devices as it lies on the stream."""
        for first in range(0, self.n_devices, BATCH_ROWS):
            part = {name: column[first : first + BATCH_ROWS] for name, column in columns.items()}
            scalars = {"gateway_no": first // BATCH_ROWS, "batch_seq": -1, "known_ns": int(part.pop("known_ns")[0])}
            yield ReadingBatch.of_columns(scalars, part).encode()


def _recorded(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Return (load in W by home and minute, sun as a share of the rating by minute, where they come from)."""
    folder = Path(os.environ.get("UNISONO_DATA", "../shared/data")) / _RECORDED
    if not folder.is_dir():
        load_w = 150.0 + np.abs(np.cumsum(rng.normal(0.0, 60.0, (120, MINUTES)), axis=1))
        sun = np.clip(np.sin((np.arange(MINUTES) - 360.0) * np.pi / 720.0), 0.0, None)
        return load_w, sun, "simulated"
    loads = _table(folder / "homes_1min_one_day.csv.gz")
    sun = _table(folder / "pv_pu_1min_one_day.csv.gz")
    return loads.T * 1000.0, sun[:, 0], f"recorded: {_RECORDED}, {loads.shape[1]} homes"


def _table(path: Path) -> NDArray[np.float64]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        # A row of names, and in each row its number first.
        return np.array([[float(text) for text in row[1:]] for row in list(csv.reader(lines))[1:]])
