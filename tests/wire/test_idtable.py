"""The hash table is a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from unisono.wire.idtable import IdTable

ids = st.text(min_size=1, max_size=12)


@given(st.lists(st.dictionaries(ids, st.integers(-1, 2**31 - 1), max_size=40), max_size=5), st.lists(ids))
def test_the_table_answers_as_a_dict_does(puts: list[dict[str, int]], asked: list[str]) -> None:
    table, twin = IdTable(), dict[str, int]()
    for put in puts:
        table.put(list(put), np.fromiter(put.values(), np.int32, len(put)))
        twin.update(put)
    wanted = [*twin, *asked, ""]
    assert table.find(wanted).tolist() == [twin.get(text, -1) for text in wanted]


def test_a_hundred_thousand_ids_find_themselves() -> None:
    names = [f"dev_{no:026d}" for no in range(100_000)]
    table = IdTable()
    table.put(names, np.arange(100_000, dtype=np.int32))
    assert (table.find(names) == np.arange(100_000)).all()
    assert len(table) == 100_000
    assert (table.find([name + "x" for name in names[:1000]]) == -1).all()
