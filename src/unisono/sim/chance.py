"""Chance without memory: numbers that depend only on a key and a counter, so that step length and order don't matter.

The mixing function is SplitMix64's (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_TO_UNIT = 1.0 / (1 << 53)


@kernel("f8(u8, i8)")
def unit(key: np.uint64, counter: int) -> float:
    """Return a number in [0, 1) that belongs to (key, counter)."""
    z = key + np.uint64(counter + 1) * _GOLDEN
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    z = z ^ (z >> _S31)
    return float(z >> _S11) * _TO_UNIT


@kernel("f8(u8, i8)")
def normal(key: np.uint64, counter: int) -> float:
    """Return a standard normal number that belongs to (key, counter), by Box and Muller."""
    radius = math.sqrt(-2.0 * math.log(1.0 - unit(key, 2 * counter)))
    return radius * math.cos(2.0 * math.pi * unit(key, 2 * counter + 1))


@kernel("f8(u8, f8)")
def drifting(key: np.uint64, period_count: float) -> float:
    """Return a number in [0, 1) that wanders smoothly, with a new direction each whole period."""
    whole = math.floor(period_count)
    rest = period_count - whole
    blend = rest * rest * (3.0 - 2.0 * rest)
    before = unit(key, int(whole))
    return before + (unit(key, int(whole) + 1) - before) * blend


def keys_of(seed: int, n: int, stream: int) -> NDArray[np.uint64]:
    """Return ``n`` unrelated keys for one purpose (``stream``) of one seed."""
    return np.random.default_rng([seed, stream]).integers(0, 2**63, n, dtype=np.uint64)
