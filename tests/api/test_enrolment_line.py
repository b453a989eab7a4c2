"""What a line of a bulk enrolment says of the owner's wishes, without a database."""

from __future__ import annotations

import json
from typing import Any

import pytest

from unisono.api.enrolment.line import parse_line
from unisono.base.errors import InvalidInput
from unisono.base.instants import parse_rfc3339

CAR = {"partner_reference": "car-1", "asset_type": "ev", "zip": "97214", "capacity_kwh": 60, "max_charge_kw": 7.2}
READY_BY = "2026-11-21T07:00:00-08:00"


def line(**changes: Any) -> bytes:
    return json.dumps({**CAR, **changes}).encode()


def test_a_car_says_when_it_must_be_ready_and_how_often_it_may_be_called() -> None:
    limits = parse_line(line(ready_by=READY_BY, needed_energy_kwh=42, events_per_season_max=12)).limits()
    assert limits.ready_by_ns == parse_rfc3339(READY_BY)
    assert limits.needed_energy_wh == 42_000.0
    assert limits.events_per_season_max == 12


def test_an_owner_without_wishes_sets_no_limit() -> None:
    limits = parse_line(line()).limits()
    assert limits.ready_by_ns == -1
    assert limits.needed_energy_wh == 0.0
    assert limits.events_per_season_max == 2**31 - 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ready_by": READY_BY}, "ready_by"),
        ({"needed_energy_kwh": 10}, "ready_by"),
        ({"ready_by": "tomorrow", "needed_energy_kwh": 10}, "ready_by"),
        ({"ready_by": READY_BY, "needed_energy_kwh": 61}, "needed_energy_kwh"),
        ({"events_per_season_max": -1}, "events_per_season_max"),
        ({"control_kinds": []}, "control_kinds"),
        ({"control_kinds": ["telepathy"]}, "control_kinds[0]"),
        ({"fallback": "explode"}, "fallback"),
        ({"capacity_kwh": -5}, "capacity_kwh"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_by_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_line(line(**changes))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"asset_type": "bess", "max_discharge_kw": 5}, "capacity_kwh"),
        ({"asset_type": "bess", "capacity_kwh": 0, "lifecycle": "active"}, "capacity_kwh"),
        ({"asset_type": "ev", "max_charge_kw": 7, "max_discharge_kw": 7}, "capacity_kwh"),
        ({"asset_type": "evse", "max_charge_kw": 7, "max_discharge_kw": 7}, "capacity_kwh"),
        ({"asset_type": "bess", "capacity_kwh": 10, "lifecycle": "active"}, "max_discharge_kw"),
        ({"asset_type": "pv", "lifecycle": "commissioning"}, "max_discharge_kw"),
        ({"asset_type": "chp", "max_charge_kw": 5, "lifecycle": "active"}, "max_discharge_kw"),
        *(
            ({"asset_type": asset_type, "lifecycle": "active"}, "max_charge_kw")
            for asset_type in ("ev", "evse", "water_heater", "thermostat", "flex_load")
        ),
    ],
)
def test_a_line_without_a_fact_that_its_technology_needs_is_refused(facts: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_line(json.dumps({"partner_reference": "d", "zip": "97214", **facts}).encode())
    assert refused.value.field == field
    assert refused.value.value == facts.get(field)
    assert refused.value.rule.startswith(f"must be given for {facts['asset_type']}")


@pytest.mark.parametrize("asset_type", ["pv", "ev", "evse", "water_heater", "thermostat", "flex_load", "chp"])
def test_what_stores_nothing_may_be_declared_before_its_power_is_known(asset_type: str) -> None:
    bare = {"partner_reference": "d", "zip": "97214", "asset_type": asset_type}
    assert parse_line(json.dumps(bare).encode()).ratings().power_max_w == 0.0


@pytest.mark.parametrize(
    ("told", "ttl_s"), [({}, 60.0), ({"command_latency_s": 45}, 180.0), ({"command_ttl_s": 30}, 30.0)]
)
def test_a_lease_lives_as_long_as_its_renewals_need(told: dict[str, float], ttl_s: float) -> None:
    assert parse_line(line(**told)).lease()[1] == ttl_s


def test_a_lease_that_would_run_out_before_its_renewal_arrives_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"command_ttl_s.*at least 2 times command_latency_s \(45 s\)"):
        parse_line(line(command_latency_s=45, command_ttl_s=60))
