"""From a declared asset to one that counts: facts completed, a gateway given, one state of its life after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import Plant, problem_of
from tests.links.edge import bus_of, nats_engine, running

from unisono.base.instants import NS_PER_MS
from unisono.main.clock import SystemClock
from unisono.model.registry import DeviceRecord, GatewayRecord, decode_registry
from unisono.model.technology import CommandKind, Fallback, Lifecycle
from unisono.plant.state import PlantConfig
from unisono.services import outbox_relay, picture, realtime
from unisono.services.front import Front, FrontSettings
from unisono.services.realtime import RealtimeSettings
from unisono.store import devices, keys, outbox
from unisono.wire.telemetry import Reading, encode_batch

# What takes two seconds, on a machine that is busy with other things.
WAIT_S = 60.0


def declared(plant: Plant, **asset: Any) -> str:
    """Return the path of a declared device; a battery unless told otherwise."""
    assets = [{"asset_type": "bess", "zip": "97214", "capacity_kwh": 13.5, "max_discharge_kw": 7.6, **asset}]
    made = plant.portfolio(assets=assets)
    return f"/v1/devices/{made['assets'][0]['device_id']}"


def patch(plant: Plant, path: str, once: str = "", **facts: Any) -> httpx.Response:
    return plant.call("PATCH", path, json=facts, once=once)


def move(plant: Plant, path: str, lifecycle: str) -> httpx.Response:
    return plant.post(f"{path}/lifecycle", {"lifecycle": lifecycle})


def announced(plant: Plant) -> list[Any]:
    with plant.database.begin() as connection:
        rows = outbox.waiting(connection, 10_000)
    batches = [decode_registry(row.payload) for row in rows if row.subject.startswith("registry.")]
    return [one for batch in batches for one in batch.everything() if one.organisation_id == plant.organisation_id]


def test_a_declared_device_without_a_gateway_goes_nowhere_but_to_retired(plant: Plant) -> None:
    path = declared(plant)
    straight = problem_of(move(plant, path, "active"), 409)
    assert (straight["field"], straight["value"]) == ("lifecycle", "active")
    assert straight["rule"].startswith("must be one of commissioning, retired")
    unreached = problem_of(move(plant, path, "commissioning"), 409)
    assert unreached["field"] == "gateway_id"
    assert unreached["rule"].startswith("must be given before")
    assert plant.get(path).json()["lifecycle"] == "declared"
    assert move(plant, path, "retired").json()["lifecycle"] == "retired"
    assert "retired" in problem_of(patch(plant, path, vendor="acme"), 409)["rule"]


def test_a_gateway_made_for_a_device_shows_its_secret_once_and_is_announced_with_it(plant: Plant) -> None:
    path = declared(plant)
    facts = {"gateway_reference": "home-1", "link": "http", "vendor": "acme", "partner_reference": "home-1/battery"}
    first = patch(plant, path, "once", **facts).json()
    again = patch(plant, path, "once", **facts).json()
    assert again == {**first, "gateway_secret": None}
    assert (first["lifecycle"], first["vendor"], first["partner_reference"]) == ("declared", "acme", "home-1/battery")
    gateway, device = announced(plant)[-2:]
    assert isinstance(gateway, GatewayRecord)
    assert isinstance(device, DeviceRecord)
    assert (gateway.link, gateway.vendor) == ("http", "acme")
    assert gateway.secret_sha256 == keys.digest(first["gateway_secret"])
    assert (device.gateway_id, device.gateway_no) == (gateway.gateway_id, gateway.gateway_no)
    assert (first["gateway_id"], device.revision) == (gateway.gateway_id, 2)


def test_a_second_device_shares_the_gateway_by_its_reference_or_its_id(plant: Plant) -> None:
    one, two, three = declared(plant), declared(plant), declared(plant)
    made = patch(plant, one, gateway_reference="gw", link="http").json()
    shared = patch(plant, two, gateway_reference="gw").json()
    by_id = patch(plant, three, gateway_id=made["gateway_id"]).json()
    assert shared["gateway_id"] == by_id["gateway_id"] == made["gateway_id"]
    assert shared["gateway_secret"] is None
    assert [gateway["n_devices"] for gateway in plant.get("/v1/gateways").json()["items"]] == [3]
    other = problem_of(patch(plant, declared(plant), gateway_reference="gw", link="mqtt"), 422)
    assert (other["field"], other["value"]) == ("link", "mqtt")
    assert "speaks http" in other["rule"]


def test_facts_that_were_not_known_are_completed_and_the_former_ones_stay_on_record(plant: Plant) -> None:
    path = declared(plant, max_discharge_kw=None)
    plant.clock.advance(60)
    patch(
        plant,
        path,
        max_discharge_kw=5.0,
        soc_reserve_frac=0.2,
        ready_by="2026-11-21T07:00:00Z",
        needed_energy_kwh=9,
        command_latency_s=3,
        control_kinds=["schedule", "power_setpoint"],
        fallback="hold",
        merit_usd_per_kwh=0.12,
        node_path="pdx/sub-2",
    )
    detail = patch(plant, path, telemetry_period_s=10).json()
    assert (detail["max_discharge_kw"], detail["max_charge_kw"]) == (5.0, 5.0), "told one way: as strong the other way"
    record = announced(plant)[-1]
    assert (record.ratings.charge_efficiency_frac, record.ratings.energy_capacity_wh) == (0.95, 13_500.0)
    assert (record.limits.soc_reserve_frac, record.limits.needed_energy_wh) == (0.2, 9000.0)
    assert (record.command_latency_s, record.telemetry_period_s) == (3.0, 10.0)
    assert record.control_kinds == (CommandKind.SCHEDULE, CommandKind.POWER_SETPOINT)
    assert (record.fallback, record.merit_micros_per_kwh, record.node_path) == (Fallback.HOLD, 120_000, "pdx/sub-2")
    with plant.database.begin() as connection:
        now_ns = plant.clock.wall_ns()
        before, _ = devices.ratings_at(connection, record.device_no, now_ns - 1, now_ns)
        after, _ = devices.ratings_at(connection, record.device_no, now_ns, now_ns)
    assert (before.power_max_w, after.power_max_w) == (0.0, 5000.0)


@pytest.mark.parametrize(
    ("facts", "field", "rule"),
    [
        ({"gateway_id": "gwy_01KK79P8RC0000000000000000"}, "gateway_id", "must be a gateway of this organisation"),
        ({"gateway_id": "gwy_1", "gateway_reference": "g"}, "gateway_id", "beside gateway_reference"),
        ({"link": "http"}, "link", "with gateway_reference only"),
        ({"capacity_kwh": 0}, "capacity_kwh", "must be given for bess, and be above 0"),
        ({"soc_max_frac": 0.05}, "soc_reserve_frac", "must not be above soc_max_frac"),
        ({"needed_energy_kwh": 5}, "ready_by", "needs needed_energy_kwh beside it"),
        ({"command_ttl_s": 1}, "command_ttl_s", "must be greater than or equal to 10"),
        ({"control_kinds": []}, "control_kinds", "at least 1"),
        ({"zip": "97214"}, "zip", "no such field"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_whole(
    plant: Plant, facts: dict[str, Any], field: str, rule: str
) -> None:
    path = declared(plant)
    n_announced = len(announced(plant))
    problem = problem_of(patch(plant, path, vendor="new", **facts), 422)
    assert problem["field"] == field
    assert rule in problem["rule"]
    assert plant.get(path).json()["vendor"] == ""
    assert len(announced(plant)) == n_announced


def test_null_takes_a_fact_back_to_what_an_enrolment_without_it_gives(plant: Plant) -> None:
    facts = {
        "max_charge_kw": 3.0,
        "ramp_kw_per_s": 0.5,
        "soc_reserve_frac": 0.4,
        "ready_by": "2026-11-21T07:00:00Z",
        "needed_energy_kwh": 9,
        "command_latency_s": 30,
        "command_ttl_s": 300,
        "control_kinds": ["schedule"],
        "fallback": "hold",
        "merit_usd_per_kwh": 0.12,
        "node_path": "pdx/sub-2",
        "vendor": "acme",
        "duration_max_s": 3600,
    }
    told, untold = declared(plant), declared(plant)
    assert patch(plant, told, **facts).status_code == 200
    patch(plant, untold, telemetry_period_s=60)
    bare = announced(plant)[-1]
    plant.clock.advance(1)
    changed = patch(plant, told, **dict.fromkeys(facts)).json()
    assert (changed["max_discharge_kw"], changed["max_charge_kw"]) == (7.6, 7.6), "as strong the other way again"
    record = announced(plant)[-1]
    assert record.ratings == bare.ratings
    same = ("command_latency_s", "command_ttl_s", "control_kinds", "fallback", "merit_micros_per_kwh", "node_path")
    assert [getattr(record, name) for name in (*same, "vendor")] == [getattr(bare, name) for name in (*same, "vendor")]
    limits = ("soc_reserve_frac", "ready_by_ns", "needed_energy_wh")
    assert [getattr(record.limits, name) for name in limits] == [getattr(bare.limits, name) for name in limits]
    entry = plant.get(f"/v1/events?subject_id={record.device_id}").json()["items"][-1]
    assert entry["body"]["facts"].items() >= dict.fromkeys(facts).items()


def test_null_for_what_a_device_cannot_be_without_is_refused_by_field_and_rule(plant: Plant) -> None:
    path = declared(plant)
    patch(plant, path, gateway_reference="gw", partner_reference="home-9")
    move(plant, path, "commissioning")
    needed = {
        "max_discharge_kw": "must be given for bess that is not only declared",
        "capacity_kwh": "must be given for bess, and be above 0",
        "gateway_id": "must not be null",
        "partner_reference": "must stay what it is: 'home-9'",
    }
    for field, rule in needed.items():
        problem = problem_of(patch(plant, path, vendor="new", **{field: None}), 422)
        assert (problem["field"], problem["value"]) == (field, None)
        assert rule in problem["rule"]
    assert plant.get(path).json()["vendor"] == ""


def test_a_device_of_somebody_else_is_not_there_to_be_changed(plant: Plant) -> None:
    path = declared(plant)
    _, stranger = plant.organisation(f"stranger at {path}")
    problem_of(plant.call("PATCH", path, json={"vendor": "mine"}, key=stranger), 404)


def test_a_device_is_commissioned_only_when_the_power_of_its_direction_is_known(plant: Plant) -> None:
    path = declared(plant, asset_type="water_heater", max_discharge_kw=None, capacity_kwh=None)
    patch(plant, path, gateway_reference="tank")
    lacking = problem_of(move(plant, path, "commissioning"), 409)
    assert lacking["field"] == "max_charge_kw"
    assert lacking["rule"].startswith("must be given for water_heater")
    assert plant.get(path).json()["lifecycle"] == "declared"
    patch(plant, path, max_charge_kw=4.5)
    assert move(plant, path, "commissioning").json()["lifecycle"] == "commissioning"
    assert problem_of(patch(plant, path, max_charge_kw=0), 422)["field"] == "max_charge_kw"


def test_an_active_device_keeps_its_gateway_until_it_is_suspended(plant: Plant) -> None:
    path = declared(plant)
    patch(plant, path, gateway_reference="old")
    for lifecycle in ("commissioning", "active"):
        assert move(plant, path, lifecycle).status_code == 200
    assert patch(plant, path, gateway_reference="old", telemetry_period_s=30).status_code == 200
    held = problem_of(patch(plant, path, gateway_reference="new"), 409)
    assert (held["field"], held["rule"]) == ("gateway_id", "must stay while the device is active: suspend it first")
    assert move(plant, path, "suspended").status_code == 200
    assert patch(plant, path, gateway_reference="new").json()["gateway_secret"]


def test_a_partners_reference_is_given_once(plant: Plant) -> None:
    path = declared(plant)
    patch(plant, path, partner_reference="a")
    assert patch(plant, path, partner_reference="a").status_code == 200
    assert problem_of(patch(plant, path, partner_reference="b"), 422)["rule"] == "must stay what it is: 'a'"
    taken = problem_of(patch(plant, declared(plant), partner_reference="a"), 409)
    assert taken["value"] == "a"


def test_a_declared_asset_is_completed_heard_and_counted(lone_plant: Plant, tmp_path: Path) -> None:
    """The whole way, over NATS and PostgreSQL: registry, front, realtime."""
    plant, clock = lone_plant, SystemClock()
    plant.context.clock = plant.picture._clock = clock

    async def scenario() -> None:
        async with bus_of(engine.endpoints) as bus:
            await bus.ensure_streams()
            plant.context.bus = bus
            front = Front(bus, clock, FrontSettings("1"))
            settings = RealtimeSettings(0, "test", tmp_path / "shard-0.bin", PlantConfig(cycle_s=0.2))
            async with running(
                front.run(),
                outbox_relay.run(plant.database, bus, clock),
                realtime.run(settings, bus, plant.database, clock),
                picture.run(bus, plant.picture),
            ):
                await front.may_admit.wait()
                await _commission(plant, front)

    with nats_engine(tmp_path / "nats") as engine:
        asyncio.run(scenario())


async def _commission(plant: Plant, front: Front) -> None:
    api = httpx.AsyncClient(
        transport=httpx.ASGITransport(plant.app),
        base_url="http://api",
        headers={"Authorization": f"Bearer {plant.key}"},
    )
    edge = httpx.AsyncClient(transport=httpx.ASGITransport(front.telemetry_app), base_url="http://edge")
    async with api, edge:
        asset = {"asset_type": "bess", "zip": "97214", "capacity_kwh": 13.5}
        made = (await api.post("/v1/vpp/portfolios", json={"name": "P", "assets": [asset]})).json()
        path = f"/v1/devices/{made['assets'][0]['device_id']}"
        assert (await api.post(f"{path}/lifecycle", json={"lifecycle": "active"})).status_code == 409
        facts = {"gateway_reference": "gw", "link": "http", "max_discharge_kw": 7.6, "telemetry_period_s": 5}
        changed = (await api.patch(path, json=facts)).json()
        gateway_id, secret = changed["gateway_id"], changed["gateway_secret"]
        for lifecycle in ("commissioning", "active"):
            assert (await api.post(f"{path}/lifecycle", json={"lifecycle": lifecycle})).status_code == 200
        # The relay, the front and realtime hear of it one after the other.
        await until(plant, lambda: front.identity.authenticate(gateway_id, secret) is not None)
        await until(plant, lambda: _n_active(plant, made["portfolio_no"]) == 1)
        reading = Reading(id=changed["device_id"], ts=plant.context.clock.wall_ns() // NS_PER_MS, p=-500.0, soc=0.75)
        headers = {"Authorization": f"Bearer {gateway_id}.{secret}", "Content-Type": "application/json"}
        answer = await edge.post("/v1/telemetry", content=encode_batch(1, [reading]), headers=headers)
        assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "rejected": []})
        await until(plant, lambda: _dispatchable_w(plant, made["portfolio_no"]) > 6000.0)
        now = (await api.get(path)).json()["now"]
        assert (now["trust"], now["truth"]["reported_kw"], now["soc_frac"]) == ("fresh", -0.5, 0.75)


async def until(plant: Plant, is_so: Callable[[], bool]) -> None:
    """Return once it is so; looked at whenever realtime has run another cycle."""
    async with asyncio.timeout(WAIT_S):
        version = plant.picture.version
        while not is_so():
            version = await plant.picture.changed(version, WAIT_S)


def _n_active(plant: Plant, portfolio_no: int) -> int:
    totals = plant.picture.portfolio(portfolio_no).totals
    return 0 if totals is None else totals.n_by_lifecycle[Lifecycle.ACTIVE]


def _dispatchable_w(plant: Plant, portfolio_no: int) -> float:
    totals = plant.picture.portfolio(portfolio_no).totals
    return 0.0 if totals is None else totals.dispatchable_up_w
