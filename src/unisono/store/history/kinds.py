"""What history keeps: one kind of row a folder, its columns, its order and how long it stays.

Columns are found by name: a column added here later reads as missing from the files written before it.
Missing is null, never 0 and never NaN (save in commands, which are kept to the bit). Instants are int64 nanoseconds
UTC, power is positive into the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

NS_PER_DAY: Final = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row. Files are sorted by ``order`` (the device first) and hold one UTC day of ``day_column``."""

    name: str
    version: int
    schema: pa.Schema
    order: tuple[str, ...]
    day_column: str
    # Whole days after which a day is dropped; 0 keeps it for ever.
    retention_days: int
    # Columns that seldom repeat and grow within a device: delta encoding beats a dictionary there (2.9 against 7.8 B).
    delta_columns: tuple[str, ...] = ()
    # Columns of a day's values in one piece, which never repeat: neither dictionary nor statistics.
    block_columns: tuple[str, ...] = ()
    # One device's day lies in one or two row groups of this size, and a group still compresses well
    # (10 k rows a group cost 12.6 instead of 7.9 B a row).
    row_group_rows: int = 144_000
    codec: str = "zstd"
    # The kind whose merged files this one is made from, beside each of them; "" is a kind of its own.
    derived_from: str = ""


_READING_COLUMNS = pa.schema(
    [
        pa.field("device_no", pa.int32(), nullable=False),
        pa.field("measured_ns", pa.int64(), nullable=False),
        pa.field("known_ns", pa.int64(), nullable=False),
        pa.field("gateway_no", pa.int32()),
        pa.field("source_kind", pa.uint8(), nullable=False),
        pa.field("reading_kind", pa.uint8(), nullable=False),
        pa.field("quality", pa.uint8(), nullable=False),
        pa.field("status", pa.uint16(), nullable=False),
        pa.field("interval_start_ns", pa.int64()),
        pa.field("power_w", pa.float32()),
        pa.field("energy_wh", pa.float64()),
        pa.field("soc_frac", pa.float32()),
        pa.field("temperature_degc", pa.float32()),
        pa.field("voltage_v", pa.float32()),
    ]
)

READINGS: Final = Kind(
    "readings", 1, _READING_COLUMNS, ("device_no", "measured_ns"), "measured_ns", 400, ("measured_ns",)
)

# Readings whose measured instant is too far from the instant we knew them to be believed: kept under the day we knew
# them, outside every ordinary query, so that a device with a broken clock can't open a thousand day folders.
READINGS_ASTRAY: Final = Kind("readings_astray", 1, _READING_COLUMNS, ("device_no", "measured_ns"), "known_ns", 60)

COMMANDS: Final = Kind(
    "commands",
    1,
    pa.schema(
        [
            pa.field("device_no", pa.int32(), nullable=False),
            pa.field("issued_ns", pa.int64(), nullable=False),
            pa.field("epoch", pa.int64(), nullable=False),
            pa.field("cycle", pa.int64(), nullable=False),
            # Position of the row in its cycle's frame, so that the frame can be put together again.
            pa.field("frame_row", pa.int32(), nullable=False),
            pa.field("gateway_no", pa.int32(), nullable=False),
            pa.field("dispatch_no", pa.int32(), nullable=False),
            pa.field("seq", pa.int64(), nullable=False),
            pa.field("kind", pa.uint8(), nullable=False),
            pa.field("fallback", pa.uint8(), nullable=False),
            pa.field("value", pa.float32()),
            pa.field("start_ns", pa.int64(), nullable=False),
            pa.field("expires_ns", pa.int64(), nullable=False),
            pa.field("ttl_s", pa.float32()),
        ]
    ),
    ("device_no", "issued_ns", "seq", "frame_row"),
    "issued_ns",
    0,
    ("seq",),
)

ACKS: Final = Kind(
    "acks",
    1,
    pa.schema(
        [
            pa.field("device_no", pa.int32(), nullable=False),
            pa.field("known_ns", pa.int64(), nullable=False),
            pa.field("answered_ns", pa.int64()),
            pa.field("gateway_no", pa.int32(), nullable=False),
            pa.field("epoch", pa.int64(), nullable=False),
            pa.field("seq", pa.int64(), nullable=False),
            pa.field("code", pa.uint8(), nullable=False),
        ]
    ),
    ("device_no", "known_ns", "seq"),
    "known_ns",
    0,
    ("seq",),
)

# Sums that can be merged in any order; ``rollup.finish`` turns them into means. One row for the powers of a device,
# source and quarter, and one for each piece of it that a metered interval covers.
ROLLUP_15MIN: Final = Kind(
    "rollup_15min",
    2,
    pa.schema(
        [
            pa.field("device_no", pa.int32(), nullable=False),
            pa.field("interval_start_ns", pa.int64(), nullable=False),
            pa.field("interval_end_ns", pa.int64(), nullable=False),
            pa.field("source_kind", pa.uint8(), nullable=False),
            pa.field("n", pa.int64(), nullable=False),
            pa.field("power_sum_w", pa.float64()),
            pa.field("power_min_w", pa.float32()),
            pa.field("power_max_w", pa.float32()),
            # Bit m is set when minute m of the quarter has a power reading.
            pa.field("minutes", pa.uint16(), nullable=False),
            # What interval-energy readings say, pro rata by time, and how many seconds of the quarter they cover.
            pa.field("metered_wh", pa.float64()),
            pa.field("metered_s", pa.float64(), nullable=False),
            # Where those seconds begin and when they were told; null for powers, and in files of version 1.
            pa.field("metered_from_ns", pa.int64()),
            pa.field("metered_known_ns", pa.int64()),
        ]
    ),
    ("device_no", "interval_start_ns", "source_kind"),
    "interval_start_ns",
    0,
)

QUARTERS_PER_DAY: Final = 96
_BLOCK: Final = pa.binary(QUARTERS_PER_DAY * np.dtype(np.float32).itemsize)

# What ``rollup.finish`` says of each quarter-hour of a day, a row a device: 96 little-endian float32 in one piece (NaN
# is missing). Made when quarter-hours are merged, so that the sums over a fleet's day are read at the speed of memory:
# 17 ms for 70,000 devices' powers in place of 110 ms and more for their rows, and lists of floats take 40 ms. lz4,
# for zstd would take twice the time for a quarter of the bytes.
ROLLUP_DAY: Final = Kind(
    "rollup_day",
    1,
    pa.schema(
        [
            pa.field("device_no", pa.int32(), nullable=False),
            pa.field("interval_start_ns", pa.int64(), nullable=False),
            pa.field("power_mean_w", _BLOCK, nullable=False),
            # Null where it is a quarter of the power in each interval, as for every device without a meter.
            pa.field("energy_wh", _BLOCK),
            pa.field("coverage_frac", _BLOCK, nullable=False),
        ]
    ),
    ("device_no",),
    "interval_start_ns",
    0,
    block_columns=("power_mean_w", "energy_wh", "coverage_frac"),
    row_group_rows=4096,
    codec="lz4",
    derived_from="rollup_15min",
)

KINDS: Final = {kind.name: kind for kind in (READINGS, READINGS_ASTRAY, COMMANDS, ACKS, ROLLUP_15MIN, ROLLUP_DAY)}


def day_of(at_ns: int) -> int:
    """Return the UTC day, counted from 1970-01-01, that an instant lies in."""
    return at_ns // NS_PER_DAY


def date_of(day: int) -> str:
    """Return a day's date, YYYY-MM-DD, as the manifest and the folders name it."""
    return str(np.datetime64(day, "D"))


def day_of_date(date: str) -> int:
    """Return the day of a date that ``date_of`` made."""
    return int(np.datetime64(date, "D").astype(np.int64))
