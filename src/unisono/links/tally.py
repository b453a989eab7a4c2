"""Counting what came in, per gateway: ``accepted`` is every reading received; the refused ones also by their cause.

The fold counts the rest (kept, duplicate, late, ...), so that over the platform each reading ends in one counter.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.model.totals import COUNTER_NAMES, IngestCounters
from unisono.wire.rules import DecodedReadings, RowError

_INDEX: Final = {name: index for index, name in enumerate(COUNTER_NAMES)}


class Tally:
    """Counts since the process's start; gateway -1 collects what no known gateway sent."""

    def __init__(self) -> None:
        self._counts: dict[int, list[int]] = {}

    def add(self, gateway_no: int, cause: str, n: int = 1) -> None:
        """Count ``n`` readings of a gateway."""
        row = self._counts.setdefault(gateway_no, [0] * len(COUNTER_NAMES))
        row[_INDEX[cause]] += n

    def add_decoded(self, gateway_no: int, decoded: DecodedReadings) -> None:
        """Count a gateway's batch: all rows as accepted, the refused ones by their cause."""
        if decoded.n_received:
            self.add(gateway_no, "accepted", decoded.n_received)
        self.add_errors(gateway_no, decoded.rejected)

    def add_errors(self, gateway_no: int, errors: tuple[RowError, ...]) -> None:
        """Count refused rows by their cause."""
        for error in errors:
            self.add(gateway_no, error.cause)

    def add_rows(self, gateway_nos: NDArray[np.int32], cause: str) -> None:
        """Count one reading for each row's gateway."""
        numbers, counts = np.unique(gateway_nos, return_counts=True)
        for gateway_no, n in zip(numbers.tolist(), counts.tolist(), strict=True):
            self.add(gateway_no, cause, n)

    def add_message(self, gateway_no: int, cause: str) -> None:
        """Count one message of which nothing was decoded: it can't be read, or it was lost before."""
        self.add(gateway_no, "accepted")
        self.add(gateway_no, cause)

    def count(self, gateway_no: int, cause: str) -> int:
        """Return one counter."""
        row = self._counts.get(gateway_no)
        return 0 if row is None else row[_INDEX[cause]]

    def counters(self, role: str, instance: str, at_ns: int) -> IngestCounters:
        """Return all counters as they are published."""
        counts = {gateway_no: tuple(row) for gateway_no, row in self._counts.items()}
        return IngestCounters(role=role, instance=instance, at_ns=at_ns, counts_of_gateway=counts)
