"""Checkpoints on their way to the disk and back, beside the cycles.

An image is copied out of the columns piece by piece by a thread that writes it to the disk. Only what is not written
when the next cycle begins is copied at once. So a checkpoint takes little memory, and holds the worker for as long as a
copy takes at the most, however slow the disk is.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from unisono.base.clock import Clock
from unisono.base.errors import DamagedRecord
from unisono.plant.checkpoint import Image

# Writing may take this share of the time: after commands a checkpoint in each cycle of 4 s up to 200 ms of writing,
# which is some 80,000 devices (10,000 take 10 MB and 25 ms); beyond, they are as much rarer.
WRITING_FRAC: Final = 0.05


class Checkpoints:
    """The file of one shard's checkpoint; ``pause_ns`` is how long to wait for the next one, by what the last took."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.pause_ns = 0

    async def write(self, image: Image) -> None:
        """Return when the image is the checkpoint, whatever happens to the machine then."""
        began_ns = self._clock.monotonic_ns()
        await asyncio.get_running_loop().run_in_executor(self._writer, self._write, image)
        self.pause_ns = round((self._clock.monotonic_ns() - began_ns) / WRITING_FRAC)

    def close(self) -> None:
        """Let what is being written be finished."""
        self._writer.shutdown(wait=True)

    def _write(self, image: Image) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            image.write(file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


@contextmanager
def newest(path: Path) -> Iterator[mmap.mmap]:
    """Give the checkpoint's bytes; raises FileNotFoundError, or DamagedRecord for an empty file."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise DamagedRecord("checkpoint", "is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as payload:
            yield payload
