"""The Clock that loops are given; real ones live in ``main/``, a hand-moved one here."""

from __future__ import annotations

from typing import Protocol

from unisono.base.instants import NS_PER_S


class Clock(Protocol):
    """Two clocks: the wall clock for records, the monotonic one for ages, deadlines and leases."""

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 UTC; may be stepped by the operating system."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some fixed instant; never goes back."""
        ...


class MovableClock:
    """A clock that stands still until it is moved; ``step_wall`` moves only the wall clock, as an NTP step does."""

    def __init__(self, wall_ns: int) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = 0

    def wall_ns(self) -> int:
        """Return the wall instant."""
        return self._wall_ns

    def monotonic_ns(self) -> int:
        """Return the monotonic instant."""
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on both clocks."""
        assert seconds >= 0, "time does not go back"
        passed_ns = round(seconds * NS_PER_S)
        self._wall_ns += passed_ns
        self._monotonic_ns += passed_ns

    def step_wall(self, seconds: float) -> None:
        """Shift only the wall clock."""
        self._wall_ns += round(seconds * NS_PER_S)
