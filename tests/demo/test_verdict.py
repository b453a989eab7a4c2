"""The verdict and the report of a demonstration, against hand-made records."""

from __future__ import annotations

import re

import pytest

from unisono.main.demo.record import DemoRecord, Series, Share
from unisono.main.demo.report import html_report, terminal_report
from unisono.main.demo.verdict import hold_energy_error_frac, hold_intervals_within_frac, judge, refill_time_s


def record_with(true_w: list[float]) -> DemoRecord:
    at_s = [4.0 * k for k in range(len(true_w))]
    record = DemoRecord(world="default", seed=1, n_devices=10, n_sites=4, n_gateways=2, started="now")
    record.target_w, record.true_deliverable_w, record.dispatchable_w = 1000.0, 2000.0, 1500.0
    record.hold_start_s, record.hold_end_s = 0.0, 4.0 * len(true_w)
    record.true = record.estimated = record.target = Series(at_s, true_w)
    record.shortfall = Series(at_s, [1000.0 - w for w in true_w])
    record.log_entries = 3
    return record


def is_met(record: DemoRecord, **changes: object) -> list[bool]:
    given = {"is_log_whole": True, "n_acknowledged_lost": 0} | changes
    return [check.is_met for check in judge(record, **given)]  # type: ignore[arg-type]


def test_a_plant_on_target_meets_every_check() -> None:
    record = record_with([1000.0] * 30)
    assert hold_energy_error_frac(record) == 0
    assert hold_intervals_within_frac(record) == 1
    assert is_met(record) == [True] * 6


@pytest.mark.parametrize(
    ("true_w", "unmet"),
    [([979.0] * 30, [0]), ([1000.0] * 28 + [940.0, 1060.0], [1]), ([], [0, 1])],
)
def test_a_plant_off_target_is_told_so(true_w: list[float], unmet: list[int]) -> None:
    assert [i for i, met in enumerate(is_met(record_with(true_w))) if not met] == unmet


def test_over_promising_a_broken_log_a_loss_and_a_violation_each_fail() -> None:
    record = record_with([1000.0] * 30)
    record.dispatchable_w, record.violations = 2100.0, {"opted_out_moved": 1}
    assert is_met(record, is_log_whole=False, n_acknowledged_lost=1) == [True, True, False, False, False, False]


def test_refill_time_is_the_longest_gap_and_none_if_it_never_closed() -> None:
    gaps = Series([0, 4, 8, 12, 16, 20], [0, 60, 70, 10, 80, 0])
    assert refill_time_s(gaps, threshold_w=50, from_s=0) == 8
    assert refill_time_s(Series([0, 4], [0, 90]), threshold_w=50, from_s=0) is None


def test_the_page_needs_nothing_from_outside_and_escapes_what_it_shows() -> None:
    record = record_with([1000.0, 990.0])
    record.by_technology = [Share("<bess>", 3, 2, 10.0, 11.0, 12.0)]
    record.checks = judge(record, is_log_whole=True, n_acknowledged_lost=0)
    page = html_report(record)
    assert "&lt;bess&gt;" in page
    assert not re.search(r"(src|href)\s*=|<script|url\(", page)
    assert page.count("<svg") == 2
    assert terminal_report(record) is not None
