"""Counting what came in, per gateway: ``accepted`` is every reading received; the refused ones also by their cause.

The fold counts the rest (kept, duplicate, late, ...), so that over the platform each reading ends in one counter.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.model.ingest import COUNTER_NAMES, IngestCounters, Telling, no_counts
from unisono.wire.rules import DecodedReadings, RowError

_INDEX: Final = {name: index for index, name in enumerate(COUNTER_NAMES)}


class Tally:
    """Counts since the process's start; gateway -1 collects what no known gateway sent."""

    def __init__(self) -> None:
        # Row gateway_no + 1.
        self._counts = no_counts(64)
        self._telling = Telling()

    def add(self, gateway_no: int, cause: str, n: int = 1) -> None:
        """Count ``n`` readings of a gateway."""
        self._make_room(gateway_no)
        self._counts[gateway_no + 1, _INDEX[cause]] += n

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
        if gateway_nos.size:
            self._make_room(int(gateway_nos.max()))
            np.add.at(self._counts[:, _INDEX[cause]], gateway_nos + 1, 1)

    def add_many(self, gateway_nos: NDArray[np.int64], cause: str, n: NDArray[np.int64]) -> None:
        """Count ``n`` readings of each of these gateways."""
        self._make_room(int(gateway_nos.max(initial=-1)))
        np.add.at(self._counts[:, _INDEX[cause]], gateway_nos + 1, n)

    def add_message(self, gateway_no: int, cause: str) -> None:
        """Count one message of which nothing was decoded: it can't be read, or it was lost before."""
        self.add(gateway_no, "accepted")
        self.add(gateway_no, cause)

    def count(self, gateway_no: int, cause: str) -> int:
        """Return one counter."""
        return int(self._counts[gateway_no + 1, _INDEX[cause]]) if gateway_no + 1 < len(self._counts) else 0

    def due(self, role: str, instance: str, run: int, at_ns: int) -> IngestCounters:
        """Return the counters that are to be published now."""
        rows, n_gateways = self._telling.due(self._counts)
        return IngestCounters.of_rows(
            (rows - 1).astype(np.int32),
            self._counts[rows],
            role=role,
            instance=instance,
            run=run,
            at_ns=at_ns,
            n_gateways=n_gateways,
        )

    def _make_room(self, gateway_no: int) -> None:
        n = len(self._counts)
        if gateway_no + 1 >= n:
            self._counts = np.concatenate([self._counts, no_counts(max(n, gateway_no + 2 - n))])
