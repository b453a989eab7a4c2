"""The OpenAPI document: complete, with an example for every body and a problem for everything that can go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.api.conftest import Plant

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


def test_every_operation_lists_its_problems_as_problem_json(plant: Plant) -> None:
    for method, path, operation in operations(plant):
        if path in HEALTH:
            continue
        for status in ("401", "403", "404", "422", "503"):
            content = operation["responses"][status]["content"]
            assert list(content) == ["application/problem+json"], f"{method} {path} {status}"


def test_every_operation_but_healthz_wants_a_key_with_one_scope(plant: Plant) -> None:
    for method, path, operation in operations(plant):
        if path == "/healthz":
            assert "security" not in operation
            continue
        [wanted] = operation["security"]
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
