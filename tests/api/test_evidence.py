"""What became of every reading, told to the organisation whose gateways sent it and to no other."""

from __future__ import annotations

import numpy as np
from tests.api.conftest import NOW_NS, Plant, problem_of

from unisono.model.ingest import IngestCounters, no_counts
from unisono.model.registry import GatewayRecord
from unisono.store import gateways


def a_gateway(plant: Plant, organisation_id: str = "") -> GatewayRecord:
    """Enrol a gateway."""
    with plant.database.begin() as connection:
        return gateways.add(connection, organisation_id or plant.organisation_id, NOW_NS)


def count(
    plant: Plant, accepted_of_gateway: dict[int, int], n_gateways: int | None = None, *, front: str = "f", run: int = 1
) -> None:
    """Let a front tell how many readings of each gateway it accepted."""
    counts = no_counts(len(accepted_of_gateway))
    counts[:, 0] = list(accepted_of_gateway.values())
    plant.picture.fold_counters(
        IngestCounters.of_rows(
            np.array(list(accepted_of_gateway), np.int32),
            counts,
            role="front",
            instance=front,
            run=run,
            at_ns=NOW_NS,
            n_gateways=len(accepted_of_gateway) if n_gateways is None else n_gateways,
        )
    )


def test_an_organisation_counts_the_readings_of_its_own_gateways_only(plant: Plant) -> None:
    other_id, stranger = plant.organisation("counting neighbour")
    own, foreign = a_gateway(plant), a_gateway(plant, other_id)
    count(plant, {-1: 50, own.gateway_no: 3, foreign.gateway_no: 40})
    assert plant.get("/v1/ingest/counters").json()["totals"]["accepted"] == 3
    [mine] = plant.get("/v1/ingest/gateways").json()["items"]
    assert (mine["gateway_id"], mine["counts"]["accepted"], mine["counts"]["late"]) == (own.gateway_id, 3, 0)
    [theirs] = plant.get("/v1/ingest/gateways", key=stranger).json()["items"]
    assert (theirs["gateway_id"], theirs["counts"]["accepted"]) == (foreign.gateway_id, 40)
    assert plant.get(f"/v1/ingest/gateways?gateway_id={foreign.gateway_id}").json()["items"] == []


def test_the_sums_keep_what_a_front_counted_before_it_was_restarted(plant: Plant) -> None:
    one = a_gateway(plant)
    count(plant, {one.gateway_no: 30}, front="restarted")
    count(plant, {one.gateway_no: 4}, front="restarted", run=2)
    assert plant.get("/v1/ingest/counters").json()["totals"]["accepted"] == 34
    [mine] = plant.get("/v1/ingest/gateways").json()["items"]
    assert mine["counts"]["accepted"] == 34


def test_counts_of_gateways_come_in_pages_and_by_id(plant: Plant) -> None:
    made = [a_gateway(plant) for _ in range(3)]
    count(plant, {one.gateway_no: 10 + at for at, one in enumerate(made)})
    first = plant.get("/v1/ingest/gateways?limit=2").json()
    rest = plant.get(f"/v1/ingest/gateways?limit=2&cursor={first['next_cursor']}").json()
    assert [one["counts"]["accepted"] for one in first["items"] + rest["items"]] == [10, 11, 12]
    assert rest["next_cursor"] is None
    [one] = plant.get(f"/v1/ingest/gateways?gateway_id={made[1].gateway_id}").json()["items"]
    assert one["counts"]["accepted"] == 11


def test_counts_that_nobody_has_told_yet_are_null_and_said_to_be_missing(plant: Plant) -> None:
    one = a_gateway(plant)
    assert plant.get("/v1/ingest/gateways").json()["items"][0]["counts"] is None
    count(plant, {one.gateway_no + 1: 1}, n_gateways=2)
    assert plant.get("/v1/ingest/gateways").json()["items"][0]["counts"] is None
    assert plant.get("/v1/ingest/counters").json()["missing"] == ["front f has not told of all gateways yet"]


def test_views_of_the_whole_plant_are_the_operators_alone(lone_plant: Plant) -> None:
    _, tenant = lone_plant.organisation("tenant")
    for path in ("/metrics", "/v1/log/verification"):
        problem = problem_of(lone_plant.get(path, key=tenant), 403)
        assert (problem["field"], "operator's organisation 'default'" in problem["rule"]) == ("scopes", True)
        assert lone_plant.get(path).status_code == 200
        powerless = lone_plant.make_key(lone_plant.organisation_id, ("enrol", "dispatch"))
        assert problem_of(lone_plant.get(path, key=powerless), 403)["rule"] == "needs scope read"


def test_what_is_missing_of_the_counts_tells_a_tenant_nothing_of_the_plants_size(plant: Plant) -> None:
    count(plant, {1_000: 1}, n_gateways=77_777)
    told = plant.get("/v1/ingest/counters").text
    assert "77777" not in told.replace(",", "")
