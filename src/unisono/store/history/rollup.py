"""Quarter-hour sums of readings, made on the way in; sums of late readings are simply added to those already there.

A sum row is the powers of one device, source and quarter, or one piece of it that a metered interval covers, with the
instant at which that was told. Rows of one key merge in any order (n, sums, extremes, a bit a minute; of a piece that
is told again, the newest word), so an amendment is another row, and nothing that was written is changed. ``finish``
turns sums into means; where pieces overlap, the newest told one speaks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unisono.model.technology import ReadingKind
from unisono.store.history.kinds import ROLLUP_15MIN
from unisono.store.history.order import is_in_order, order_of
from unisono.wire.energies import INTERVAL_S_MAX

QUARTER_NS: Final = 900 * 1_000_000_000
_MINUTE_NS: Final = 60 * 1_000_000_000
# The wire refuses longer ones; a few that came before that rule would spread over years.
_INTERVAL_NS_MAX: Final = INTERVAL_S_MAX * 1_000_000_000
# In place of a piece's begin: powers, and the energies of files of version 1, which do not know where they lie.
_NOWHERE: Final = -1
_SOURCE_KEY: Final = ("device_no", "interval_start_ns", "source_kind")
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
    return _as_table(_merged(_joined([_power_rows(_without_repeats(table)), _energy_rows(_columns_of(table))])))


def merge(table: pa.Table) -> pa.Table:
    """Return one row a key, in the kind's order; pieces that follow one another become one."""
    return _as_table(_run_together(_merged(_from_table(table))))


def finish(sums: pa.Table) -> pa.Table:
    """Return one row a device and quarter, from the source of the highest priority (the lowest number) that has any.

    ``power_mean_w`` is the mean of the readings, or what the metered energy says when there is none; ``energy_wh`` is
    metered where meters cover the quarter; else the mean of the readings for a quarter of an hour; where there is none,
    the energy of the part that is metered.
    """
    rows = _of_sources(_merged(_from_table(sums)))
    best = np.ones(rows["device_no"].size, dtype=bool)
    best[1:] = (np.diff(rows["device_no"]) != 0) | (np.diff(rows["interval_start_ns"]) != 0)
    rows = {name: column[best] for name, column in rows.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        sampled_w = rows["power_sum_w"] / rows["n"]
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


def _columns_of(table: pa.Table) -> _Columns:
    names = ("device_no", "source_kind", "reading_kind", "measured_ns", "known_ns", "power_w", "energy_wh")
    columns: _Columns = {name: table.column(name).to_numpy() for name in names}
    columns["interval_start_ns"] = table.column("interval_start_ns").fill_null(-1).to_numpy()
    return columns


def _without_repeats(table: pa.Table) -> _Columns:
    columns = _columns_of(table)
    keys = ("device_no", "source_kind", "reading_kind", "measured_ns")
    columns = _taken(columns, order_of([columns[name] for name in keys]))
    at = _firsts(*(columns[name] for name in keys))
    return columns if at.size == table.num_rows else _taken(columns, at)


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
        "metered_from_ns": np.full(n, _NOWHERE),
        "metered_known_ns": np.zeros(n, np.int64),
    }


def _energy_rows(readings: _Columns) -> _Columns:
    start_ns, end_ns = readings["interval_start_ns"], readings["measured_ns"]
    mask = (readings["reading_kind"] == ReadingKind.INTERVAL_ENERGY) & ~np.isnan(readings["energy_wh"])
    mask &= (start_ns >= 0) & (end_ns > start_ns) & (end_ns - start_ns <= _INTERVAL_NS_MAX)
    kept = np.flatnonzero(mask)
    first = start_ns[kept] // QUARTER_NS
    n_quarters = (end_ns[kept] - 1) // QUARTER_NS - first + 1
    row = np.repeat(kept, n_quarters)
    within = np.arange(row.size) - np.repeat(np.cumsum(n_quarters) - n_quarters, n_quarters)
    quarter_ns = (np.repeat(first, n_quarters) + within) * QUARTER_NS
    from_ns = np.maximum(start_ns[row], quarter_ns)
    overlap_ns = np.minimum(end_ns[row], quarter_ns + QUARTER_NS) - from_ns
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
        "metered_from_ns": from_ns,
        "metered_known_ns": readings["known_ns"][row],
    }


def _taken(rows: _Columns, at: NDArray[np.intp] | None) -> _Columns:
    """Return the rows at these positions; None: all of them, as they are."""
    return rows if at is None else {name: column[at] for name, column in rows.items()}


def _joined(parts: list[_Columns]) -> _Columns:
    parts = [part for part in parts if part["device_no"].size] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _merged(rows: _Columns) -> _Columns:
    """Return one row a key: sums of powers, and of each piece what was told of it last."""
    n_rows = rows["device_no"].size
    if n_rows == 0:
        return rows
    rows = dict(rows, length_s=np.where(rows["metered_from_ns"] != _NOWHERE, rows["metered_s"], 0.0))
    source_keys = [rows[name] for name in _SOURCE_KEY]
    # Two words of one instant are told apart by what they say.
    keys = [*source_keys, *(rows[name] for name in ("metered_from_ns", "length_s", "metered_known_ns", "metered_wh"))]
    if bool((rows["metered_from_ns"] == _NOWHERE).all()):
        # Powers alone, as from most devices: sums need no order within a quarter.
        rows = _taken(rows, order_of(source_keys))
    elif not is_in_order(keys):
        # lexsort takes its most significant key last.
        rows = _taken(rows, np.lexsort(keys[::-1]))
    at = _firsts(*(rows[name] for name in (*_SOURCE_KEY, "metered_from_ns", "length_s")))
    last = np.append(at[1:], n_rows) - 1
    merged = _summed(rows, at)
    is_piece = rows["metered_from_ns"][at] != _NOWHERE
    for name in ("metered_wh", "metered_s"):
        merged[name] = np.where(is_piece, rows[name][last], merged[name])
    return merged | {name: rows[name][last] for name in ("metered_from_ns", "metered_known_ns")}


def _of_sources(rows: _Columns) -> _Columns:
    """Return one row a device, quarter and source of merged rows; what its pieces tell of the same time counts once."""
    if rows["device_no"].size == 0:
        return rows
    at = _firsts(*(rows[name] for name in _SOURCE_KEY))
    end = np.append(at[1:], rows["device_no"].size)
    rows = dict(rows, metered_wh=rows["metered_wh"].copy(), metered_s=rows["metered_s"].copy())
    # Rare: meters tell one interval after the other.
    for group in np.flatnonzero(_has_clash(rows, at)):
        _take_overlaps_out(rows, slice(int(at[group]), int(end[group])))
    return _summed(rows, at)


def _run_together(rows: _Columns) -> _Columns:
    """Return merged rows with pieces that follow one another without a gap as one, where none overlaps another.

    So a meter's minutes take one row in the end. Of a part that is told again later, the rest is shared out by time.
    """
    if rows["device_no"].size == 0:
        return rows
    at = _firsts(*(rows[name] for name in _SOURCE_KEY))
    n_of_group = np.diff(np.append(at, rows["device_no"].size))
    is_free = np.repeat(~_has_clash(rows, at), n_of_group)
    is_first = np.ones(rows["device_no"].size, dtype=bool)
    is_first[1:] = (_ends_ns(rows)[:-1] != rows["metered_from_ns"][1:]) | ~is_free[1:]
    is_first[at] = True
    first = np.flatnonzero(is_first)
    known_ns = np.maximum.reduceat(rows["metered_known_ns"], first)
    return _summed(rows, first) | {"metered_from_ns": rows["metered_from_ns"][first], "metered_known_ns": known_ns}


def _summed(rows: _Columns, at: NDArray[np.intp]) -> _Columns:
    """Return the sums of the rows between the positions ``at``."""
    sums: _Columns = {name: rows[name][at] for name in _SOURCE_KEY}
    for name in ("n", "power_sum_w", "metered_wh", "metered_s"):
        sums[name] = np.add.reduceat(rows[name], at)
    sums["power_min_w"] = np.fmin.reduceat(rows["power_min_w"], at)
    sums["power_max_w"] = np.fmax.reduceat(rows["power_max_w"], at)
    sums["minutes"] = np.bitwise_or.reduceat(rows["minutes"], at)
    return sums


def _firsts(*keys: NDArray[Any]) -> NDArray[np.intp]:
    """Return the positions at which a new combination of the sorted keys begins."""
    is_first = np.ones(keys[0].size, dtype=bool)
    is_first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return np.flatnonzero(is_first)


def _ends_ns(rows: _Columns) -> NDArray[np.int64]:
    """Return where each piece ends; of what is no piece, no instant."""
    length_ns = np.rint(rows["metered_s"] * 1e9).astype(np.int64)
    return np.where(rows["metered_from_ns"] == _NOWHERE, _NOWHERE - 1, rows["metered_from_ns"] + length_ns)


def _has_clash(rows: _Columns, at: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return for each group of merged rows that begins at ``at`` whether any two of its pieces overlap."""
    # Pieces are in the order of their begin: where any two overlap, two neighbours do.
    is_clash = np.zeros(rows["device_no"].size, dtype=bool)
    is_clash[1:] = rows["metered_from_ns"][1:] < _ends_ns(rows)[:-1]
    is_clash[at] = False
    return np.logical_or.reduceat(is_clash, at)


def _take_overlaps_out(rows: _Columns, group: slice) -> None:
    """Leave each piece of a group the time that no newer told one covers (no shorter one, told at once), pro rata."""
    from_ns, end_ns = rows["metered_from_ns"][group], _ends_ns(rows)[group]
    length_s, energy_wh = rows["metered_s"][group], rows["metered_wh"][group]
    taken: list[tuple[int, int]] = []
    for piece in np.lexsort((length_s, -rows["metered_known_ns"][group])):
        if from_ns[piece] == _NOWHERE:
            continue
        free = [(int(from_ns[piece]), int(end_ns[piece]))]
        for begin, end in taken:
            parts = [(low, min(high, begin)) for low, high in free] + [(max(low, end), high) for low, high in free]
            free = [(low, high) for low, high in parts if low < high]
        taken += free
        left_s = sum(high - low for low, high in free) / 1e9
        energy_wh[piece] *= left_s / length_s[piece]
        length_s[piece] = left_s


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
    for name, nothing in (("metered_from_ns", _NOWHERE), ("metered_known_ns", 0)):
        columns[name] = table.column(name).fill_null(nothing).to_numpy()
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
        elif field.name in ("metered_from_ns", "metered_known_ns"):
            mask = rows["metered_from_ns"] == _NOWHERE
        arrays.append(pa.array(rows[field.name], field.type, mask=mask, from_pandas=True))
    return pa.table(arrays, schema=ROLLUP_15MIN.schema)
