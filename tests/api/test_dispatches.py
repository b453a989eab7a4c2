"""Dispatches: kept once, refused by name, revised in order, cancelled as a state; honest about a shortfall."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from tests.api.conftest import NOW_NS, Plant, problem_of

from unisono.base.instants import NS_PER_S, format_rfc3339
from unisono.model.dispatch import Dispatch, DispatchProgress, decode_request
from unisono.model.queries import Preview, PreviewResult, Query
from unisono.model.totals import PortfolioTotals, ShardTotals
from unisono.store import dispatches, outbox

NOW = datetime.fromtimestamp(NOW_NS / NS_PER_S, UTC)


def at(seconds: float) -> str:
    """Return an instant that many seconds after now."""
    return format_rfc3339(NOW_NS + round(seconds * NS_PER_S))


def asked(**change: Any) -> dict[str, Any]:
    """Return the body of a good dispatch, changed; a field set to None is left out."""
    body = {"kind": "change_kw", "target_kw": 5.0, "start": at(60), "end": at(660), "reason": "peak", **change}
    return {name: value for name, value in body.items() if value is not None}


def path_of(plant: Plant, **more: Any) -> str:
    """Return the path of a new portfolio's dispatches."""
    return f"/v1/vpp/portfolios/{plant.portfolio(**more)['portfolio_id']}/dispatches"


def totals(portfolio_no: int, dispatches_in_force: tuple[DispatchProgress, ...] = (), **change: Any) -> ShardTotals:
    """Return what a shard says of one portfolio of one fresh battery."""
    values: dict[str, Any] = {
        "portfolio_no": portfolio_no,
        "n_devices": 1,
        "n_by_trust": (0, 1, 0, 0, 0),
        "n_by_lifecycle": (0, 0, 1, 0, 0),
        "n_by_technology": {2: 1},
        "enrolled_export_w_by_technology": {2: 7600.0},
        "power_w": -500.0,
        "power_sd_w": 20.0,
        "commanded_w": 0.0,
        "acknowledged_w": 0.0,
        "n_by_level": (1, 1, 1, 1),
        "reported_w": -500.0,
        "measured_w": float("nan"),
        "up_w": 8100.0,
        "down_w": -7100.0,
        "dispatchable_up_w": 7000.0,
        "dispatchable_down_w": -6000.0,
        "dispatchable_hold_s": 3600.0,
        "energy_up_wh": 9000.0,
        "energy_down_wh": 3000.0,
        "completeness_frac": 1.0,
    }
    portfolio = PortfolioTotals(**{**values, **change})
    return ShardTotals(
        shard=0,
        epoch=1,
        cycle=1,
        at_ns=NOW_NS,
        cycle_ms=3.0,
        n_devices=1,
        n_by_trust=(0, 1, 0, 0, 0),
        power_w=0.0,
        up_w=0.0,
        down_w=0.0,
        readings_seq=1,
        portfolios=(portfolio,),
        dispatches=dispatches_in_force,
        ingest=None,
    )


def progress(dispatch: dict[str, Any], organisation_id: str, **change: Any) -> DispatchProgress:
    """Return one cycle's progress of a dispatch."""
    values: dict[str, Any] = {
        name: 0 for name in DispatchProgress.__struct_fields__ if name not in DispatchProgress.__struct_defaults__
    }
    values |= {
        "dispatch_id": dispatch["dispatch_id"],
        "revision": dispatch["revision"],
        "organisation_id": organisation_id,
        "portfolio_id": dispatch["portfolio_id"],
        "epoch": 1,
        "cycle": 1,
        "at_ns": NOW_NS,
        "state": "active",
        "frames_digest": "",
    }
    return DispatchProgress(**{**values, **change})


def waiting_requests(plant: Plant) -> list[Dispatch]:
    """Return this organisation's dispatches that wait in the outbox."""
    with plant.database.begin() as connection:
        rows = outbox.waiting(connection, 10_000)
    requests = [decode_request(row.payload) for row in rows if row.subject.startswith("requests.")]
    return [one for one in requests if isinstance(one, Dispatch) and one.organisation_id == plant.organisation_id]


def test_a_dispatch_is_kept_in_watts_and_waits_to_be_sent(plant: Plant) -> None:
    path = path_of(plant)
    targets = [{"start": at(60), "power_kw": 5.0}, {"start": at(300), "power_kw": -2.5}]
    response = plant.post(path, asked(target_kw=None, targets=targets, ramp_s=30), once="a")
    assert response.status_code == 201, response.text
    body = response.json()
    assert response.headers["location"] == body["status_url"]
    assert body["targets"] == [
        {"interval_start": at(60), "interval_end": at(300), "power_kw": 5.0},
        {"interval_start": at(300), "interval_end": at(660), "power_kw": -2.5},
    ]
    [sent] = waiting_requests(plant)
    assert sent.dispatch_id == body["dispatch_id"]
    assert [(point.start_ns - NOW_NS, point.power_w) for point in sent.targets] == [
        (60 * NS_PER_S, 5000.0),
        (300 * NS_PER_S, -2500.0),
    ]
    assert plant.get(body["status_url"]).json()["progress"] == []


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"start": at(660), "end": at(60)}, "end", "after start"),
        ({"end": at(60)}, "end", "after start"),
        ({"end": at(61)}, "end", "at least 4 s"),
        ({"start": at(-3600)}, "start", "in the past"),
        ({"start": at(-50), "end": at(-20)}, "end", "future"),
        ({"end": at(60 + 25 * 3600 + 1)}, "end", "at most 25 h"),
        ({"start": at(400 * 86400), "end": at(400 * 86400 + 60)}, "start", "366 days"),
        ({"start": "2026-11-20T17:00:00"}, "start", "offset"),
        ({"start": "tomorrow"}, "start", "RFC 3339"),
        ({"start": "2026-02-30T17:00:00Z"}, "start", "no date"),
        ({"start": 1795000000}, "start", "RFC 3339"),
        ({"ramp_s": 301}, "ramp_s", "two ramps"),
        ({"ramp_s": -1}, "ramp_s", "greater"),
        ({"kind": "net_mw"}, "kind", "change_kw"),
        ({"target_kw": None}, "body", "target_kw or targets"),
        ({"targets": [{"start": at(60), "power_kw": 1}]}, "body", "not both"),
        ({"target_kw": None, "targets": []}, "targets", "at least 1"),
        ({"target_kw": None, "targets": [{"start": at(90), "power_kw": 1}]}, "targets[0].start", "begin at start"),
        ({"target_kw": None, "targets": [{"start": at(60), "power_kw": 1}] * 2}, "targets[1].start", "after"),
        ({"target_kw": 1e9}, "target_kw", "less than or equal"),
        ({"target_kw": "5"}, "target_kw", "JSON number"),
        ({"kind": "limit_kw", "target_kw": -5.0}, "target_kw", ">= 0"),
        ({"kind": "limit_kw", "limit_side": "import", "target_kw": 5.0}, "target_kw", "<= 0"),
        ({"policy": "random"}, "policy", "merit_order"),
        ({"priority": -1}, "priority", "greater"),
        ({"reason": "x" * 201}, "reason", "200"),
        ({"colour": 1}, "colour", "no such field"),
    ],
)
def test_a_bad_dispatch_is_refused_and_not_kept(plant: Plant, change: dict[str, Any], field: str, rule: str) -> None:
    problem = problem_of(plant.post(path_of(plant), asked(**change), once="bad"), 422)
    assert problem["field"] == field
    assert rule in problem["rule"]
    assert waiting_requests(plant) == []


def test_every_broken_rule_is_told_at_once(plant: Plant) -> None:
    body = asked(start=at(-3600), end=at(-3500), ramp_s=80)
    problem = problem_of(plant.post(path_of(plant), body, once="bad"), 422)
    assert [error["field"] for error in problem["errors"]] == ["start", "end", "ramp_s"]


def test_a_dispatch_spans_both_changes_of_the_clocks_by_true_hours(plant: Plant) -> None:
    path = path_of(plant)
    spring = plant.post(path, asked(start="2027-03-14T01:30:00-08:00", end="2027-03-14T03:30:00-07:00"), once="s")
    assert (spring.json()["start"], spring.json()["end"]) == ("2027-03-14T09:30:00.000Z", "2027-03-14T10:30:00.000Z")
    autumn = plant.post(path, asked(start="2027-11-07T00:00:00-07:00", end="2027-11-08T00:00:00-08:00"), once="w")
    assert autumn.status_code == 201, "the longest local day has 25 hours"
    hours = datetime.fromisoformat(autumn.json()["end"]) - datetime.fromisoformat(autumn.json()["start"])
    assert hours == timedelta(hours=25)


def test_a_dispatch_for_an_empty_portfolio_is_accepted_with_a_warning(plant: Plant) -> None:
    response = plant.post(path_of(plant, assets=[]), asked(), once="e")
    assert response.status_code == 201
    assert "empty" in response.json()["warnings"][0]
    assert response.json()["expected_shortfall_kw"] == 5.0


def test_more_than_the_fleet_has_is_accepted_and_says_how_much_is_not_covered(plant: Plant) -> None:
    made = plant.portfolio()
    plant.picture.fold_totals(totals(made["portfolio_no"]))
    path = f"/v1/vpp/portfolios/{made['portfolio_id']}/dispatches"
    expected = [
        ({"target_kw": 10.0}, 3.0),
        ({"target_kw": -10.0}, 4.0),
        ({"target_kw": 6.0}, 0.0),
        ({"kind": "net_kw", "target_kw": 7.0}, 0.5),
        ({"kind": "limit_kw", "target_kw": 0.0}, 0.0),
        ({"kind": "limit_kw", "limit_side": "import", "target_kw": 0.0}, 0.0),
    ]
    for number, (change, shortfall_kw) in enumerate(expected):
        window = {"start": at(1000 * number), "end": at(1000 * number + 600)}
        body = plant.post(path, asked(**window, **change), once=f"s{number}").json()
        assert body["expected_shortfall_kw"] == shortfall_kw, change


@pytest.mark.parametrize(
    ("other", "target_kw", "shortfall_kw"),
    [
        ({"target_kw": 5.0}, 5.0, 3.0),
        ({"target_kw": 5.0, "priority": 50}, 5.0, 3.0),
        # The 7.6 kW battery that is called for 5 kW upwards has a third of its 7.6 kW downwards left.
        ({"target_kw": 5.0}, -5.0, 4.0),
        ({"kind": "net_kw", "target_kw": 1.0}, 5.0, 5.0),
        ({"target_kw": 5.0, "priority": 101}, 5.0, 0.0),
        ({"target_kw": 5.0, "start": at(660), "end": at(700)}, 5.0, 0.0),
        # No battery gives more than from full charge to full discharge.
        ({"target_kw": 5000.0}, 5.0, 5.0),
    ],
)
def test_what_other_dispatches_may_take_in_that_time_counts_as_not_covered(
    plant: Plant, other: dict[str, Any], target_kw: float, shortfall_kw: float
) -> None:
    made = plant.portfolio()
    plant.picture.fold_totals(totals(made["portfolio_no"]))
    [device] = plant.get("/v1/devices").json()["items"]
    path = f"/v1/devices/{device['device_id']}"
    assert plant.call("PATCH", path, json={"gateway_reference": "gateway 1"}).status_code == 200
    for lifecycle in ("commissioning", "active"):
        assert plant.post(f"{path}/lifecycle", {"lifecycle": lifecycle}).status_code == 200
    # Another portfolio that shares the device, and one that shares nothing.
    shared = plant.post("/v1/vpp/portfolios", {"name": "shared", "members": [device["device_id"]]}).json()
    strange = plant.portfolio()
    for portfolio, word in ((shared, "shared"), (strange, "strange")):
        path = f"/v1/vpp/portfolios/{portfolio['portfolio_id']}/dispatches"
        assert plant.post(path, asked(**other), once=word).status_code == 201
    path = f"/v1/vpp/portfolios/{made['portfolio_id']}/dispatches"
    body = plant.post(path, asked(target_kw=target_kw), once="mine").json()
    assert body["expected_shortfall_kw"] == pytest.approx(shortfall_kw, abs=0.05)
    assert any("other dispatches in that time (1)" in one for one in body["warnings"]) == (shortfall_kw > 0)
    revised = asked(target_kw=target_kw, revision=2)
    body = plant.call("PUT", f"/v1/vpp/dispatches/{body['dispatch_id']}", json=revised, once="again").json()
    assert body["expected_shortfall_kw"] == pytest.approx(shortfall_kw, abs=0.05), (
        "its own revision before takes nothing"
    )


def test_an_idempotency_key_is_required(plant: Plant) -> None:
    assert problem_of(plant.post(path_of(plant), asked()), 422)["field"] == "Idempotency-Key"


def test_the_same_request_twice_is_one_dispatch(plant: Plant) -> None:
    path = path_of(plant)
    first, second = plant.post(path, asked(), once="k"), plant.post(path, asked(), once="k")
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"]
    assert len(waiting_requests(plant)) == 1


def test_another_body_under_the_same_key_is_refused(plant: Plant) -> None:
    path = path_of(plant)
    plant.post(path, asked(), once="k")
    problem = problem_of(plant.post(path, asked(target_kw=6.0), once="k"), 422)
    assert problem["field"] == "Idempotency-Key"
    assert "another body" in problem["rule"]
    assert len(waiting_requests(plant)) == 1


def test_a_refused_request_may_be_mended_under_its_key(plant: Plant) -> None:
    path = path_of(plant)
    problem_of(plant.post(path, asked(end=at(0)), once="k"), 422)
    assert plant.post(path, asked(), once="k").status_code == 201


def test_the_same_request_in_parallel_is_one_dispatch(plant: Plant) -> None:
    path = path_of(plant)

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {plant.key}", "Idempotency-Key": "parallel"}
        return list(await asyncio.gather(*(client.post(path, json=asked(), headers=headers) for _ in range(12))))

    answers = plant.run(work)
    for answer in answers:
        if answer.status_code != 201:
            problem_of(answer, 409)
            assert int(answer.headers["retry-after"]) >= 1
    made = {answer.json()["dispatch_id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    assert len(waiting_requests(plant)) == 1
    assert plant.post(path, asked(), once="parallel").json()["dispatch_id"] in made


def test_a_revision_replaces_the_whole_and_only_the_next_number_is_taken(plant: Plant) -> None:
    made = plant.post(path_of(plant), asked(), once="a").json()
    path = f"/v1/vpp/dispatches/{made['dispatch_id']}"
    second = plant.call("PUT", path, json=asked(target_kw=4.0, revision=2), once="b")
    assert second.json()["revision"] == 2
    assert second.json()["targets"][0]["power_kw"] == 4.0
    problem = problem_of(plant.call("PUT", path, json=asked(revision=2, target_kw=3.0), once="c"), 409)
    assert "the next one is 3" in problem["rule"]
    problem_of(plant.call("PUT", path, json=asked(revision=3, kind="net_kw"), once="d"), 422)
    assert [one.revision for one in waiting_requests(plant)] == [1, 2]


def test_a_running_dispatch_keeps_its_start_when_it_is_revised(plant: Plant) -> None:
    made = plant.post(path_of(plant), asked(), once="a").json()
    plant.clock.advance(400)
    path = f"/v1/vpp/dispatches/{made['dispatch_id']}"
    assert plant.call("PUT", path, json=asked(revision=2, end=at(900)), once="b").status_code == 200
    problem_of(plant.call("PUT", path, json=asked(revision=3, start=at(100), end=at(900)), once="c"), 422)


def test_the_start_of_a_dispatch_that_runs_cannot_be_moved_later(plant: Plant) -> None:
    made = plant.post(path_of(plant), asked(), once="a").json()
    path = f"/v1/vpp/dispatches/{made['dispatch_id']}"
    later = {"start": at(120), "end": at(900)}
    assert plant.call("PUT", path, json=asked(revision=2, **later), once="b").status_code == 200, "it has not begun"
    plant.clock.advance(121)
    for start in (at(121), at(500)):
        problem = problem_of(plant.call("PUT", path, json=asked(revision=3, start=start, end=at(900)), once=start), 422)
        assert (problem["field"], problem["value"]) == ("start", start)
        assert "the dispatch runs" in problem["rule"]
    plant.post(f"{path}/cancel", {}, once="c")
    for start in (at(120), at(500)):
        over = plant.call("PUT", path, json=asked(revision=4, start=start, end=at(900)), once=f"d{start}")
        assert "is cancelled" in problem_of(over, 409)["rule"]


def test_cancelled_is_a_state_and_stays_one(plant: Plant) -> None:
    made = plant.post(path_of(plant), asked(), once="a").json()
    path = f"/v1/vpp/dispatches/{made['dispatch_id']}"
    first = plant.post(f"{path}/cancel", {"reason": "called off"}, once="b")
    again = plant.post(f"{path}/cancel", {"reason": "called off"}, once="c")
    assert first.json()["state"] == again.json()["state"] == "cancelled"
    assert first.json()["revision"] == again.json()["revision"] == 2
    assert plant.get(path).json()["state"] == "cancelled"
    problem_of(plant.call("PUT", path, json=asked(revision=3), once="d"), 409)
    assert [one.is_cancelled for one in waiting_requests(plant)] == [False, True]
    events = plant.get(f"/v1/vpp/portfolios/{made['portfolio_id']}/events").json()["items"]
    assert [event["kind"] for event in events[1:]] == ["dispatch.requested", "dispatch.cancel_requested"]


def test_progress_shows_the_funnel_of_the_newest_cycle(plant: Plant) -> None:
    made = plant.portfolio()
    path = f"/v1/vpp/portfolios/{made['portfolio_id']}/dispatches"
    dispatch = plant.post(path, asked(), once="a").json()
    row = progress(dispatch, plant.organisation_id, n_targeted=3, n_sent=2, delivered_w=1500.0, shortfall_w=3500.0)
    plant.picture.fold_totals(totals(made["portfolio_no"], (row,)))
    plant.clock.advance(2)
    shown = plant.get(dispatch["status_url"]).json()
    assert shown["state"] == "active"
    assert shown["progress"][0]["funnel"]["targeted"] == 3
    assert shown["progress"][0]["delivered_kw"] == 1.5
    assert shown["progress"][0]["age_s"] == 2.0


def test_a_level_of_truth_that_nobody_is_known_at_is_null_live_and_in_the_outcome(plant: Plant) -> None:
    made = plant.portfolio()
    dispatch = plant.post(f"/v1/vpp/portfolios/{made['portfolio_id']}/dispatches", asked(), once="a").json()
    row = progress(
        dispatch, plant.organisation_id, commanded_w=0.0, acknowledged_w=None, reported_w=4.5, measured_w=None
    )
    plant.picture.fold_totals(totals(made["portfolio_no"], (row,)))
    with plant.database.begin() as connection:
        assert dispatches.record_progress(connection, [row]) == 1
    [live] = plant.get(dispatch["status_url"]).json()["progress"]
    [recorded] = plant.get(f"{dispatch['status_url']}/outcome").json()["items"]
    for shown in (live, recorded):
        levels = [shown[f"{level}_kw"] for level in ("commanded", "acknowledged", "reported", "measured")]
        assert levels == [0.0, None, 0.004, None]


def test_the_outcome_is_read_cycle_by_cycle(plant: Plant) -> None:
    dispatch = plant.post(path_of(plant), asked(), once="a").json()
    rows = [
        progress(dispatch, plant.organisation_id, cycle=n, at_ns=NOW_NS + n, delivered_w=n * 1000.0) for n in range(5)
    ]
    with plant.database.begin() as connection:
        dispatches.record_progress(connection, rows)
    path, seen = f"/v1/vpp/dispatches/{dispatch['dispatch_id']}/outcome?limit=2", []
    while path:
        page = plant.get(path)
        seen += [(one["cycle"], one["delivered_kw"]) for one in page.json()["items"]]
        path = page.links["next"]["url"] if "next" in page.links else ""
    assert seen == [(n, float(n)) for n in range(5)]


def test_a_list_shows_the_newest_first_and_filters(plant: Plant) -> None:
    path = path_of(plant)
    ids = [plant.post(path, asked(), once=f"l{n}").json()["dispatch_id"] for n in range(3)]
    plant.post(f"/v1/vpp/dispatches/{ids[1]}/cancel", {}, once="c")
    assert [one["dispatch_id"] for one in plant.get(path).json()["items"]] == ids[::-1]
    found = plant.get("/v1/vpp/dispatches?state=cancelled").json()["items"]
    assert [one["dispatch_id"] for one in found] == [ids[1]]
    first = plant.get(f"{path}?limit=2")
    assert [one["dispatch_id"] for one in plant.get(first.links["next"]["url"]).json()["items"]] == [ids[0]]


def test_a_preview_asks_realtime_and_keeps_nothing(plant: Plant) -> None:
    path = f"{path_of(plant)}/preview"
    problem_of(plant.post(path, asked()), 503)

    def answer(query: Query) -> PreviewResult:
        assert isinstance(query, Preview)
        target_w = query.dispatch.targets[0].power_w
        return PreviewResult(
            at_ns=NOW_NS,
            target_w=target_w,
            deliverable_w=3000.0,
            shortfall_w=target_w - 3000.0,
            n_eligible=1,
            n_targeted=1,
        )

    plant.bus.answer = answer
    assert plant.post(path, asked()).json()["shortfall_kw"] == 2.0
    assert waiting_requests(plant) == []


def test_the_status_shows_the_picture_and_its_age(plant: Plant) -> None:
    made = plant.portfolio()
    plant.picture.fold_totals(totals(made["portfolio_no"]))
    plant.clock.advance(3)
    status = plant.get(f"/v1/vpp/portfolios/{made['portfolio_id']}/status").json()
    assert status["dispatchable_capacity_kw"] == 7.0
    assert status["power"] == {
        "power_kw": -0.5,
        "power_sd_kw": 0.02,
        "commanded_kw": 0.0,
        "acknowledged_kw": 0.0,
        "reported_kw": -0.5,
        "measured_kw": None,
    }
    assert (status["age_s"], status["stale"], status["by_trust"]["fresh"]) == (3.0, False, 1)
    plant.clock.advance(60)
    late = plant.get(f"/v1/vpp/portfolios/{made['portfolio_id']}/status").json()
    assert late["stale"]
    assert "63 s ago" in late["stale_reason"]


def test_older_owners_and_older_cycles_do_not_touch_the_picture(plant: Plant) -> None:
    newest = totals(1)
    assert plant.picture.fold_totals(msgspec.structs.replace(newest, epoch=2))
    assert not plant.picture.fold_totals(msgspec.structs.replace(newest, at_ns=NOW_NS + 1))
    assert not plant.picture.fold_totals(msgspec.structs.replace(newest, epoch=2, at_ns=NOW_NS - 1))
