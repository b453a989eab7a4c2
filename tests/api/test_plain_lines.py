"""The short way of a plain line gives what the long way gives, and never more than that."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from unisono.api.enrolment.line import EnrolmentLine, parse_line
from unisono.api.enrolment.new_devices import NewDevices
from unisono.api.enrolment.plain import PlainLine, plain_line
from unisono.api.enrolment.rows import Row
from unisono.base.errors import InvalidInput
from unisono.store.enrolment import NewDevice

SEED = bytes(range(32))
TEXTS = st.sampled_from(
    ["a", "a b", "", " a", "a ", "ä", "a\n", "a\tb", "\u0000", "x" * 200, "x" * 201, None, 5, "\ud800"]
)
NUMBERS = st.one_of(
    st.sampled_from([0, -0.0, 1, -1, 0.5, 0.3, 2, 5.0, 10, 45, 60, 90, 1e7, 1e9, 1e308, True, "5", None, float("nan")]),
    st.floats(0, 100, width=16),
)
FLAGS = st.sampled_from([True, False, None, 1, "true"])
OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "asset_type": st.sampled_from(
        ["pv", "bess", "ev", "evse", "water_heater", "thermostat", "flex_load", "chp", "windmill", None]
    ),
    "zip": st.sampled_from(["97214", "97214-1234", "00000", "9721", "97214\n", 97214, None]),
    "lifecycle": st.sampled_from(["declared", "commissioning", "active", "retired", None]),
    "link": st.sampled_from(["mqtt", "http", "mqtt_client", "smoke", None]),
    "interconnection_status": st.sampled_from(["none", "permitted", "perhaps"]),
    "fallback": st.sampled_from(["hold", "zero_power", "explode", None]),
    "control_kinds": st.sampled_from([["power_setpoint"], ["mode", "shed_level"], [], ["telepathy"], None, "mode"]),
    "events_per_season_max": st.sampled_from([0, 3, -1, 2.0, 2.5, 100_001, None]),
    "ready_by": st.sampled_from([None, "2026-11-21T07:00:00-08:00", "tomorrow"]),
    "is_on_off": FLAGS,
    **dict.fromkeys(
        ("partner_reference", "site_reference", "gateway_reference", "vendor", "carrier", "node_path", "colour"), TEXTS
    ),
}
FIELDS = {name: OTHERS.get(name, NUMBERS) for name in (*EnrolmentLine.model_fields, "colour")}
GOOD = {"partner_reference": "d1", "asset_type": "ev", "zip": "97214", "max_charge_kw": 7.0, "capacity_kwh": 60}


def long_way(text: bytes) -> NewDevice | InvalidInput:
    try:
        return NewDevices(SEED).of_line(parse_line(text))
    except InvalidInput as wrong:
        return wrong


def plain(device: NewDevice) -> str:
    # Sites and gateways are compared by what they say; NaN is equal to nothing but its own words.
    return repr(device)


@settings(max_examples=400)
@given(changes=st.dictionaries(st.sampled_from(sorted(FIELDS)), st.none(), max_size=6), data=st.data())
def test_a_line_gives_the_same_either_way(changes: dict[str, None], data: st.DataObject) -> None:
    told = GOOD | {name: data.draw(FIELDS[name], label=name) for name in changes}
    text = json.dumps(told).encode()
    expected = long_way(text)
    try:
        found: NewDevice | InvalidInput = NewDevices(SEED).of(Row(0, text))
    except InvalidInput as wrong:
        found = wrong
    if isinstance(expected, InvalidInput):
        assert isinstance(found, InvalidInput)
        assert (found.field, found.rule) == (expected.field, expected.rule)
    else:
        assert isinstance(found, NewDevice)
        assert plain(found) == plain(expected)


@pytest.mark.parametrize("text", [b'{"a":', b"[1]", b'"x"', b"\xff", b'{"zip": "1", "zip": "97214"}'])
def test_what_is_no_plain_line_is_left_to_the_long_way(text: bytes) -> None:
    assert plain_line(text) is None


def test_an_ordinary_line_goes_the_short_way() -> None:
    assert plain_line(json.dumps(GOOD | {"vendor": None, "control_kinds": ["mode"], "is_on_off": True}).encode())


def test_the_short_way_knows_every_field_of_the_long_one() -> None:
    assert {field.name for field in msgspec.structs.fields(PlainLine)} == set(EnrolmentLine.model_fields)


def test_a_field_said_twice_holds_as_it_was_said_last_either_way() -> None:
    text = json.dumps(GOOD).encode()[:-1] + b', "zip": "10001"}'
    assert plain_line(text)
    assert plain(NewDevices(SEED).of(Row(0, text))) == plain(NewDevices(SEED).of_line(parse_line(text)))
