"""The quarter-hours of a day of many devices together: from blocks where there are any, rows where they say more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unisono.store.history import blocks, rollup
from unisono.store.history.files import read_devices
from unisono.store.history.kinds import NS_PER_DAY, QUARTERS_PER_DAY, ROLLUP_15MIN
from unisono.store.history.manifest import ManifestFile
from unisono.store.history.objects import ObjectStore

PORTFOLIO_COLUMNS: Final = pa.schema(
    [
        ("interval_start_ns", pa.int64()),
        ("interval_end_ns", pa.int64()),
        ("power_mean_w", pa.float64()),
        ("energy_wh", pa.float64()),
        ("n_devices", pa.int64()),
        ("coverage_frac", pa.float64()),
    ]
)

_Numbers = NDArray[np.int32]


def portfolio_day(
    store: ObjectStore,
    files: Sequence[ManifestFile],
    block_paths: frozenset[str],
    device_nos: _Numbers,
    span_ns: tuple[int, int],
) -> pa.Table:
    """Return ``PORTFOLIO_COLUMNS`` of the quarters that begin in ``span_ns``, of one day's live files of sums.

    ``block_paths`` are the live blocks; ``device_nos`` are sorted, each there once.
    """
    with_block = [file for file in files if blocks.path_beside(file.path) in block_paths]
    by_rows = _told_by_several(store, files, with_block, device_nos)
    day = _DaySums(files[0].day * NS_PER_DAY)
    by_block = np.setdiff1d(device_nos, by_rows, assume_unique=True)
    for file in with_block if by_block.size else ():
        for mean_w, energy_wh, coverage_frac in blocks.quarters_of(store, blocks.path_beside(file.path), by_block):
            day.add_block(mean_w, energy_wh, coverage_frac)
    if by_rows.size:
        sums = [read_devices(store, ROLLUP_15MIN, file.path, by_rows) for file in files]
        day.add_rows(rollup.finish(pa.concat_tables(sums)))
    table = day.table(len(device_nos))
    starts_ns = table.column("interval_start_ns")
    return table.filter(pc.and_(pc.greater_equal(starts_ns, span_ns[0]), pc.less(starts_ns, span_ns[1])))


def _told_by_several(
    store: ObjectStore, files: Sequence[ManifestFile], with_block: Sequence[ManifestFile], device_nos: _Numbers
) -> _Numbers:
    """Return the devices for which no single block says everything."""
    others = [file for file in files if file not in with_block]
    told = [read_devices(store, ROLLUP_15MIN, file.path, device_nos, ["device_no"]) for file in others]
    late = np.unique(np.concatenate([np.zeros(0, np.int32), *(table.column(0).to_numpy() for table in told)]))
    if len(with_block) < 2:
        return late
    paths = [blocks.path_beside(file.path) for file in with_block]
    numbers, n_blocks = np.unique(
        np.concatenate([blocks.devices_of(store, path, device_nos) for path in paths]), return_counts=True
    )
    return np.union1d(late, numbers[n_blocks > 1])


class _DaySums:
    """Sums by quarter of one day, in float64."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._sums: dict[str, NDArray[Any]] = {
            name: np.zeros(QUARTERS_PER_DAY) for name in ("power_mean_w", "energy_wh", "n_devices", "coverage_frac")
        }

    def add_block(self, mean_w: blocks.Quarters, energy_wh: blocks.Quarters | None, coverage: blocks.Quarters) -> None:
        power_w = _sum(mean_w)
        self._sums["power_mean_w"] += power_w
        self._sums["energy_wh"] += power_w * 0.25 if energy_wh is None else _sum(energy_wh)
        self._sums["coverage_frac"] += _sum(coverage)
        self._sums["n_devices"] += len(coverage) - np.isnan(coverage).sum(axis=0)

    def add_rows(self, finished: pa.Table) -> None:
        at = (finished.column("interval_start_ns").to_numpy() - self._start_ns) // rollup.QUARTER_NS
        for name in ("power_mean_w", "energy_wh", "coverage_frac"):
            self._sums[name] += np.bincount(at, finished.column(name).fill_null(0.0).to_numpy(), QUARTERS_PER_DAY)
        self._sums["n_devices"] += np.bincount(at, minlength=QUARTERS_PER_DAY)

    def table(self, n_members: int) -> pa.Table:
        starts_ns = self._start_ns + np.arange(QUARTERS_PER_DAY) * rollup.QUARTER_NS
        columns = dict(self._sums, interval_start_ns=starts_ns, interval_end_ns=starts_ns + rollup.QUARTER_NS)
        columns["coverage_frac"] = columns["coverage_frac"] / n_members
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in PORTFOLIO_COLUMNS]
        return pa.table(arrays, schema=PORTFOLIO_COLUMNS).filter(pa.array(columns["n_devices"] > 0))


def _sum(values: blocks.Quarters) -> NDArray[np.float64]:
    total: NDArray[np.float64] = values.sum(axis=0, dtype=np.float64)
    if np.isnan(total).any():
        total = np.nansum(values, axis=0, dtype=np.float64)
    return total
