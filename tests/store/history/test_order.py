"""The order of rows: as numpy's lexsort has it, to the position."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from unisono.store.history.order import is_in_order, order_of


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 400),
    spans=st.lists(st.sampled_from([1, 3, 50, 2**33, 2**62]), min_size=1, max_size=4),
    is_by_time=st.booleans(),
)
def test_rows_come_in_the_order_of_a_stable_lexsort(seed: int, n: int, spans: list[int], is_by_time: bool) -> None:
    rng = np.random.default_rng(seed)
    keys = [rng.integers(-span, span, n) for span in spans]
    if is_by_time:
        keys[-1].sort()
    keys[0] = keys[0].astype(np.int32) if spans[0] < 2**31 else keys[0]
    expected = np.lexsort(keys[::-1])
    order = order_of(keys)
    assert is_in_order(keys) == (order is None) == bool((expected == np.arange(n)).all())
    if order is not None:
        assert order.tolist() == expected.tolist()


def test_no_row_and_one_row_are_in_order() -> None:
    assert order_of([np.zeros(0, np.int64)]) is None
    assert order_of([np.ones(1, np.int64), np.ones(1, np.int32)]) is None
