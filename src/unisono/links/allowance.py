"""How many readings a gateway may send: a multiple of what its devices declare, so that a flood harms nobody else.

One bucket a gateway: it fills at the allowed rate and holds a minute of it, or one of the largest batches. What has no
promise and finds it empty is dropped and counted (``rate_limited``); what is acknowledged only by us is refused; what
the broker acknowledged already is kept, and owed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.links.identity import Identity
from unisono.wire.telemetry import READINGS_PER_BATCH_MAX

# So long a gateway may send at the allowed rate what it could not send before: at ten times the declared one, the
# backlog of ten minutes at once.
BURST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RateSettings:
    """``factor`` times what its devices' periods declare, at least ``floor_per_s`` readings a second."""

    factor: float = 10.0
    floor_per_s: float = 100.0
    # A batch that never fits could never be sent.
    burst_min: int = READINGS_PER_BATCH_MAX


class Allowances:
    """The buckets, by gateway_no. A gateway that is not known has none and is not limited: nothing of it is kept."""

    def __init__(self, identity: Identity, monotonic_ns: Callable[[], int], settings: RateSettings) -> None:
        self._identity = identity
        self._monotonic_ns = monotonic_ns
        self._settings = settings
        self._left: NDArray[np.float64] = np.zeros(0)
        self._filled_ns: NDArray[np.int64] = np.zeros(0, np.int64)

    def take(self, gateway_nos: NDArray[np.integer], wanted: NDArray[np.integer]) -> NDArray[np.int64]:
        """Take up to ``wanted`` readings of each of these gateways, each named once; return how many are granted."""
        self._fill(gateway_nos)
        granted: NDArray[np.int64] = np.clip(np.floor(self._left[gateway_nos]), 0, wanted).astype(np.int64)
        self._left[gateway_nos] -= granted
        return granted

    def take_whole(self, gateway_nos: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Take whole batches in their order, as far as each gateway's allowance reaches; return which are granted."""
        named = np.unique(gateway_nos)
        self._fill(named)
        wanted = np.bincount(gateway_nos, sizes)[named]
        is_granted = np.ones(gateway_nos.size, np.bool_)
        if (wanted <= self._left[named]).all():
            self._left[named] -= wanted
            return is_granted
        for at, (gateway_no, size) in enumerate(zip(gateway_nos.tolist(), sizes.tolist(), strict=True)):
            is_granted[at] = size <= self._left[gateway_no]
            self._left[gateway_no] -= size if is_granted[at] else 0
        return is_granted

    def owe(self, gateway_no: int, n_readings: int) -> bool:
        """Take readings that are kept in any case; return whether the gateway has sent more than it may."""
        if gateway_no < 0:
            return False
        self._fill(np.array([gateway_no]))
        self._left[gateway_no] -= n_readings
        return bool(self._left[gateway_no] < 0.0)

    def wait_s(self, gateway_no: int) -> int:
        """Return after how many whole seconds the gateway may send again; 0: now."""
        self._fill(np.array([gateway_no]))
        left = float(self._left[gateway_no])
        return 0 if left > 0.0 else math.ceil((1.0 - left) / float(self._per_s(np.array([gateway_no]))[0]))

    def per_s(self, gateway_no: int) -> float:
        """Return the readings a second that a gateway may send for long."""
        return float(self._per_s(np.array([gateway_no]))[0])

    def _per_s(self, gateway_nos: NDArray[np.integer]) -> NDArray[np.float64]:
        declared = self._identity.declared_per_s(gateway_nos)
        return np.maximum(self._settings.factor * declared, self._settings.floor_per_s)

    def _fill(self, gateway_nos: NDArray[np.integer]) -> None:
        now_ns = self._monotonic_ns()
        lacking = int(gateway_nos.max(initial=-1)) + 1 - self._left.size
        if lacking > 0:
            room = max(lacking, self._left.size)
            # A new bucket is full.
            self._left = np.concatenate([self._left, np.full(room, np.inf)])
            self._filled_ns = np.concatenate([self._filled_ns, np.full(room, now_ns)])
        per_s = self._per_s(gateway_nos)
        most = np.maximum(per_s * BURST_S, self._settings.burst_min)
        since_s = (now_ns - self._filled_ns[gateway_nos]) / NS_PER_S
        self._left[gateway_nos] = np.minimum(self._left[gateway_nos] + per_s * since_s, most)
        self._filled_ns[gateway_nos] = now_ns
