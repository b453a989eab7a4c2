"""Energies and registers, from a gateway's bytes to the power that the fleet believes; every part is the real one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from tests.fleet.builders import M0_NS, record, table_of
from tests.links.edge import NOW_MS, fleet

from unisono.fleet.apply import apply_readings
from unisono.fleet.table import FleetTable
from unisono.links.identity import Identity
from unisono.model.batches import ReadingBatch
from unisono.model.technology import SourceKind
from unisono.wire.packed import decode_packed, encode_packed
from unisono.wire.telemetry import Reading, decode_batch, decode_ndjson, encode_batch, encode_ndjson

KNOWN = Identity()
KNOWN.fold(fleet())


def by_json(reading: Reading, known_ns: int) -> ReadingBatch:
    return decode_batch(encode_batch(reading.ts, [reading]), 1, KNOWN, known_ns).batch


def by_ndjson(reading: Reading, known_ns: int) -> ReadingBatch:
    return decode_ndjson(encode_ndjson([reading]), 1, KNOWN, known_ns).batch


def by_packed(reading: Reading, known_ns: int) -> ReadingBatch:
    payload = encode_packed(reading.ts, by_ndjson(reading, known_ns))
    return decode_packed(payload, 1, KNOWN, known_ns).batch


Form = Callable[[Reading, int], ReadingBatch]
in_each_form = pytest.mark.parametrize("form", [by_json, by_ndjson, by_packed])


def metered_w(table: FleetTable, form: Form, after_s: int, **value: float) -> float:
    """Send one reading of the meter, known when it was measured; return the power of its source afterwards."""
    ts = NOW_MS + 1000 * after_s
    batch = form(Reading(no=11, ts=ts, src="meter", **value), ts * 10**6)
    assert apply_readings(table, [batch], [M0_NS + after_s * 10**9]) == 1
    return float(table.slots.power_w[int(SourceKind.METER), table.row(11)])


@in_each_form
def test_an_interval_reading_becomes_the_mean_power_of_its_interval(form: Form) -> None:
    table = table_of(record(11))
    start_ms = NOW_MS - 900_000
    assert metered_w(table, form, 0, energy_kwh=-0.25, interval_start_ms=start_ms) == -1000.0


@in_each_form
def test_two_register_readings_become_a_power_also_when_the_register_rolls_over_between_them(form: Form) -> None:
    table = table_of(record(11))
    assert math.isnan(metered_w(table, form, 0, register_kwh=99_999.4))
    assert metered_w(table, form, 900, register_kwh=99_999.9) == pytest.approx(2000.0, rel=1e-6)
    # Five digits and a decimal: 0.1 kWh later it shows 0, and 0.2 kWh after that 0.2.
    assert metered_w(table, form, 1260, register_kwh=0.2) == pytest.approx(3000.0, rel=1e-6)
    assert metered_w(table, form, 1620, register_kwh=0.5) == pytest.approx(3000.0, rel=1e-6)


@in_each_form
def test_a_register_of_what_is_drawn_counts_downwards_from_zero(form: Form) -> None:
    table = table_of(record(11))
    assert math.isnan(metered_w(table, form, 0, register_kwh=-99_999.9))
    assert metered_w(table, form, 360, register_kwh=-0.2) == pytest.approx(-3000.0, rel=1e-6)
