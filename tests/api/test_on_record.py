"""What operators decide about keys, secrets and devices is on the event log, in its transaction, without secrets."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from tests.api.conftest import Plant, problem_of
from tests.api.test_enrolments import enrol, line, result

from unisono.api import present
from unisono.base.errors import Unavailable
from unisono.model.totals import LogEntry
from unisono.store import event_log, listings


def told(plant: Plant, subject_id: str = "", key: str | None = None) -> list[dict[str, Any]]:
    """Return the organisation's log, of one subject if given."""
    query = f"?subject_id={subject_id}" if subject_id else ""
    items: list[dict[str, Any]] = plant.get(f"/v1/events{query}", key=key).json()["items"]
    return items


def kinds(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["kind"] for entry in entries]


def test_a_key_that_is_made_and_revoked_is_on_record_without_its_secret(plant: Plant) -> None:
    made = plant.post("/v1/keys", {"name": "desk", "scopes": ["read"]}, once="k").json()
    plant.post("/v1/keys", {"name": "desk", "scopes": ["read"]}, once="k")
    for _ in range(2):
        plant.post(f"/v1/keys/{made['key_id']}/revoke")
    entries = told(plant, made["key_id"])
    assert kinds(entries) == ["key.created", "key.revoked"], "what is repeated decides nothing"
    assert (entries[0]["body"]["name"], entries[0]["body"]["scopes"]) == ("desk", ["read"])
    assert entries[0]["body"]["key_name"] == "test", "who did it"
    assert made["secret"] not in json.dumps(told(plant))


def test_a_key_made_for_another_organisation_is_on_record_at_both(lone_plant: Plant) -> None:
    other = lone_plant.post("/v1/organisations", {"name": "Rose City Power"}).json()["organisation_id"]
    asked = {"name": "first", "scopes": ["read"], "organisation_id": other}
    made = lone_plant.post("/v1/keys", asked).json()
    for key in (lone_plant.key, made["secret"]):
        (entry,) = told(lone_plant, made["key_id"], key)
        assert entry["body"]["of_organisation_id"] == other
    assert kinds(told(lone_plant, other)) == ["organisation.created"]


def test_a_devices_life_and_facts_are_on_the_log_of_each_of_its_portfolios(plant: Plant) -> None:
    one = plant.portfolio()
    device_id = one["assets"][0]["device_id"]
    two = plant.post("/v1/vpp/portfolios", {"name": "again", "members": [device_id]}).json()
    facts = {"gateway_reference": "gw", "ready_by": "2026-11-21T07:00:00Z", "needed_energy_kwh": 9}
    changed = plant.call("PATCH", f"/v1/devices/{device_id}", json=facts).json()
    for lifecycle in ("commissioning", "commissioning", "active"):
        plant.post(f"/v1/devices/{device_id}/lifecycle", {"lifecycle": lifecycle, "reason": "tested"})
    for portfolio in (one, two):
        path = f"/v1/vpp/portfolios/{portfolio['portfolio_id']}/events"
        entries = [entry for entry in plant.get(path).json()["items"] if entry["subject_id"] == device_id]
        assert kinds(entries) == ["device.changed", "device.lifecycle_changed", "device.lifecycle_changed"]
        assert entries[0]["body"]["facts"] == {
            **facts,
            "gateway_id": changed["gateway_id"],
            "ready_by": "2026-11-21T07:00:00.000Z",
        }
        moved = [(entry["body"]["before"], entry["body"]["after"], entry["body"]["reason"]) for entry in entries[1:]]
        assert moved == [("declared", "commissioning", "tested"), ("commissioning", "active", "tested")]
    assert kinds(told(plant, changed["gateway_id"])) == ["gateway.created"]
    assert changed["gateway_secret"] not in json.dumps(told(plant))


def test_a_portfolios_log_tells_of_its_devices_while_they_are_members_and_of_no_others(plant: Plant) -> None:
    one, two = plant.portfolio(), plant.portfolio()
    mine, other = one["assets"][0]["device_id"], two["assets"][0]["device_id"]
    path = f"/v1/vpp/portfolios/{one['portfolio_id']}"

    def suspect(*subjects: str) -> None:
        entries = [
            LogEntry(
                at_ns=plant.clock.wall_ns(),
                kind="device.suspected",
                organisation_id=plant.organisation_id,
                subject_id=it,
            )
            for it in subjects
        ]
        with plant.database.begin() as connection:
            event_log.append(connection, entries)

    plant.clock.advance(1)
    suspect(mine, other)
    plant.clock.advance(1)
    plant.call("PATCH", path, json={"remove_members": [mine]})
    suspect(mine)
    plant.clock.advance(1)
    plant.call("PATCH", path, json={"add_members": [mine, other]})
    plant.clock.advance(1)
    suspect(other)
    suspect(mine)
    told_of = [(entry["kind"], entry["subject_id"]) for entry in plant.get(f"{path}/events").json()["items"]]
    kind, changed = "device.suspected", ("portfolio.changed", "")
    assert told_of == [("portfolio.created", ""), (kind, mine), changed, changed, (kind, other), (kind, mine)]
    pages, url = [], f"{path}/events?limit=2"
    while url:
        page = plant.get(url)
        pages += [(entry["kind"], entry["subject_id"]) for entry in page.json()["items"]]
        url = page.links.get("next", {}).get("url", "")
    assert pages == told_of


def test_what_is_refused_leaves_nothing_on_record(plant: Plant) -> None:
    device_id = plant.portfolio()["assets"][0]["device_id"]
    problem_of(plant.post(f"/v1/devices/{device_id}/lifecycle", {"lifecycle": "active"}), 409)
    problem_of(plant.call("PATCH", f"/v1/devices/{device_id}", json={"gateway_reference": "g", "capacity_kwh": 0}), 422)
    assert told(plant, device_id) == []
    assert plant.get("/v1/gateways").json()["items"] == []


def test_a_secret_that_cannot_be_recorded_is_not_rotated(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    device_id = plant.portfolio()["assets"][0]["device_id"]
    made = plant.call("PATCH", f"/v1/devices/{device_id}", json={"gateway_reference": "g"}).json()
    path = f"/v1/gateways/{made['gateway_id']}"

    def full(*_: Any) -> None:
        raise Unavailable("PostgreSQL", "the disk is full")

    def secret_digest() -> str:
        with plant.database.begin() as connection:
            found = listings.gateway(connection, plant.organisation_id, made["gateway_id"])
        return found.record.secret_sha256

    before = secret_digest()
    with monkeypatch.context() as broken:
        broken.setattr("unisono.store.event_log.append", full)
        problem_of(plant.post(f"{path}/rotate-secret"), 503)
    assert secret_digest() == before
    rotated = plant.post(f"{path}/rotate-secret").json()
    assert secret_digest() != before
    for _ in range(2):
        plant.post(f"{path}/revoke")
    assert kinds(told(plant, made["gateway_id"])) == ["gateway.created", "gateway.secret_rotated", "gateway.revoked"]
    assert rotated["gateway_secret"] not in json.dumps(told(plant))


def test_a_bulk_enrolment_is_on_record_from_its_request_to_the_showing_of_its_secrets(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.api.enrolment.job.ROWS_PER_CHUNK", 4)
    job = enrol(plant, [line(n) for n in range(6)])
    plant.work_through_jobs()
    rows = result(plant, job)
    result(plant, job)
    entries = told(plant, job["job_id"])
    made = ["enrolment.committed", "enrolment.committed", "enrolment.completed"]
    assert kinds(entries) == ["enrolment.requested", *made, "gateway.secrets_shown"]
    first, second = entries[1]["body"], entries[2]["body"]
    assert [(part["n_devices"], part["n_gateways"]) for part in (first, second)] == [(4, 1), (2, 1)]
    ids = "\n".join(row["device_id"] for row in rows[:4])
    assert first["device_ids_sha256"] == hashlib.sha256(ids.encode()).hexdigest()
    assert second["gateway_ids_sha256"] == hashlib.sha256(rows[5]["gateway_id"].encode()).hexdigest()
    assert all(row["gateway_secret"] not in json.dumps(entries) for row in rows)


def test_the_log_is_each_organisations_own_and_comes_in_pages(plant: Plant) -> None:
    plant.portfolio()
    plant.portfolio()
    _, stranger = plant.organisation(f"stranger to {plant.organisation_id}")
    assert told(plant, key=stranger) == []
    page = plant.get("/v1/events?limit=1")
    following = plant.get(page.links["next"]["url"]).json()
    assert kinds(page.json()["items"] + following["items"]) == ["portfolio.created"] * 2
    assert following["next_cursor"] is None
    with plant.database.begin() as connection:
        event_log.verify(connection)


def test_entries_that_are_kept_in_watts_and_nanoseconds_are_told_in_the_apis_words() -> None:
    body = {"start_ns": 0, "target_w": [[0, 1500.0]], "shortfall_w": 250, "delivered_wh": 1000.0, "reason": "drill"}
    row = {"seq": 1, "at_ns": 0, "kind": "k", "portfolio_id": "", "subject_id": "", "body": body, "hash": b"\x00"}
    epoch = "1970-01-01T00:00:00.000Z"
    told = {"start": epoch, "target_kw": [[epoch, 1.5]], "shortfall_kw": 0.25, "delivered_kwh": 1.0, "reason": "drill"}
    assert present.event(row).body == told
