"""The reference of whole-array figures: reading the same memory once, as fast as one core can."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from unisono.base.kernel import sum_kernel
from unisono.main.bench.figures import best_s

_WORDS: Final = types.Array(types.int64, 1, "C")


@sum_kernel(types.int64(_WORDS))
def _sum_of(words: NDArray[np.int64]) -> int:
    total = 0
    for k in range(words.size):
        total += words[k]
    return total


def read_pass_s(columns: Iterable[NDArray[Any]]) -> float:
    """Return the seconds that one pass over all bytes of ``columns`` takes; each is contiguous."""
    words = [_words(part) for column in columns for part in (column if column.ndim == 2 else (column,))]

    def read() -> None:
        for one in words:
            _sum_of(one)

    return best_s(read)


def _words(column: NDArray[Any]) -> NDArray[np.int64]:
    raw = column.view(np.uint8)
    return raw[: raw.size // 8 * 8].view(np.int64)
