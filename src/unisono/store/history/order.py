"""The stable order of rows by several integer keys, at the speed of one sort of machine words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Bits of a signed word that a packed key and a row's position may share.
_WORD_BITS: Final = 63


def is_in_order(keys: Sequence[NDArray[Any]]) -> bool:
    """Return whether rows ascend by ``keys``, the most significant first."""
    if keys[0].size < 2:
        return True
    rises = np.ones(keys[0].size - 1, dtype=bool)
    for key in reversed(keys):
        before, after = key[:-1], key[1:]
        rises = (before < after) | ((before == after) & rises)
    return bool(rises.all())


def order_of(keys: Sequence[NDArray[Any]]) -> NDArray[np.int64] | None:
    """Return the rows' positions in the order of ``keys``, the most significant first; None: they are in it already.

    Keys are integers. Rows that are equal in all keys keep their order.
    """
    if is_in_order(keys):
        return None
    # What comes in the order of time is in order once its devices are.
    order: NDArray[np.int64] | None = _order_of_one(keys[0])
    if is_in_order([key[order] for key in keys]):
        return order
    order = None
    for key in reversed(keys):
        so_far = key if order is None else key[order]
        if bool((so_far[:-1] <= so_far[1:]).all()):
            continue
        step = _order_of_one(so_far)
        order = step if order is None else order[step]
    return order


def _order_of_one(key: NDArray[Any]) -> NDArray[np.int64]:
    """Return the stable order by one integer key.

    numpy sorts words with vector instructions, but only unstably and without positions (10 ms a million rows against
    90 ms for a stable argsort): with the row's position in its low bits each word is unique, and carries its answer.
    """
    low, high = int(key.min()), int(key.max())
    n_bits = int(key.size).bit_length()
    n_free = _WORD_BITS - n_bits
    if (high - low).bit_length() > n_free:
        # Too wide for one word: by its low bits, then by the others.
        order = _order_of_one((key - low) & ((1 << n_free) - 1))
        return order[_order_of_one(((key - low) >> n_free)[order])]
    words = ((key.astype(np.int64) - low) << n_bits) | np.arange(key.size, dtype=np.int64)
    words.sort()
    words &= (1 << n_bits) - 1
    return words
