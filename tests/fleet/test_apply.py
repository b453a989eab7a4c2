from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.fleet.builders import M0_NS, T0_NS, batch_of, record, table_of
from unisono.base.instants import NS_PER_S
from unisono.fleet.apply import apply_acks, apply_readings
from unisono.fleet.fold_kernels import register_step_wh
from unisono.fleet.table import FleetTable
from unisono.model.batches import AckBatch, ReadingBatch
from unisono.model.ingest import FOLD_COUNTER_NAMES


def fold(table: FleetTable, rows: list[dict[str, float]], at_s: float = 0.0, **scalars: int) -> dict[str, int]:
    known_ns = T0_NS + round(at_s * NS_PER_S)
    for row in rows:
        row.setdefault("measured_ns", known_ns)
    before = table.counters.sum(axis=0)
    apply_readings(table, [batch_of(rows, known_ns, **scalars)], [M0_NS + round(at_s * NS_PER_S)])
    difference = table.counters.sum(axis=0) - before
    return {name: int(n) for name, n in zip(FOLD_COUNTER_NAMES, difference, strict=True) if n and name != "accepted"}


def test_each_reading_ends_in_one_counter() -> None:
    table = table_of(record(1))
    assert fold(table, [{"power_w": 100.0}]) == {"kept": 1}
    assert fold(table, [{"power_w": 100.0, "measured_ns": T0_NS}], 5.0) == {"duplicate": 1}
    assert fold(table, [{"power_w": 100.0, "measured_ns": T0_NS - 1}], 6.0) == {"late": 1}
    assert fold(table, [{"power_w": 100.0, "device_no": 9}], 7.0) == {"unknown_device": 1}
    assert fold(table, [{"power_w": 100.0, "device_no": -3}], 7.0) == {"unknown_device": 1}
    assert fold(table, [{"power_w": 7_601.0}], 8.0) == {"out_of_range": 1}
    assert fold(table, [{"power_w": 7_599.0}], 9.0) == {"kept": 1}
    assert fold(table, [{"power_w": math.nan}], 10.0) == {"malformed": 1}
    assert fold(table, [{"power_w": math.inf}], 10.0) == {"malformed": 1}
    assert fold(table, [{"power_w": 1.0, "soc_frac": 1.5}], 11.0) == {"out_of_range": 1}
    assert fold(table, [{"power_w": 1.0, "source_kind": 9}], 12.0) == {"malformed": 1}
    assert fold(table, [{"power_w": 1.0, "measured_ns": T0_NS + 400 * NS_PER_S}], 13.0) == {"future_dated": 1}
    assert fold(table_of(record(1)), [{"power_w": 1.0, "measured_ns": T0_NS - 400 * NS_PER_S}]) == {"late": 1}
    assert table.slots.power_w[1, 0] == np.float32(7_599.0)


def test_a_clock_within_its_bound_is_corrected_and_told() -> None:
    table = table_of(record(1))
    for k in range(20):
        at_s = 10.0 * k
        measured_ns = T0_NS + round((at_s + 120.0) * NS_PER_S)
        assert fold(table, [{"power_w": 100.0, "measured_ns": measured_ns}], at_s) == {"kept": 1}
    assert table.slots.offset_s[1, 0] == pytest.approx(-120.0, abs=1.0)


def test_a_clock_that_is_set_back_loses_no_reading() -> None:
    table = table_of(record(1))
    fold(table, [{"power_w": 1.0, "measured_ns": T0_NS + 200 * NS_PER_S}])
    assert fold(table, [{"power_w": 2.0}], 10.0) == {"kept": 1}
    assert table.slots.offset_s[1, 0] == pytest.approx(0.0, abs=0.1)


def test_interval_energy_becomes_mean_power() -> None:
    table = table_of(record(1))
    row = {"reading_kind": 1, "energy_wh": 250.0, "interval_start_ns": T0_NS - 900 * NS_PER_S}
    assert fold(table, [row]) == {"kept": 1}
    assert table.slots.power_w[1, 0] == 1000.0
    assert fold(table, [{"reading_kind": 1, "energy_wh": 1.0}], 1.0) == {"malformed": 1}


def test_a_register_becomes_power_from_its_second_reading() -> None:
    table = table_of(record(1))
    assert fold(table, [{"reading_kind": 2, "energy_wh": 5000.0}]) == {"kept": 1}
    assert math.isnan(table.slots.power_w[1, 0])
    assert fold(table, [{"reading_kind": 2, "energy_wh": 5010.0}], 36.0) == {"kept": 1}
    assert table.slots.power_w[1, 0] == 1000.0


def test_a_meter_that_is_exchanged_for_one_with_a_higher_count_is_understood_from_its_second_reading() -> None:
    table = table_of(record(1))
    fold(table, [{"reading_kind": 2, "energy_wh": 5000.0}])
    assert fold(table, [{"reading_kind": 2, "energy_wh": 9_000_000.0}], 36.0) == {"out_of_range": 1}
    assert fold(table, [{"reading_kind": 2, "energy_wh": 9_000_010.0}], 72.0) == {"kept": 1}
    assert table.slots.power_w[1, 0] == 1000.0


@given(st.floats(0, 9.9e4), st.floats(0, 900))
def test_a_register_rolls_over_at_a_power_of_ten(before_wh: float, step_wh: float) -> None:
    assert register_step_wh(before_wh, before_wh + step_wh) == pytest.approx(step_wh, abs=1e-6)
    near_end = 1e5 - 500.0
    assert register_step_wh(near_end, (near_end + step_wh) % 1e5) == pytest.approx(step_wh, abs=1e-6)
    assert register_step_wh(-near_end, -((near_end + step_wh) % 1e5)) == pytest.approx(-step_wh, abs=1e-6)


def test_a_reset_register_is_no_energy() -> None:
    assert math.isnan(register_step_wh(50_000.0, 3.0))


@given(st.lists(st.integers(0, 150), min_size=1, max_size=120))
def test_a_repeated_batch_is_dropped_whole(seqs: list[int]) -> None:
    """The window's twin is a set, for sequences that are not older than the window."""
    table = table_of(record(1))
    seen: set[int] = set()
    for k, seq in enumerate(seqs):
        is_inside = not seen or seq > max(seen) - 64
        counts = fold(table, [{"power_w": 1.0, "measured_ns": T0_NS + k * NS_PER_S}], float(k), batch_seq=seq)
        if is_inside:
            assert counts == ({"duplicate": 1} if seq in seen else {"kept": 1})
            seen.add(seq)
        else:
            assert counts == {"kept": 1}


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 5), st.integers(0, 3)), max_size=5), max_size=4))
def test_a_message_of_several_gateways_folds_as_their_batches_would_one_by_one(
    messages: list[list[tuple[int, int, int]]],
) -> None:
    together, apart = (table_of(*(record(no, gateway_no=no % 3) for no in range(1, 7))) for _ in range(2))
    for at, parts in enumerate(messages):
        rows = [
            {"device_no": no, "power_w": 10.0 * no + at, "measured_ns": T0_NS + at * NS_PER_S}
            for gateway_no, _, n in parts
            for no in ([3, 6, 9], [1, 4, 7], [2, 5, 8])[gateway_no][:n]
        ]
        known_ns, mono_ns = T0_NS + at * NS_PER_S, M0_NS + at * NS_PER_S
        if not parts:
            continue
        whole = replace(batch_of(rows, known_ns, gateway_no=-1), parts=np.array(parts, np.int64))
        apply_readings(together, [whole], [mono_ns])
        first = 0
        for gateway_no, seq, n in parts:
            one = batch_of(rows[first : first + n], known_ns, gateway_no=gateway_no, batch_seq=seq)
            apply_readings(apart, [one], [mono_ns])
            first += n
    np.testing.assert_array_equal(together.counters, apart.counters)
    np.testing.assert_array_equal(together.slots.power_w, apart.slots.power_w)


def slow_fold(batches: list[ReadingBatch]) -> dict[tuple[int, int], tuple[int, float]]:
    """The obvious twin for well-behaved clocks: the newest measured instant of each source wins."""
    newest: dict[tuple[int, int], tuple[int, float]] = {}
    for batch in batches:
        for k in range(len(batch)):
            key = (int(batch.source_kind[k]), int(batch.device_no[k]))
            at_ns = int(batch.measured_ns[k])
            if abs(batch.power_w[k]) <= 7_600.0 and at_ns > newest.get(key, (-1, 0.0))[0]:
                newest[key] = (at_ns, float(batch.power_w[k]))
    return newest


READING = st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(-200, 0), st.floats(-9000, 9000, width=32))


@given(st.lists(st.lists(READING, max_size=8), max_size=5))
def test_the_fold_agrees_with_its_slow_twin(arrivals: list[list[tuple[int, int, int, float]]]) -> None:
    table = table_of(record(1), record(2), record(3))
    batches = []
    for rows in arrivals:
        described = [
            {"device_no": no, "source_kind": source, "measured_ns": T0_NS + age_s * NS_PER_S, "power_w": power_w}
            for no, source, age_s, power_w in rows
        ]
        batches.append(batch_of(described, T0_NS))
    apply_readings(table, batches, [M0_NS] * len(batches))
    expected = slow_fold(batches)
    for source in range(3):
        for no in (1, 2, 3):
            power_w = float(table.slots.power_w[source, table.row(no)])
            known = expected.get((source, no))
            assert (math.isnan(power_w) and known is None) or known == (
                table.slots.measured_ns[source, no - 1],
                power_w,
            )
    n_rows = sum(len(batch) for batch in batches)
    assert table.counters[:, 0].sum() == n_rows == table.counters[:, 1:].sum()


def test_the_mean_starts_honestly_and_follows() -> None:
    table = table_of(record(1))
    for k in range(200):
        fold(table, [{"power_w": -2000.0 if k % 2 else 0.0}], 10.0 * k)
    assert table.picture.mean_w[0] == pytest.approx(-1000.0, rel=0.03)
    assert table.picture.mean_weight[0] == pytest.approx(1.0 - math.exp(-2000.0 / 900.0), abs=0.01)


def ack(rows: list[tuple[int, int, int]], gateway_no: int = 1) -> AckBatch:
    columns = {
        "device_no": [row[0] for row in rows],
        "epoch": [1] * len(rows),
        "seq": [row[1] for row in rows],
        "code": [row[2] for row in rows],
        "answered_ns": [T0_NS] * len(rows),
    }
    return AckBatch.of_columns({"gateway_no": gateway_no, "known_ns": T0_NS}, columns)


def test_a_refusal_that_comes_again_does_not_make_the_pause_longer() -> None:
    table = table_of(record(1))
    table.leases.state[0], table.leases.seq[0] = 1, 7
    assert apply_acks(table, [ack([(1, 7, 3)])], [M0_NS], T0_NS) == 1
    assert apply_acks(table, [ack([(1, 7, 3)])], [M0_NS + 60 * NS_PER_S], T0_NS) == 0
    assert table.leases.refused_until_mono_ns[0] == M0_NS + 900 * NS_PER_S


def test_answers_count_only_for_the_newest_command() -> None:
    table = table_of(record(1))
    table.leases.state[0], table.leases.seq[0], table.leases.setpoint_w[0] = 1, 7, 900.0
    apply_acks(table, [ack([(1, 6, 0), (5, 7, 0)])], [M0_NS], T0_NS)
    assert table.leases.acked_seq[0] == -1
    assert apply_acks(table, [ack([(1, 7, 1)])], [M0_NS], T0_NS) == 1
    assert table.leases.refused_until_mono_ns[0] == M0_NS + 60 * NS_PER_S
    gateway = table.gateway_row(1)
    table.gateways.newest_command_seq[gateway] = 9
    apply_acks(table, [ack([(1, 7, 0), (-1, 9, 0), (-1, 10, 0)])], [M0_NS + 5], T0_NS)
    assert (table.leases.acked_seq[0], table.leases.acked_w[0], table.leases.heard_mono_ns[0]) == (7, 900.0, M0_NS + 5)
    assert table.gateways.acked_seq[gateway] == 9
