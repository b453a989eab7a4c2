"""Readings made from a seed, for the tests of history."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from unisono.model.batches import ReadingBatch
from unisono.model.technology import ReadingKind, SourceKind

DAY = 20_777
DAY_NS = DAY * 86_400_000_000_000


def readings(
    rng: np.random.Generator, n: int, *, n_devices: int = 40, start_ns: int = DAY_NS, span_s: int = 86_400
) -> ReadingBatch:
    """Return n readings at random instants of a span, in random order; a tenth of the powers is missing."""
    measured_ns = start_ns + rng.integers(0, span_s * 1000, n) * 1_000_000
    power_w = np.round(rng.normal(0, 2000, n)).astype(np.float32)
    power_w[rng.random(n) < 0.1] = np.nan
    columns = {
        "device_no": rng.integers(1, n_devices + 1, n),
        "source_kind": np.full(n, SourceKind.DEVICE),
        "reading_kind": np.full(n, ReadingKind.POWER),
        "quality": np.zeros(n),
        "status": rng.integers(0, 3, n),
        "measured_ns": measured_ns,
        "power_w": power_w,
        "soc_frac": rng.random(n),
    }
    return ReadingBatch.of_columns({"gateway_no": 1, "batch_seq": -1, "known_ns": start_ns + span_s * 10**9}, columns)


def rows(table: pa.Table) -> list[tuple[object, ...]]:
    """Return the rows as sorted tuples, whatever their order was."""
    columns = [table.column(name).to_pylist() for name in sorted(table.schema.names)]
    return sorted(zip(*columns, strict=True), key=repr)
