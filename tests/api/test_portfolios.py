"""Portfolios: what is made, what is refused and how, and what the status claims."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import update
from tests.api.conftest import Plant, problem_of

from unisono.store.tables.places import CONNECTION_POINT

BATTERY = {"asset_type": "bess", "zip": "97214", "capacity_kwh": 13.5, "max_discharge_kw": 7.6}


def test_assets_become_declared_devices_with_a_site_each(plant: Plant) -> None:
    made = plant.post("/v1/vpp/portfolios", {"name": "Portland", "assets": [BATTERY, {**BATTERY, "zip": "10001"}]})
    assert made.status_code == 201, made.text
    body = made.json()
    assert made.headers["location"] == body["status_url"]
    assert body["n_devices"] == 2
    assert {asset["lifecycle"] for asset in body["assets"]} == {"declared"}
    sites = plant.get("/v1/sites").json()["items"]
    assert [site["time_zone"] for site in sites] == ["America/Los_Angeles", "America/New_York"]
    assert sites[0]["latitude_deg"] == pytest.approx(45.5, abs=0.1)


def test_declared_devices_are_enrolled_but_none_of_them_is_dependable(plant: Plant) -> None:
    made = plant.portfolio()
    status = plant.get(f"/v1/vpp/portfolios/{made['portfolio_id']}/status").json()
    assert status["enrolled_kw"] == 7.6
    assert status["enrolled_by_technology"]["bess"] == {
        "n_devices": 1,
        "discharge_kw": 7.6,
        "charge_kw": 7.6,
        "capacity_kwh": 13.5,
    }
    assert status["dispatchable_capacity_kw"] == 0.0
    assert status["dispatchable_basis"].startswith("conservative_lower_bound")
    assert status["by_lifecycle"] == {"declared": 1}
    assert status["interconnect"]["by_status"] == {"none": 1}
    assert status["power"]["power_kw"] is None
    assert status["stale"]
    assert "not been heard" in status["stale_reason"]


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"zip": "00000"}, "assets[1].zip", "no ZIP code"),
        ({"zip": "9721"}, "assets[1].zip", "five digits"),
        ({"capacity_kwh": -5}, "assets[1].capacity_kwh", "greater than or equal to 0"),
        ({"asset_type": "flywheel"}, "assets[1].asset_type", "bess"),
        ({"max_discharge_kw": 1e12}, "assets[1].max_discharge_kw", "less than or equal"),
        ({"max_discharge_kw": "7"}, "assets[1].max_discharge_kw", "JSON number"),
        ({"max_discharge_kw": True}, "assets[1].max_discharge_kw", "JSON number"),
        ({"colour": "red"}, "assets[1].colour", "no such field"),
        ({"partner_reference": "a\u0000b"}, "assets[1].partner_reference", "control"),
        ({"partner_reference": " "}, "assets[1].partner_reference", "blank"),
        ({"partner_reference": "\ud800"}, "assets[1].partner_reference", "Unicode"),
        ({"capacity_kwh": None}, "assets[1].capacity_kwh", "must be given for bess"),
        ({"capacity_kwh": 0}, "assets[1].capacity_kwh", "must be given for bess"),
    ],
)
def test_a_bad_asset_is_refused_by_field_value_and_rule(
    plant: Plant, change: dict[str, Any], field: str, rule: str
) -> None:
    body = json.dumps({"name": "p", "assets": [BATTERY, {**BATTERY, **change}]}).encode()
    response = plant.call("POST", "/v1/vpp/portfolios", content=body, headers={"Content-Type": "application/json"})
    problem = problem_of(response, 422)
    assert problem["field"] == field
    assert rule in problem["rule"]
    assert plant.get("/v1/vpp/portfolios").json()["items"] == []
    assert plant.get("/v1/devices").json()["items"] == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b'{"name": NaN}', b"\xff\xfe", b""])
def test_a_body_that_is_no_such_json_is_refused(plant: Plant, body: bytes) -> None:
    problem_of(plant.call("POST", "/v1/vpp/portfolios", content=body), 422)


def test_infinite_and_nan_numbers_are_refused(plant: Plant) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        asset = f'{{"asset_type": "bess", "zip": "97214", "capacity_kwh": {number}}}'
        response = plant.call("POST", "/v1/vpp/portfolios", content=f'{{"name": "p", "assets": [{asset}]}}'.encode())
        assert problem_of(response, 422)["field"] in ("body", "assets[0].capacity_kwh")


def test_members_are_taken_by_id_and_by_filter_and_portfolios_overlap(plant: Plant) -> None:
    pv = {"asset_type": "pv", "zip": "97202", "max_discharge_kw": 6.2}
    first = plant.portfolio(assets=[BATTERY, BATTERY, pv])
    device_id = first["assets"][2]["device_id"]
    second = plant.post("/v1/vpp/portfolios", {"name": "m", "members": [device_id, {"asset_type": "bess"}]}).json()
    assert second["n_devices"] == 3
    device = plant.get(f"/v1/devices/{device_id}").json()
    assert device["portfolios"] == [first["portfolio_id"], second["portfolio_id"]]
    assert device["now"] is None
    assert device["now_missing_reason"]


def test_an_unknown_member_is_named_by_its_place(plant: Plant) -> None:
    ghost = "dev_01KK79P8RC0000000000000000"
    problem = problem_of(plant.post("/v1/vpp/portfolios", {"name": "m", "members": [ghost]}), 422)
    assert problem["field"] == "members[0]"
    assert problem["value"] == ghost


@pytest.mark.parametrize(
    ("member", "field"),
    [
        ("dev_0", "members[0]"),
        ({"asset_type": "flywheel"}, "members[0].asset_type"),
        ({"portfolio_id": "pfo_01KK79P8RC0000000000000000"}, "members[0].portfolio_id"),
        ({"portfolio_id": "pfo_0"}, "members[0].portfolio_id"),
    ],
)
def test_a_member_that_names_nothing_is_refused_once_and_by_its_own_field(
    plant: Plant, member: Any, field: str
) -> None:
    problem = problem_of(plant.post("/v1/vpp/portfolios", {"name": "m", "members": [member]}), 422)
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("body", [b'{"name": "\xff"}', b'{"name": ' + b"[" * 5000 + b"]" * 5000 + b"}"])
def test_a_body_that_no_parser_takes_is_named_as_the_body(plant: Plant, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    problem = problem_of(plant.call("POST", "/v1/vpp/portfolios", content=body, headers=headers), 400)
    assert problem["field"] == "body"


def test_members_are_let_in_and_out(plant: Plant) -> None:
    first = plant.portfolio(assets=[BATTERY, BATTERY])
    ids = [asset["device_id"] for asset in first["assets"]]
    path = f"/v1/vpp/portfolios/{first['portfolio_id']}"
    changed = plant.call("PATCH", path, json={"remove_members": [ids[0]], "name": "renamed"})
    assert changed.json()["n_devices"] == 1
    assert changed.json()["name"] == "renamed"
    assert plant.call("PATCH", path, json={"add_members": [ids[0], ids[1]]}).json()["n_devices"] == 2


def test_a_name_that_is_taken_is_a_conflict(plant: Plant) -> None:
    plant.portfolio(name="Same")
    problem = problem_of(plant.post("/v1/vpp/portfolios", {"name": "Same", "assets": []}), 409)
    assert (problem["field"], problem["value"], problem["rule"]) == ("portfolio name", "Same", "exists already")


def test_what_was_decided_is_on_the_event_log(lone_plant: Plant) -> None:
    plant = lone_plant
    made = plant.portfolio()
    events = plant.get(f"/v1/vpp/portfolios/{made['portfolio_id']}/events").json()["items"]
    assert [event["kind"] for event in events] == ["portfolio.created"]
    verified = plant.get("/v1/log/verification").json()
    assert verified == {"is_whole": True, "n_entries": 1, "head": events[0]["hash"], "problem": None}


def test_pages_follow_one_another_without_gap_or_repetition(plant: Plant) -> None:
    plant.portfolio(assets=[BATTERY] * 7)
    seen, path = [], "/v1/devices?limit=3&asset_type=bess"
    while path:
        response = plant.get(path)
        page = response.json()
        seen += [item["device_no"] for item in page["items"]]
        link = response.links.get("next")
        assert (link is not None) == (page["next_cursor"] is not None)
        path = link["url"] if link else ""
    assert seen == sorted(set(seen))
    assert len(seen) == 7


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=zzz", "cursor=InhvIg", "asset_type=x"])
def test_a_bad_page_is_refused(plant: Plant, query: str) -> None:
    assert problem_of(plant.get(f"/v1/devices?{query}"), 422)["field"] == query.split("=")[0]


def test_an_id_of_another_kind_is_refused_and_an_unknown_one_is_not_found(plant: Plant) -> None:
    problem_of(plant.get("/v1/vpp/portfolios/dev_01KK79P8RC0000000000000000"), 422)
    problem_of(plant.get("/v1/vpp/portfolios/pfo_01KK79P8RC0000000000000000"), 404)
    problem_of(plant.get("/v1/nothing"), 404)
    problem_of(plant.call("DELETE", "/v1/vpp/portfolios"), 405)


def test_an_export_limit_that_nobody_states_is_unknown_not_zero(plant: Plant) -> None:
    made = plant.post("/v1/vpp/portfolios", {"name": "p", "assets": [BATTERY]}).json()
    interconnect = plant.get(made["status_url"]).json()["interconnect"]
    assert (interconnect["n_export_limited"], interconnect["export_limit_kw"]) == (0, None)
    with plant.database.begin() as connection:
        connection.execute(update(CONNECTION_POINT).values(export_limit_w=5000.0))
    interconnect = plant.get(made["status_url"]).json()["interconnect"]
    assert (interconnect["n_export_limited"], interconnect["export_limit_kw"]) == (1, 5.0)
