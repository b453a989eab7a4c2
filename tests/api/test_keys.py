"""Who may do what: scopes, expiry, revocation, and organisations that see nothing of one another."""

from __future__ import annotations

import pytest
from tests.api.conftest import NOW_NS, Plant, problem_of

from unisono.api.app import TELEMETRY_PATHS
from unisono.base.instants import NS_PER_S

OPEN_PATHS = {"/healthz"}
GHOST = "01KK79P8RC0000000000000000"


def test_nothing_but_healthz_is_open(plant: Plant) -> None:
    for path, operations in plant.app.openapi()["paths"].items():
        for method in operations if path not in TELEMETRY_PATHS else ():
            concrete = path.replace("{", "").replace("}", "")
            response = plant.call(method.upper(), concrete, key="")
            if path in OPEN_PATHS:
                assert response.status_code == 200
            else:
                assert problem_of(response, 401)["field"] == "Authorization", (method, path)
                assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic dTpw", "Bearer uni_wrong", "Bearer \xff", "Bearer " + "x" * 9000]
)
def test_a_header_that_holds_no_key_of_ours_is_refused(plant: Plant, header: str) -> None:
    response = plant.call("GET", "/v1/devices", key="", headers={"Authorization": header.encode("latin-1")})
    problem_of(response, 401)


def test_each_scope_opens_its_own_door_only(plant: Plant) -> None:
    doors = {
        "read": ("GET", "/v1/devices"),
        "enrol": ("POST", "/v1/vpp/portfolios"),
        "dispatch": ("POST", f"/v1/vpp/dispatches/dsp_{GHOST}/cancel"),
        "admin": ("GET", "/v1/keys"),
    }
    for held in doors:
        key = plant.make_key(plant.organisation_id, (held,))
        for needed, (method, path) in doors.items():
            options = {} if method == "GET" else {"json": {"name": f"of {held}"} if needed == "enrol" else {}}
            response = plant.call(method, path, key=key, once="k", **options)
            if held == needed:
                assert response.status_code in (200, 201, 404), response.text
            else:
                assert needed in problem_of(response, 403)["rule"]


def test_an_expired_key_is_refused_and_told_so(plant: Plant) -> None:
    key = plant.make_key(plant.organisation_id, ("read",), expires_at_ns=NOW_NS + 60 * NS_PER_S)
    assert plant.get("/v1/devices", key=key).status_code == 200
    plant.clock.advance(60)
    assert "expired" in problem_of(plant.get("/v1/devices", key=key), 401)["rule"]


def test_a_revoked_key_is_refused_at_once(plant: Plant) -> None:
    made = plant.post("/v1/keys", {"name": "desk", "scopes": ["read"]}).json()
    assert plant.get("/v1/devices", key=made["secret"]).status_code == 200
    revoked = plant.post(f"/v1/keys/{made['key_id']}/revoke")
    assert revoked.json()["revoked_at"] is not None
    assert "revoked" in problem_of(plant.get("/v1/devices", key=made["secret"]), 401)["rule"]


def test_a_secret_is_shown_once_even_when_the_request_is_repeated(plant: Plant) -> None:
    body = {"name": "desk", "scopes": ["read"]}
    first = plant.post("/v1/keys", body, once="same")
    second = plant.post("/v1/keys", body, once="same")
    assert first.json()["secret"].startswith("uni_")
    assert second.headers["idempotency-replayed"] == "true"
    assert second.json() == {**first.json(), "secret": None}
    assert all("secret" not in key for key in plant.get("/v1/keys").json()["items"])


def test_a_key_gives_no_scope_that_it_lacks(plant: Plant) -> None:
    limited = plant.make_key(plant.organisation_id, ("admin", "read"))
    problem_of(plant.post("/v1/keys", {"name": "x", "scopes": ["dispatch"]}, key=limited), 403)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes[0]"),
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "x" * 201, "scopes": ["read"]}, "name"),
        ({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "scopes": ["read"], "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "scopes": ["read"], "expires_at": 1795000000}, "expires_at"),
    ],
)
def test_a_bad_key_is_refused(plant: Plant, body: dict[str, object], field: str) -> None:
    assert problem_of(plant.post("/v1/keys", body), 422)["field"] == field


def test_one_organisation_sees_nothing_of_another(plant: Plant) -> None:
    made = plant.portfolio()
    device_id, site_id = made["assets"][0]["device_id"], made["assets"][0]["site_id"]
    portfolio = f"/v1/vpp/portfolios/{made['portfolio_id']}"
    _, stranger = plant.organisation(f"stranger of {made['portfolio_no']}")
    body = {"kind": "change_kw", "target_kw": 1, "start": "2026-11-20T17:00:00Z", "end": "2026-11-20T18:00:00Z"}
    attempts = [
        ("GET", portfolio, None),
        ("GET", f"{portfolio}/status", None),
        ("GET", f"{portfolio}/events", None),
        ("GET", f"{portfolio}/dispatches", None),
        ("PATCH", portfolio, {"name": "mine"}),
        ("POST", f"{portfolio}/dispatches", body),
        ("GET", f"/v1/devices/{device_id}", None),
        ("GET", f"/v1/devices/{device_id}/command-log", None),
        ("GET", f"/v1/devices/{device_id}/connectivity", None),
        ("GET", f"/v1/devices/{device_id}/opt-outs", None),
        ("POST", f"/v1/devices/{device_id}/lifecycle", {"lifecycle": "active"}),
        ("POST", f"/v1/devices/{device_id}/opt-outs", {"start": body["start"], "end": body["end"]}),
        ("GET", f"/v1/sites/{site_id}", None),
        ("GET", f"/v1/stream/portfolios/{made['portfolio_id']}", None),
        ("GET", f"/v1/stream/events?portfolio_id={made['portfolio_id']}", None),
    ]
    for method, path, sent in attempts:
        options = {} if sent is None else {"json": sent}
        problem_of(plant.call(method, path, key=stranger, once=f"k{path}", **options), 404)
    for path in (
        "/v1/devices",
        "/v1/sites",
        "/v1/vpp/portfolios",
        "/v1/vpp/dispatches",
        "/v1/alarms",
        "/v1/gateways",
        f"/v1/devices?portfolio_id={made['portfolio_id']}",
        f"/v1/devices?site_id={site_id}",
    ):
        assert plant.get(path, key=stranger).json()["items"] == []
    taken = plant.post("/v1/vpp/portfolios", {"name": "theft", "members": [device_id]}, key=stranger)
    assert problem_of(taken, 422)["field"] == "members[0]"
    caught = plant.post(
        "/v1/vpp/portfolios", {"name": "net", "members": [{"portfolio_id": made["portfolio_id"]}]}, key=stranger
    )
    assert problem_of(caught, 422)["field"] == "members[0].portfolio_id"
    assert len(plant.get("/v1/keys", key=stranger).json()["items"]) == 1


def test_only_the_operator_makes_organisations_and_keys_for_them(lone_plant: Plant) -> None:
    made = lone_plant.post("/v1/organisations", {"name": "Rose City Power"})
    assert made.status_code == 201
    organisation_id = made.json()["organisation_id"]
    key = lone_plant.post("/v1/keys", {"name": "k", "scopes": ["admin", "read"], "organisation_id": organisation_id})
    assert key.status_code == 201
    other = key.json()["secret"]
    problem_of(lone_plant.post("/v1/organisations", {"name": "Third"}, key=other), 403)
    stolen = {"name": "k", "scopes": ["read"], "organisation_id": lone_plant.organisation_id}
    problem_of(lone_plant.post("/v1/keys", stolen, key=other), 403)
    assert len(lone_plant.get("/v1/organisations").json()["items"]) == 2
    seen = lone_plant.get("/v1/organisations", key=other).json()["items"]
    assert [one["organisation_id"] for one in seen] == [organisation_id]


def test_a_key_of_another_organisation_cannot_be_revoked(plant: Plant) -> None:
    _, stranger = plant.organisation("key thief")
    key_id = plant.get("/v1/keys").json()["items"][0]["key_id"]
    problem_of(plant.post(f"/v1/keys/{key_id}/revoke", key=stranger), 404)


def test_a_cursor_with_a_control_character_is_refused_as_a_cursor(plant: Plant) -> None:
    problem = problem_of(plant.get("/v1/keys?cursor=IlwwMDAwIg"), 422)
    assert problem["field"] == "cursor"
    problem = problem_of(plant.get("/v1/keys?cursor=Ilx1MDAwMCI="), 422)
    assert (problem["field"], problem["rule"]) == ("cursor", "is no cursor of this list")
