"""How much room the disk of a folder has: enough, little (said while there is time), or none that is for taking."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
# Little is left when a fifth of the disk is, but no more than what streams and a day of history take at the most.
LITTLE_FRAC: Final = 0.2
LITTLE_BYTES_MAX: Final = 20 << 30
# Kept free for what must go on: commands, the event log, PostgreSQL's own journal (16 MiB a segment).
RESERVE_FRAC: Final = 0.02
RESERVE_BYTES_MAX: Final = 256 * MIB


@dataclass(frozen=True, slots=True)
class Room:
    """What a disk has left."""

    free_bytes: int
    total_bytes: int

    @property
    def is_little(self) -> bool:
        """Whether somebody should make room."""
        return self.free_bytes < min(LITTLE_FRAC * self.total_bytes, LITTLE_BYTES_MAX)

    @property
    def is_full(self) -> bool:
        """Whether only the reserve is left: nothing new is accepted."""
        return self.free_bytes < min(RESERVE_FRAC * self.total_bytes, RESERVE_BYTES_MAX)

    def words(self) -> str:
        """Say how much is left."""
        return f"{self.free_bytes // MIB:,} MiB of {self.total_bytes // MIB:,} MiB are free"


def room_of(folder: Path) -> Room:
    """Return what the disk of ``folder`` has left."""
    usage = shutil.disk_usage(folder)
    return Room(usage.free, usage.total)
