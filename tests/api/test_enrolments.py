"""Bulk enrolment: a job with progress, errors by row, secrets once; resumed where it stopped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text
from tests.api.conftest import NOW_NS, Plant, problem_of

from unisono.api.enrolment.job import WORKER_LOCK, EnrolmentWorker
from unisono.base.errors import Unavailable
from unisono.store import jobs, keys, listings

ND = {"Content-Type": "application/x-ndjson"}


def line(number: int, **change: Any) -> dict[str, Any]:
    """Return a good line."""
    return {
        "partner_reference": f"d{number}",
        "asset_type": "bess",
        "zip": "97214",
        "site_reference": f"s{number // 2}",
        "gateway_reference": f"g{number // 4}",
        "max_discharge_kw": 5.0,
        "capacity_kwh": 10.0,
        "lifecycle": "active",
        **change,
    }


def enrol(plant: Plant, rows: list[Any], once: str = "job") -> dict[str, Any]:
    """Send lines and return the job as it was accepted."""
    body = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    response = plant.call("POST", "/v1/vpp/enrolments", content=body.encode(), headers=ND, once=once)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    assert response.headers["location"] == job["status_url"]
    return job


def result(plant: Plant, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a finished job's result."""
    response = plant.get(job["result_url"])
    assert response.status_code == 200, response.text
    return [json.loads(text) for text in response.text.splitlines()]


def die_in_second_chunk(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Work through the next job and die before the second chunk is kept; return each chunk's end, now and later."""
    advance, ends = jobs.advance, list[int]()

    def dying(*arguments: Any, **named: Any) -> None:
        ends.append(named["n_done"])
        if len(ends) == 2:
            raise Unavailable("PostgreSQL", "the power is gone")
        advance(*arguments, **named)

    monkeypatch.setattr("unisono.store.jobs.advance", dying)
    with pytest.raises(Unavailable):
        EnrolmentWorker(plant.context).work_through_next()
    return ends


def test_a_job_enrols_devices_with_shared_sites_and_gateways(plant: Plant) -> None:
    job = enrol(plant, [line(n) for n in range(8)])
    assert (job["state"], job["n_total"]) == ("queued", 8)
    problem_of(plant.get(job["result_url"]), 409)
    plant.work_through_jobs()
    done = plant.get(job["status_url"]).json()
    assert (done["state"], done["n_done"], done["n_errors"], done["progress_frac"]) == ("completed", 8, 0, 1.0)
    assert len(plant.get("/v1/sites").json()["items"]) == 4
    assert [gateway["n_devices"] for gateway in plant.get("/v1/gateways").json()["items"]] == [4, 4]
    rows = result(plant, job)
    assert [row["partner_reference"] for row in rows] == [f"d{n}" for n in range(8)]
    with plant.database.begin() as connection:
        for row in rows:
            stored = listings.gateway(connection, plant.organisation_id, row["gateway_id"])
            assert stored.record.secret_sha256 == keys.digest(row["gateway_secret"])


def test_secrets_are_shown_once_and_only_by_the_job_that_made_them(plant: Plant) -> None:
    first = enrol(plant, [line(0)], "one")
    plant.clock.advance(1)
    again = enrol(plant, [line(0), line(1)], "two")
    plant.work_through_jobs()
    assert all(row["gateway_secret"] is None for row in result(plant, again))
    assert all(row["gateway_secret"] for row in result(plant, first))
    assert all(row["gateway_secret"] is None for row in result(plant, first))
    assert len(plant.get("/v1/devices").json()["items"]) == 2


def test_bad_rows_are_named_and_do_not_hold_the_good_ones_up(plant: Plant) -> None:
    rows = [
        line(0),
        "{",
        line(1, zip="00000"),
        line(2, capacity_kwh=-5),
        line(3, asset_type="x"),
        "",
        {"zip": "97214"},
        line(4, soc_reserve_frac=0.9, soc_max_frac=0.5),
        line(5, charge_efficiency_frac=0),
        line(6, lifecycle="retired"),
        line(7, colour=1),
        "[1]",
        '{"partner_reference": "n", "asset_type": "pv", "zip": "97214", "capacity_kwh": NaN}',
        line(8, vendor="a\u0000b"),
        line(9),
    ]
    job = enrol(plant, rows)
    plant.work_through_jobs()
    done = plant.get(job["status_url"]).json()
    assert (done["state"], done["n_total"], done["n_errors"]) == ("completed", 14, 12)
    errors = plant.get(job["errors_url"]).json()["items"]
    told = {error["row"]: (error["field"], error["partner_reference"]) for error in errors}
    assert told[2] == ("zip", "d1")
    assert told[3] == ("capacity_kwh", "d2")
    assert told[4] == ("asset_type", "d3")
    assert told[6] == ("partner_reference", None)
    assert told[8] == ("charge_efficiency_frac", "d5")
    assert told[12] == ("capacity_kwh", "n")
    assert [row["partner_reference"] for row in result(plant, job)] == ["d0", "d9"]
    page = plant.get(job["errors_url"] + "?limit=5")
    assert [error["row"] for error in plant.get(page.links["next"]["url"]).json()["items"]] == [7, 8, 9, 10, 11]


def test_a_job_goes_on_where_a_dead_worker_stopped(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.api.enrolment.job.ROWS_PER_CHUNK", 3)
    job = enrol(plant, [line(n) for n in range(8)])
    ends = die_in_second_chunk(plant, monkeypatch)
    halfway = plant.get(job["status_url"]).json()
    assert (halfway["state"], halfway["n_done"]) == ("running", 3)
    assert len(plant.get("/v1/devices").json()["items"]) == 3
    plant.work_through_jobs()
    assert plant.get(job["status_url"]).json()["state"] == "completed"
    assert ends == [3, 6, 6, 8]
    assert len(plant.get("/v1/devices").json()["items"]) == 8


def test_only_one_process_works_at_a_time(plant: Plant) -> None:
    job = enrol(plant, [line(0)])
    with plant.database.begin() as other:
        assert other.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": WORKER_LOCK}).scalar_one()
        assert not EnrolmentWorker(plant.context).work_through_next()
    plant.work_through_jobs()
    assert plant.get(job["status_url"]).json()["state"] == "completed"


def test_another_process_takes_a_left_job_over_after_a_while(plant: Plant) -> None:
    job = enrol(plant, [line(0)])
    with plant.database.begin() as connection:
        jobs.claim(connection, "a web that died", plant.clock.wall_ns(), "enrolment")
    assert not EnrolmentWorker(plant.context).work_through_next()
    plant.clock.advance(jobs.ABANDONED_S + 1)
    plant.work_through_jobs()
    assert plant.get(job["status_url"]).json()["state"] == "completed"


def test_the_same_job_sent_twice_is_one_job(plant: Plant) -> None:
    assert enrol(plant, [line(0)], "k")["job_id"] == enrol(plant, [line(0)], "k")["job_id"]
    response = plant.call("POST", "/v1/vpp/enrolments", content=b"{}", headers=ND, once="k")
    assert problem_of(response, 422)["field"] == "Idempotency-Key"
    missing = plant.call("POST", "/v1/vpp/enrolments", content=b"{}", headers=ND)
    assert problem_of(missing, 422)["field"] == "Idempotency-Key"
    plant.work_through_jobs()


def test_an_empty_or_oversized_body_is_refused(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    problem_of(plant.call("POST", "/v1/vpp/enrolments", content=b"\n \n", headers=ND, once="k"), 422)
    monkeypatch.setattr("unisono.api.limits.BULK_BYTES_MAX", 10)
    problem_of(plant.call("POST", "/v1/vpp/enrolments", content=b"x" * 11, headers=ND, once="k"), 413)

    async def chunks() -> Any:
        for _ in range(3):
            yield b"xxxxx"

    problem_of(plant.call("POST", "/v1/vpp/enrolments", content=chunks(), headers=ND, once="k"), 413)


def test_what_is_left_out_takes_its_technologys_default(plant: Plant) -> None:
    rows = [
        {"partner_reference": "bare", "asset_type": "thermostat", "zip": "97214"},
        {
            "partner_reference": "own",
            "asset_type": "bess",
            "zip": "97214",
            "max_discharge_kw": 5,
            "capacity_kwh": 10,
            "lifecycle": "active",
        },
        {
            "partner_reference": "car",
            "asset_type": "ev",
            "zip": "97214",
            "max_charge_kw": 11,
            "capacity_kwh": 60,
            "lifecycle": "active",
            "site_export_limit_kw": 0,
            "site_import_limit_kw": 12,
            "merit_usd_per_kwh": 0.25,
        },
    ]
    enrol(plant, rows)
    plant.work_through_jobs()
    bare, own, car = plant.get("/v1/devices").json()["items"]
    assert (bare["gateway_id"], bare["lifecycle"]) == (None, "declared")
    assert own["gateway_id"] is not None
    assert (own["max_discharge_kw"], own["max_charge_kw"]) == (5.0, 5.0)
    assert (car["max_discharge_kw"], car["max_charge_kw"]) == (0.0, 11.0)
    with plant.database.begin() as connection:
        record = listings.device(connection, plant.organisation_id, car["device_id"], NOW_NS).record
    assert (record.export_limit_w, record.import_limit_w, record.export_is_allowed) == (0.0, -12_000.0, False)
    assert record.ratings.power_min_w == -11_000.0
    assert record.merit_micros_per_kwh == 250_000
    detail = plant.get(f"/v1/devices/{bare['device_id']}").json()
    assert detail["limits"]["comfort_low_degc"] == 18.0
    assert detail["ratings"]["ramp_kw_per_s"] is None
    assert [one["partner_reference"] for one in plant.get("/v1/devices?partner_reference=own").json()["items"]] == [
        "own"
    ]


def test_a_gateway_is_shut_out_and_let_in_again_with_a_new_secret(plant: Plant) -> None:
    enrol(plant, [line(0)])
    plant.work_through_jobs()
    [gateway] = plant.get("/v1/gateways").json()["items"]
    path = f"/v1/gateways/{gateway['gateway_id']}"
    assert plant.post(f"{path}/revoke").json()["is_revoked"]
    rotated = plant.post(f"{path}/rotate-secret", once="r").json()
    with plant.database.begin() as connection:
        record = listings.gateway(connection, plant.organisation_id, gateway["gateway_id"]).record
    assert not record.is_revoked
    assert record.secret_sha256 == keys.digest(rotated["gateway_secret"])
    assert plant.post(f"{path}/rotate-secret", once="r").json()["gateway_secret"] is None


def test_a_gateway_or_site_told_of_in_two_ways_is_refused_by_row(plant: Plant) -> None:
    bodies = [
        [line(0, link="http", site_export_limit_kw=5), line(1, link="mqtt"), line(2)],
        [line(4, gateway_reference="g0"), line(5, gateway_reference="g0", link="http")],
        [line(6, site_reference="s0", zip="10001"), line(7, site_reference="s0", link="http")],
        [line(8, site_reference="s0", site_export_limit_kw=6), line(9, site_reference="s9")],
    ]
    told = []
    for number, body in enumerate(bodies):
        job = enrol(plant, body, f"job {number}")
        plant.work_through_jobs()
        errors = plant.get(job["errors_url"]).json()["items"]
        told.append([(error["row"], error["field"]) for error in errors])
    assert told == [[(1, "link"), (2, "link")], [(0, "link")], [(0, "zip")], [(0, "site_export_limit_kw")]]
    links = {gateway["partner_reference"]: gateway["link"] for gateway in plant.get("/v1/gateways").json()["items"]}
    assert links["g0"] == "http"


def test_bounds_in_the_wrong_order_name_the_field_that_is_too_high(plant: Plant) -> None:
    job = enrol(plant, [line(0, soc_reserve_frac=0.9, soc_max_frac=0.5)])
    plant.work_through_jobs()
    (error,) = plant.get(job["errors_url"]).json()["items"]
    assert (error["field"], error["value"], error["rule"]) == (
        "soc_reserve_frac",
        0.9,
        "must not be above soc_max_frac",
    )


def test_every_line_ends_as_an_error_or_in_the_result(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.api.enrolment.job.ROWS_PER_CHUNK", 3)
    monkeypatch.setattr("unisono.api.routes.enrolments.RESULT_ROWS_PER_CHUNK", 2)
    enrol(plant, [line(9)], "before")
    plant.work_through_jobs()
    rows = [
        line(0),
        line(0, gateway_reference="g9"),
        line(0),
        "",
        line(1, zip="00000"),
        line(1),
        line(0, vendor="acme"),
        line(0, site_reference=None),
        line(9, telemetry_period_s=30),
        line(9),
    ]
    job = enrol(plant, rows)
    plant.work_through_jobs()
    done = plant.get(job["status_url"]).json()
    errors = plant.get(job["errors_url"]).json()["items"]
    made = result(plant, job)
    assert (done["n_total"], done["n_done"], done["n_errors"]) == (9, 9, 5)
    assert sorted([error["row"] for error in errors] + [row["row"] for row in made]) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [(row["row"], row["partner_reference"], row["is_new"]) for row in made] == [
        (0, "d0", True),
        (2, "d0", False),
        (5, "d1", True),
        (8, "d9", False),
    ]
    assert made[0]["device_id"] == made[1]["device_id"]
    assert [(error["row"], error["partner_reference"], error["field"], error["value"]) for error in errors] == [
        (1, "d0", "gateway_reference", "g9"),
        (4, "d1", "zip", "00000"),
        (6, "d0", "vendor", "acme"),
        (7, "d0", "site_reference", None),
        (9, "d9", "telemetry_period_s", None),
    ]
    assert errors[0]["rule"] == 'must be "g0", as row 0 says for the same partner_reference'
    assert errors[2]["rule"] == "must be left out, as row 0 says for the same partner_reference"


def test_a_worker_that_goes_on_knows_what_was_said_and_made_before(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.api.enrolment.job.ROWS_PER_CHUNK", 2)
    job = enrol(plant, [line(0), line(1), line(2), line(0, vendor="acme"), line(1)])
    die_in_second_chunk(plant, monkeypatch)
    plant.work_through_jobs()
    assert [error["row"] for error in plant.get(job["errors_url"]).json()["items"]] == [3]
    assert [(row["row"], row["is_new"]) for row in result(plant, job)] == [(0, True), (1, True), (2, True), (4, False)]


def test_a_value_is_told_as_it_was_sent(plant: Plant) -> None:
    long = "z" * 300
    rows = [
        line(0, zip=97214),
        json.dumps(line(1)).replace("10.0", "NaN"),
        line(2, colour={"red": [1]}),
        line(3, vendor=long),
        line(4, control_kinds=[]),
        '{"partner_reference": "d5", ',
        line(6, site_reference="s", site_export_limit_kw=5),
        line(7, site_reference="s", site_export_limit_kw=6),
    ]
    job = enrol(plant, rows)
    plant.work_through_jobs()
    errors = plant.get(job["errors_url"]).json()["items"]
    assert [(error["partner_reference"], error["field"], error["value"], error["rule"]) for error in errors] == [
        ("d0", "zip", 97214, "must be text of five digits, like 97214, or of nine, like 97214-1234"),
        ("d1", "capacity_kwh", "NaN", "must be a finite JSON number"),
        ("d2", "colour", {"red": [1]}, "must not be given: there is no such field"),
        ("d3", "vendor", "z" * 200 + "...", "must have at most 200 characters"),
        ("d4", "control_kinds", [], "must have at least 1 item"),
        (None, "line", '{"partner_reference": "d5", ', "must be valid JSON: it ends too early"),
        ("d7", "site_export_limit_kw", 6, "must be that of its site 's', which has 5000 W"),
    ]
