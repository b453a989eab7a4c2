"""What is told of the counts: bounded, what changed first, and all of it to whoever begins to listen late."""

from __future__ import annotations

import numpy as np

from unisono.model.ingest import AGAIN_MAX, CHANGED_MAX, COUNTER_NAMES, IngestCounters, Telling, no_counts


def test_what_changed_is_told_and_nobody_is_left_out_though_a_message_is_bounded() -> None:
    counts = no_counts(3 * CHANGED_MAX)
    counts[:, 0] = 1
    telling, told = Telling(), set[int]()
    for _ in range(3):
        rows, n_counted = telling.due(counts)
        assert rows.size <= CHANGED_MAX + AGAIN_MAX
        assert n_counted == len(counts)
        told |= set(rows.tolist())
        # The first gateways are the busiest: they must not keep the last ones from being told.
        counts[:CHANGED_MAX, 0] += 1
    assert told == set(range(len(counts)))


def test_who_begins_to_listen_late_hears_of_gateways_that_are_quiet_by_now() -> None:
    counts = no_counts(3 * AGAIN_MAX)
    counts[::2, 1] = 1
    telling = Telling()
    telling.due(counts)
    heard = np.concatenate([telling.due(counts)[0] for _ in range(2)])
    assert set(heard.tolist()) == set(range(0, len(counts), 2)), "all that ever counted, and no row of zeros"


def test_a_table_that_grew_is_told_of_too() -> None:
    telling = Telling()
    telling.due(no_counts(1))
    counts = no_counts(9)
    counts[8, 2] = 5
    rows, n_counted = telling.due(counts)
    assert (rows.tolist(), n_counted) == ([8], 1)


def test_a_message_gives_back_its_rows() -> None:
    counts = np.arange(2 * len(COUNTER_NAMES), dtype=np.int64).reshape(2, -1)
    numbers = np.array([-1, 70_000], np.int32)
    message = IngestCounters.of_rows(numbers, counts, role="front", instance="0", run=1, at_ns=2, n_gateways=3)
    assert all((mine == back).all() for mine, back in zip((numbers, counts), message.rows(), strict=True))
