"""Readings counted by what became of them, per gateway; told in slices, so that no message grows with the fleet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

# What the fold counts: every accepted reading ends in exactly one of those after it.
FOLD_COUNTER_NAMES: Final = (
    "accepted",
    "kept",
    "duplicate",
    "late",
    "out_of_range",
    "future_dated",
    "unknown_device",
    "malformed",
)
# A front counts besides what it lost before it was decoded: whole messages, each accepted once and then one of these.
COUNTER_NAMES: Final = (
    *FOLD_COUNTER_NAMES,
    # The oldest of a full queue.
    "overflowed",
    # Published under another's name: the broker dropped it. Counted for who sent it.
    "forbidden",
    # Beyond what the gateway may send: dropped or refused, a request or a cut connection counting as one.
    "rate_limited",
)
# A row takes 92 bytes: 470 kB at most in one message, of the 8 MB that the bus carries. At 10 s telemetry 4,000 of
# 10,000 gateways change within 4 s.
CHANGED_MAX: Final = 4096
# Told again besides, in turn, for whoever began to listen later or missed a message: 10,000 gateways in ten messages.
AGAIN_MAX: Final = 1024


class IngestCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Some gateways' counts at one process since it began to count; another ``run`` counts from zero again.

    ``gateway_no`` holds int32, ``counts`` int64 (gateway, COUNTER_NAMES), both little-endian. ``n_gateways`` have been
    counted at all: who has heard of fewer in this run does not know all of them yet. Gateway -1 is no known one.
    """

    role: str
    instance: str
    run: int
    at_ns: int
    n_gateways: int
    gateway_no: bytes
    counts: bytes

    @classmethod
    def of_rows(
        cls, gateway_no: NDArray[np.int32], counts: NDArray[np.int64], *, role: str, instance: str, **more: int
    ) -> Self:
        """Return the message of these rows; ``more`` are run, at_ns and n_gateways."""
        assert counts.shape == (gateway_no.size, len(COUNTER_NAMES)), "a row of counts for each gateway"
        numbers, rows = gateway_no.astype("<i4").tobytes(), counts.astype("<i8").tobytes()
        return cls(role=role, instance=instance, gateway_no=numbers, counts=rows, **more)

    def rows(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the gateways (n) and their counts (n, COUNTER_NAMES)."""
        counts = np.frombuffer(self.counts, "<i8").reshape(-1, len(COUNTER_NAMES))
        return np.frombuffer(self.gateway_no, "<i4"), counts


def no_counts(n: int) -> NDArray[np.int64]:
    """Return ``n`` rows of zeros."""
    return np.zeros((n, len(COUNTER_NAMES)), np.int64)


@dataclass(slots=True)
class Telling:
    """Which rows of a table of counts are due: the changed ones, and some of the others in turn."""

    told: NDArray[np.int64] = field(default_factory=lambda: no_counts(0))
    changed_from: int = 0
    again_from: int = 0

    def due(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.intp], int]:
        """Return the rows of ``counts`` (row, COUNTER_NAMES) to tell now, and how many have counted anything."""
        if len(counts) > len(self.told):
            self.told = np.concatenate([self.told, no_counts(len(counts) - len(self.told))])
        told = self.told[: len(counts)]
        counted = np.flatnonzero(counts.any(axis=1))
        changed = _in_turn(np.flatnonzero((counts != told).any(axis=1)), self.changed_from, CHANGED_MAX)
        again = _in_turn(counted, self.again_from, AGAIN_MAX)
        self.changed_from = int(changed[-1]) + 1 if changed.size else 0
        self.again_from = int(again[-1]) + 1 if again.size else 0
        rows = np.union1d(changed, again)
        told[rows] = counts[rows]
        return rows, counted.size


def _in_turn(rows: NDArray[np.intp], first: int, most: int) -> NDArray[np.intp]:
    """Return up to ``most`` of these ascending rows from ``first`` on, and round again."""
    return np.roll(rows, -int(np.searchsorted(rows, first)))[:most]
