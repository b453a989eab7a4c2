"""The real clock; nobody below this floor reads one."""

from __future__ import annotations

import time


class SystemClock:
    """The operating system's wall clock and its monotonic clock."""

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return nanoseconds since the machine's start."""
        return time.monotonic_ns()
