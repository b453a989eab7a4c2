"""Sums of powers as whole steps of a millionth of a watt (2^-20 W): the same in any order, so that a vector adds them.

A single-precision power of 8 W or more is a whole number of steps; below that less than a step is lost. An int64 holds
8 TW of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from unisono.base.kernel import part

STEPS_PER_W: Final = float(1 << 20)
W_PER_STEP: Final = 1.0 / STEPS_PER_W


@part
def steps(power_w: float | np.floating) -> np.int64:
    """Return the power in whole steps, rounded towards 0."""
    return np.int64(np.float64(power_w) * STEPS_PER_W)
