"""Who published where it may not: nats-server drops that, and its log is the only place that says so.

MQTT 3.1.1 has no way to refuse a PUBLISH, so at QoS 1 the sender gets its PUBACK all the same (seen with 2.15).
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import BinaryIO, Final

log = logging.getLogger(__name__)

# Some 1,500 lines: 2 ms.
CHUNK_BYTES: Final = 256 << 10
# An MQTT client's id, which begins with its gateway's (the gatekeeper sees to it); a NATS client's account and user.
# The server quotes both, so nobody can write such a line by a name of his own.
_LINE: Final = re.compile(rb' - "(?:[A-Z]+/user:)?(gwy_[0-9A-Z]{26}|)[^"\\]*" - Publish Violation - Subject "')


class ForbiddenPublishes:
    """Follows the log of a server on this machine, over its rotations; what stood there at first is not told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._was_lost = False
        self._rest = b""
        self._file = self._opened()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> list[str]:
        """Return the publishers' gateway ids ("" when it can't be told), one a message, since the last call."""
        if self._file is None:
            self._file = self._opened()
        elif (chunk := self._file.read(CHUNK_BYTES)) == b"":
            self._file = self._next(self._file)
        else:
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            return [found[1].decode() for found in map(_LINE.search, lines) if found is not None]
        return []

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()

    def _next(self, file: BinaryIO) -> BinaryIO | None:
        """Return the file to go on with: the server renames its log when it is full, and begins another."""
        new = self._opened()
        if new is None or os.path.sameopenfile(new.fileno(), file.fileno()):
            if new is not None:
                new.close()
            return file
        file.close()
        self._rest = b""
        return new

    def _opened(self) -> BinaryIO | None:
        try:
            file = self._path.open("rb", buffering=0)
        except OSError as wrong:
            if not self._was_lost:
                log.warning("forbidden publishes are not counted: %s", wrong)
            self._was_lost = True
            return None
        if self._was_lost:
            log.warning("forbidden publishes are counted again")
            self._was_lost = False
        return file
