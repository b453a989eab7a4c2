"""A fold of our own: the newest reading of each device, read from the stream's start, to hold the plant's beside."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.bus import subjects
from unisono.bus.connection import Bus
from unisono.bus.consumers import KeptMessage, StreamReader
from unisono.model.batches import ReadingBatch
from unisono.model.technology import SourceKind
from unisono.plant.checkpoint import restore
from unisono.plant.state import PlantConfig, PlantState

STREAM: Final = "READINGS"


@dataclass(slots=True)
class Twin:
    """What devices said last as of ``seq``; knows nothing of the plant's rules but that the newest instant wins."""

    n_devices: int
    measured_ns: NDArray[np.int64] = field(init=False)
    power_w: NDArray[np.float32] = field(init=False)
    soc_frac: NDArray[np.float32] = field(init=False)
    seq: int = 0
    n_rows: int = 0
    # (gateway, sequence) of each batch, and how often it is on the stream.
    batches: dict[tuple[int, int], int] = field(default_factory=dict)
    # Sequences at which readings came, and how many rows there were by then.
    _seqs: list[int] = field(default_factory=lambda: [0])
    _n_rows: list[int] = field(default_factory=lambda: [0])
    _reader: StreamReader | None = None
    _waiting: deque[KeptMessage] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.measured_ns = np.full(self.n_devices, -1, np.int64)
        self.power_w = np.full(self.n_devices, np.nan, np.float32)
        self.soc_frac = np.full(self.n_devices, np.nan, np.float32)

    async def read_to(self, bus: Bus, seq: int) -> None:
        """Fold every message up to ``seq``, which is on the stream."""
        if self._reader is None:
            self._reader = bus.reader(STREAM, subjects.readings(0), 1)
        while self.seq < seq:
            if not self._waiting:
                self._waiting.extend(await self._reader.take(500, 1.0))
            while self._waiting and self._waiting[0].seq <= seq:
                self._fold(self._waiting.popleft())

    async def close(self) -> None:
        """Let go of the stream."""
        if self._reader is not None:
            await self._reader.close()

    def n_rows_to(self, seq: int) -> int:
        """Return how many rows of readings the stream holds up to ``seq``."""
        return self._n_rows[bisect_right(self._seqs, seq) - 1]

    def n_differences(self, state: PlantState) -> int:
        """Return in how many devices the plant's columns are not what they should be; both as of the same sequence."""
        rows = state.fleet.row_of_device[1 : self.n_devices + 1]
        slots, picture = state.fleet.slots, state.fleet.picture
        source = int(SourceKind.DEVICE)
        theirs = (slots.measured_ns[source, rows], slots.power_w[source, rows], picture.soc_frac[rows])
        ours = (self.measured_ns, self.power_w, self.soc_frac)
        differs = np.zeros(self.n_devices, np.bool_)
        for told, read in zip(theirs, ours, strict=True):
            differs |= (self.measured_ns >= 0) & (told != read)
        return int(differs.sum())

    def _fold(self, message: KeptMessage) -> None:
        self.seq = message.seq
        if message.payload[:4] == ReadingBatch.MAGIC:
            batch = ReadingBatch.decode(message.payload)
            key = (batch.gateway_no, batch.batch_seq)
            self.batches[key] = self.batches.get(key, 0) + 1
            self.n_rows += len(batch)
            self._seqs.append(message.seq)
            self._n_rows.append(self.n_rows)
            rows = batch.device_no - 1
            is_newer = batch.measured_ns > self.measured_ns[rows]
            rows = rows[is_newer]
            self.measured_ns[rows] = batch.measured_ns[is_newer]
            self.power_w[rows] = batch.power_w[is_newer]
            self.soc_frac[rows] = batch.soc_frac[is_newer]


def saved(path: Path) -> tuple[PlantState, int]:
    """Return the newest checkpoint's state, and up to which message of the stream it reaches."""
    state, carried = restore(path.read_bytes(), PlantConfig(), 0, 0, 0)
    return state, carried.positions[STREAM]
