"""The OpenAPI document: complete, with an example for every body and a problem for everything that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.api.conftest import NOW_NS, Plant

from unisono.api.app import TELEMETRY_PATHS
from unisono.links.identity import Identity
from unisono.wire.acks import decode_acks
from unisono.wire.frames import decode_fetched
from unisono.wire.telemetry import decode_batch, decode_ndjson

METHODS = ("get", "post", "put", "patch", "delete")
HEALTH = ("/healthz", "/readyz", "/metrics")


def operations(plant: Plant) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (method, path, operation)."""
    for path, found in plant.app.openapi()["paths"].items():
        for method in METHODS:
            if method in found:
                yield method, path, found[method]


def test_every_operation_says_what_it_is_and_gives_examples(plant: Plant) -> None:
    for method, path, operation in operations(plant):
        where = f"{method} {path}"
        assert operation.get("summary"), where
        assert operation.get("description"), where
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        successes = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
        assert successes, where
        for body in bodies + [answer for answer in successes if "content" in answer]:
            for content in body["content"].values():
                assert "example" in content or "examples" in content, where


def problems(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the problems of an operation by status, as their bodies in the document."""
    return {
        status: answer["content"]["application/problem+json"]
        for status, answer in operation["responses"].items()
        if "application/problem+json" in answer.get("content", {})
    }


def test_every_operation_lists_its_problems_with_examples_of_its_own(plant: Plant) -> None:
    for method, path, operation in operations(plant):
        if path == "/healthz":
            continue
        where = f"{method} {path}"
        listed = problems(operation)
        wanted = {"401"} if path in TELEMETRY_PATHS else {"401", "403"}
        if path not in (*HEALTH, *TELEMETRY_PATHS):
            wanted |= {"429", "503"}
            wanted |= {"422"} if operation.get("parameters") or "requestBody" in operation else set()
            wanted |= {"404"} if "{" in path else set()
            wanted |= {"413"} if method != "get" else set()
        assert wanted <= listed.keys(), where
        assert "409" not in listed or method != "get" or path.endswith("/result"), where
        for status, content in listed.items():
            example = content["example"]
            assert example["status"] == int(status), where
            if path not in TELEMETRY_PATHS:
                assert (example["field"], example["rule"]) == (
                    example["errors"][0]["field"],
                    example["errors"][0]["rule"],
                ), where
                assert "{" not in example["instance"], where


def test_the_problem_of_the_example_is_the_problem_that_is_answered(plant: Plant) -> None:
    document = plant.app.openapi()
    path = "/v1/vpp/dispatches/{dispatch_id}"
    listed = problems(document["paths"][path]["get"])
    called = path.format(dispatch_id=listed["404"]["example"]["value"])
    assert plant.get(called).json() == listed["404"]["example"]
    assert plant.get(called, key="").json() == listed["401"]["example"]
    assert plant.get(called, key=plant.make_key(plant.organisation_id, ("enrol",))).json() == listed["403"]["example"]
    refused = plant.get(path.format(dispatch_id="7")).json()
    expected = listed["422"]["example"]
    assert {**refused, "instance": ""} == {**expected, "instance": ""}
    limited = problems(document["paths"]["/v1/sites"]["get"])["422"]["example"]
    assert plant.get("/v1/sites?limit=0").json() == limited


def test_bounds_are_in_the_words_of_json_schema(plant: Plant) -> None:
    schemas = plant.app.openapi()["components"]["schemas"]
    target = schemas["TargetAsked"]["properties"]["power_kw"]
    assert (target["minimum"], target["maximum"]) == (-1e7, 1e7)

    def check(node: Any) -> None:
        if isinstance(node, dict):
            assert not {"ge", "gt", "le", "lt"} & node.keys(), node
        for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            check(part)

    check(plant.app.openapi())


def test_the_examples_of_gateways_are_understood_by_the_wire(plant: Plant) -> None:
    paths = plant.app.openapi()["paths"]
    bodies = paths["/v1/telemetry"]["post"]["requestBody"]["content"]
    identity = Identity()
    batch = json.dumps(bodies["application/json"]["example"]).encode()
    assert decode_batch(batch, 1, identity, NOW_NS).n_received == 4
    assert decode_ndjson(bodies["application/x-ndjson"]["example"].encode(), 1, identity, NOW_NS).n_received == 2
    acks = paths["/v1/acks"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert len(decode_acks(json.dumps(acks).encode(), 1, identity, NOW_NS).rejected) <= 2
    fetched = paths["/v1/commands"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    assert decode_fetched(json.dumps(fetched).encode()).next == 77


def test_every_operation_but_healthz_wants_a_key_with_one_scope(plant: Plant) -> None:
    for method, path, operation in operations(plant):
        if path == "/healthz":
            assert "security" not in operation
            continue
        [wanted] = operation["security"]
        if path in TELEMETRY_PATHS:
            assert wanted == {"gateway": []}
            continue
        assert len(wanted["key"]) == 1, f"{method} {path}"
        if method == "get" and not path.startswith(("/v1/keys", "/v1/organisations", "/v1/jobs/{job_id}/result")):
            assert wanted["key"] == ["read"], path


def test_request_examples_are_good_requests(plant: Plant) -> None:
    document = plant.app.openapi()
    example = document["paths"]["/v1/vpp/portfolios"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert plant.post("/v1/vpp/portfolios", example).status_code == 201
    lines = document["paths"]["/v1/vpp/enrolments"]["post"]["requestBody"]["content"]["application/x-ndjson"]["example"]
    job = plant.call("POST", "/v1/vpp/enrolments", content=lines.encode(), once="x").json()
    plant.work_through_jobs()
    assert plant.get(job["status_url"]).json()["n_errors"] == 0


def test_references_lead_somewhere(plant: Plant) -> None:
    document = plant.app.openapi()
    schemas = document["components"]["schemas"]

    def check(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].rpartition("/")[2] in schemas, node
            for part in node.values():
                check(part)
        elif isinstance(node, list):
            for part in node:
                check(part)

    check(document)


def test_the_document_and_the_console_are_served_and_tell_nothing_of_the_plant(plant: Plant) -> None:
    assert plant.get("/openapi.json", key="").json()["info"]["title"] == "Unisono"
    page = plant.get("/", key="")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "/v1/stream/portfolios/" in page.text
    assert "Power in kW (positive: into the grid) over time in UTC" in page.text
    assert '["since (UTC)", "severity", "kind", "subject", "detail", "state"]' in page.text


def test_health_readiness_and_metrics(lone_plant: Plant) -> None:
    plant = lone_plant
    assert plant.get("/healthz", key="").json() == {"status": "ok", "version": "0.0.0"}
    ready = plant.get("/readyz")
    assert ready.status_code == 200
    assert "not been heard" in ready.json()["checks"]["realtime"]
    plant.bus.is_connected = False
    assert plant.get("/readyz").status_code == 503
    text = plant.get("/metrics").text
    assert 'unisono_http_requests_total{method="GET",route="/healthz",status="200"} 1.0' in text
