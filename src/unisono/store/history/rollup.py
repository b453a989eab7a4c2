"""Quarter-hour sums of readings, made on the way in; sums of late readings are simply added to those already there.

A sum row is one device, source and quarter. Rows of one key merge in any order (n, sums, extremes, a bit a minute), so
an amendment is another row, and nothing that was written is changed. ``finish`` turns sums into means.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unisono.model.technology import ReadingKind
from unisono.store.history.kinds import ROLLUP_15MIN

QUARTER_NS: Final = 900 * 1_000_000_000
_MINUTE_NS: Final = 60 * 1_000_000_000
# An energy over a longer time than a day says nothing of a quarter.
_QUARTERS_MAX: Final = 96
# A quarter counts as metered when readings cover all of it but a second, the resolution of many meters' clocks.
_METERED_S: Final = 899.0

FINISHED: Final = pa.schema(
    [
        ("device_no", pa.int32()),
        ("interval_start_ns", pa.int64()),
        ("interval_end_ns", pa.int64()),
        ("source_kind", pa.uint8()),
        ("power_mean_w", pa.float64()),
        ("power_min_w", pa.float32()),
        ("power_max_w", pa.float32()),
        ("energy_wh", pa.float64()),
        ("energy_is_metered", pa.bool_()),
        ("n", pa.int64()),
        # Share of the quarter's minutes with a power reading, or of its seconds under a metered interval.
        ("coverage_frac", pa.float64()),
    ]
)

_Columns = dict[str, NDArray[Any]]


def sums_of_readings(table: pa.Table) -> pa.Table:
    """Return the sum rows of a table of readings; a reading that is there twice counts once."""
    readings = _without_repeats(table)
    return _as_table(_merged(_joined([_power_rows(readings), _energy_rows(readings)])))


def merge(table: pa.Table) -> pa.Table:
    """Return one row a key, in the kind's order."""
    return _as_table(_merged(_from_table(table)))


def finish(sums: pa.Table) -> pa.Table:
    """Return one row a device and quarter, from the source of the highest priority (the lowest number) that has any.

    ``power_mean_w`` is the mean of the readings, or what the metered energy says when there is none; ``energy_wh`` is
    metered where meters cover the quarter; else the mean of the readings for a quarter of an hour; where there is none,
    the energy of the part that is metered.
    """
    rows = _merged(_from_table(sums))
    best = np.ones(rows["device_no"].size, dtype=bool)
    best[1:] = (np.diff(rows["device_no"]) != 0) | (np.diff(rows["interval_start_ns"]) != 0)
    rows = {name: column[best] for name, column in rows.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        sampled_w = rows["power_sum_w"] / rows["n"]
        # Dividing by the covered time also makes an energy that was told twice count once.
        metered_w = rows["metered_wh"] / rows["metered_s"] * 3600.0
        part_wh = metered_w * np.minimum(rows["metered_s"], 900.0) / 3600.0
    is_metered = rows["metered_s"] >= _METERED_S
    mean_w = np.where(rows["n"] > 0, sampled_w, metered_w)
    n_minutes = np.unpackbits(rows["minutes"].view(np.uint8).reshape(-1, 2), axis=1).sum(axis=1)
    columns = {
        "device_no": rows["device_no"],
        "interval_start_ns": rows["interval_start_ns"],
        "interval_end_ns": rows["interval_start_ns"] + QUARTER_NS,
        "source_kind": rows["source_kind"],
        "power_mean_w": mean_w,
        "power_min_w": rows["power_min_w"],
        "power_max_w": rows["power_max_w"],
        "energy_wh": np.where(is_metered, metered_w * 0.25, np.where(rows["n"] > 0, mean_w * 0.25, part_wh)),
        "energy_is_metered": is_metered,
        "n": rows["n"],
        "coverage_frac": np.maximum(n_minutes / 15.0, np.minimum(rows["metered_s"] / 900.0, 1.0)),
    }
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in FINISHED]
    return pa.table(arrays, schema=FINISHED)


def _without_repeats(table: pa.Table) -> _Columns:
    names = ("device_no", "source_kind", "reading_kind", "measured_ns", "interval_start_ns", "power_w", "energy_wh")
    columns: _Columns = {name: table.column(name).to_numpy() for name in names if name != "interval_start_ns"}
    columns["interval_start_ns"] = table.column("interval_start_ns").fill_null(-1).to_numpy()
    keys = [columns[name] for name in ("measured_ns", "reading_kind", "source_kind", "device_no")]
    order = np.lexsort(keys)
    is_first = np.zeros(order.size, dtype=bool)
    is_first[:1] = True
    for key in keys:
        in_order = key[order]
        is_first[1:] |= in_order[1:] != in_order[:-1]
    kept = order[is_first]
    return {name: column[kept] for name, column in columns.items()}


def _power_rows(readings: _Columns) -> _Columns:
    mask = (readings["reading_kind"] == ReadingKind.POWER) & ~np.isnan(readings["power_w"])
    measured_ns, power_w = readings["measured_ns"][mask], readings["power_w"][mask]
    start_ns = measured_ns // QUARTER_NS * QUARTER_NS
    minute = ((measured_ns - start_ns) // _MINUTE_NS).astype(np.uint16)
    n = measured_ns.size
    return {
        "device_no": readings["device_no"][mask],
        "interval_start_ns": start_ns,
        "source_kind": readings["source_kind"][mask],
        "n": np.ones(n, np.int64),
        "power_sum_w": power_w.astype(np.float64),
        "power_min_w": power_w,
        "power_max_w": power_w,
        "minutes": np.left_shift(np.uint16(1), minute),
        "metered_wh": np.zeros(n),
        "metered_s": np.zeros(n),
    }


def _energy_rows(readings: _Columns) -> _Columns:
    start_ns, end_ns = readings["interval_start_ns"], readings["measured_ns"]
    mask = (readings["reading_kind"] == ReadingKind.INTERVAL_ENERGY) & ~np.isnan(readings["energy_wh"])
    mask &= (start_ns >= 0) & (end_ns > start_ns)
    first = start_ns // QUARTER_NS
    n_quarters = (end_ns - 1) // QUARTER_NS - first + 1
    mask &= n_quarters <= _QUARTERS_MAX
    kept = np.flatnonzero(mask)
    row = np.repeat(kept, n_quarters[kept])
    within = np.arange(row.size) - np.repeat(np.cumsum(n_quarters[kept]) - n_quarters[kept], n_quarters[kept])
    quarter_ns = (first[row] + within) * QUARTER_NS
    overlap_ns = np.minimum(end_ns[row], quarter_ns + QUARTER_NS) - np.maximum(start_ns[row], quarter_ns)
    n = row.size
    return {
        "device_no": readings["device_no"][row],
        "interval_start_ns": quarter_ns,
        "source_kind": readings["source_kind"][row],
        "n": np.zeros(n, np.int64),
        "power_sum_w": np.zeros(n),
        "power_min_w": np.full(n, np.nan, np.float32),
        "power_max_w": np.full(n, np.nan, np.float32),
        "minutes": np.zeros(n, np.uint16),
        "metered_wh": readings["energy_wh"][row] * (overlap_ns / (end_ns[row] - start_ns[row])),
        "metered_s": overlap_ns / 1e9,
    }


def _joined(parts: list[_Columns]) -> _Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _merged(rows: _Columns) -> _Columns:
    order = np.lexsort((rows["source_kind"], rows["interval_start_ns"], rows["device_no"]))
    rows = {name: column[order] for name, column in rows.items()}
    if order.size == 0:
        return rows
    is_first = np.ones(order.size, dtype=bool)
    is_first[1:] = np.any(
        [rows[name][1:] != rows[name][:-1] for name in ("device_no", "interval_start_ns", "source_kind")], axis=0
    )
    at = np.flatnonzero(is_first)
    merged = {name: rows[name][at] for name in ("device_no", "interval_start_ns", "source_kind")}
    for name in ("n", "power_sum_w", "metered_wh", "metered_s"):
        merged[name] = np.add.reduceat(rows[name], at)
    merged["power_min_w"] = np.fmin.reduceat(rows["power_min_w"], at)
    merged["power_max_w"] = np.fmax.reduceat(rows["power_max_w"], at)
    merged["minutes"] = np.bitwise_or.reduceat(rows["minutes"], at)
    return merged


def _from_table(table: pa.Table) -> _Columns:
    columns: _Columns = {}
    for name in (
        "device_no",
        "interval_start_ns",
        "source_kind",
        "n",
        "minutes",
        "metered_s",
        "power_min_w",
        "power_max_w",
    ):
        columns[name] = table.column(name).to_numpy()
    for name in ("power_sum_w", "metered_wh"):
        columns[name] = table.column(name).fill_null(0.0).to_numpy()
    return columns


def _as_table(rows: _Columns) -> pa.Table:
    rows = dict(rows, interval_end_ns=rows["interval_start_ns"] + QUARTER_NS)
    arrays = []
    for field in ROLLUP_15MIN.schema:
        mask = None
        if field.name == "power_sum_w":
            mask = rows["n"] == 0
        elif field.name == "metered_wh":
            mask = rows["metered_s"] == 0
        arrays.append(pa.array(rows[field.name], field.type, mask=mask, from_pandas=True))
    return pa.table(arrays, schema=ROLLUP_15MIN.schema)
