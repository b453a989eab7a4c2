"""A day's quarter-hours in one piece a device: beside each merged file of sums, so that a fleet is summed in no time.

A block says what ``rollup.finish`` says of the file's rows, as float32, and counts only while its file is live. What
came later than the file, and devices that several files of a day speak of, are answered from the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unisono.store.history import rollup
from unisono.store.history.files import DeviceNos, Place, device_groups, read_devices
from unisono.store.history.kinds import NS_PER_DAY, QUARTERS_PER_DAY, ROLLUP_15MIN, ROLLUP_DAY
from unisono.store.history.objects import ObjectStore

# (device, quarter of the day).
Quarters = NDArray[np.float32]


def place_beside(merged: Place) -> Place:
    """Return where the block of a merged file of sums lies."""
    return Place(ROLLUP_DAY, merged.shard, merged.day, merged.seq_first, merged.seq_last, merged.mark)


def path_beside(path: str) -> str:
    """Return the path of the block of the file of sums at ``path``."""
    return path.replace(f"{ROLLUP_15MIN.name}/", f"{ROLLUP_DAY.name}/", 1)


def of_sums(sums: pa.Table, day: int) -> pa.Table:
    """Return the block of merged sum rows of one day, a row a device."""
    finished = rollup.finish(sums)
    device_nos, row = np.unique(finished.column("device_no").to_numpy(), return_inverse=True)
    quarter = (finished.column("interval_start_ns").to_numpy() - day * NS_PER_DAY) // rollup.QUARTER_NS

    def spread(name: str) -> Quarters:
        values = np.full((device_nos.size, QUARTERS_PER_DAY), np.nan, np.float32)
        values[row, quarter] = finished.column(name).to_numpy()
        return values

    mean_w, energy_wh = spread("power_mean_w"), spread("energy_wh")
    plain_wh = mean_w * np.float32(0.25)
    is_plain = np.all((energy_wh == plain_wh) | (np.isnan(energy_wh) & np.isnan(plain_wh)), axis=1)
    columns = [
        pa.array(device_nos, pa.int32()),
        pa.array(np.full(device_nos.size, day * NS_PER_DAY)),
        _packed(mean_w),
        _packed(energy_wh, is_plain),
        _packed(spread("coverage_frac")),
    ]
    return pa.table(columns, schema=ROLLUP_DAY.schema)


def quarters_of(
    store: ObjectStore, path: str, device_nos: DeviceNos
) -> Iterator[tuple[Quarters, Quarters | None, Quarters]]:
    """Yield (power_mean_w, energy_wh, coverage_frac) of a block's members among ``device_nos`` (sorted), in pieces.

    NaN is missing; a quarter without any reading has no coverage. No energies: they are a quarter of the power.
    """
    for table in device_groups(store, ROLLUP_DAY, path, device_nos):
        if table.num_rows:
            mean_w, coverage = _unpacked(table.column("power_mean_w")), _unpacked(table.column("coverage_frac"))
            energies = table.column("energy_wh")
            energy_wh = None
            if energies.null_count < table.num_rows:
                is_told = energies.is_valid().to_numpy()[:, np.newaxis]
                energy_wh = np.where(is_told, _unpacked(energies), mean_w * np.float32(0.25))
            yield mean_w, energy_wh, coverage


def devices_of(store: ObjectStore, path: str, device_nos: DeviceNos) -> NDArray[np.int32]:
    """Return which of ``device_nos`` (sorted) a block speaks of."""
    table = read_devices(store, ROLLUP_DAY, path, device_nos, ["device_no"])
    found: NDArray[np.int32] = table.column("device_no").to_numpy()
    return found


def _packed(values: Quarters, mask: NDArray[np.bool_] | None = None) -> pa.Array:
    dtype = ROLLUP_DAY.schema.field("power_mean_w").type
    data = pa.py_buffer(np.ascontiguousarray(values, "<f4"))
    validity = None if mask is None else pa.array(~mask).buffers()[1]
    return pa.FixedSizeBinaryArray.from_buffers(dtype, len(values), [validity, data])


def _unpacked(column: pa.ChunkedArray) -> Quarters:
    pieces = []
    for chunk in column.chunks:
        size = len(chunk) * QUARTERS_PER_DAY
        values = np.frombuffer(chunk.buffers()[1], "<f4", size, chunk.offset * chunk.type.byte_width)
        pieces.append(values.reshape(-1, QUARTERS_PER_DAY))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
