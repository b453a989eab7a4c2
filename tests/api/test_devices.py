"""Devices: four-level truth from realtime, their life, opt-outs, and history that says what it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.api.conftest import NOW_NS, Plant, problem_of

from unisono.base.instants import NS_PER_S, format_rfc3339
from unisono.model.queries import DevicePage, DeviceStates, Query
from unisono.model.totals import DeviceState


def at(seconds: float) -> str:
    """Return an instant that many seconds after now."""
    return format_rfc3339(NOW_NS + round(seconds * NS_PER_S))


def state(device: dict[str, Any], **change: Any) -> DeviceState:
    """Return realtime's picture of a device that was told and has acknowledged, but has not reported."""
    values: dict[str, Any] = {
        "device_no": device["device_no"],
        "device_id": device["device_id"],
        "technology": 2,
        "lifecycle": 2,
        "trust": 3,
        "at_ns": NOW_NS,
        "age_s": 90.0,
        "commanded_w": 3000.0,
        "acknowledged_w": 3000.0,
        "reported_w": None,
        "measured_w": None,
        "power_w": 2500.0,
        "power_sd_w": 400.0,
        "expected_w": 2500.0,
        "reference_w": 0.0,
        "reference_method": 2,
        "soc_frac": 0.5,
        "temperature_degc": None,
        "up_w": 0.0,
        "down_w": float("-inf"),
        "hold_up_s": float("inf"),
        "hold_down_s": 60.0,
        "lease_seq": 7,
        "lease_expires_ns": NOW_NS + 30 * NS_PER_S,
        "last_ack_code": 0,
        "dispatch_no": 4,
        "clock_skew_s": None,
    }
    return DeviceState(**{**values, **change})


def a_device(plant: Plant) -> dict[str, Any]:
    """Return a new device."""
    device_id = plant.portfolio()["assets"][0]["device_id"]
    device: dict[str, Any] = plant.get(f"/v1/devices/{device_id}").json()
    return device


def test_the_four_levels_are_told_apart_and_unknown_is_null(plant: Plant) -> None:
    device = a_device(plant)
    plant.bus.answer = lambda _: DeviceStates(at_ns=NOW_NS, states=(state(device),))
    now = plant.get(f"/v1/devices/{device['device_id']}").json()["now"]
    assert now["truth"] == {
        "commanded_kw": 3.0,
        "acknowledged_kw": 3.0,
        "reported_kw": None,
        "measured_kw": None,
    }
    assert (now["trust"], now["last_answer"], now["reference_method"]) == ("silent", "accepted", "plan_or_zero")
    assert (now["down_kw"], now["hold_up_s"]) == (None, None)


def test_states_come_in_pages_of_the_own_organisation(plant: Plant) -> None:
    device = a_device(plant)

    def answer(query: Query) -> DeviceStates:
        assert isinstance(query, DevicePage)
        assert query.organisation_id == plant.organisation_id
        return DeviceStates(
            at_ns=NOW_NS, states=(state(device),) if query.after == 0 else (), has_more=query.after == 0
        )

    plant.bus.answer = answer
    page = plant.get("/v1/devices/states?trust=silent&limit=1")
    assert page.json()["items"][0]["trust"] == "silent"
    assert plant.get(page.links["next"]["url"]).json() == {"items": [], "next_cursor": None}


def test_a_device_moves_through_its_life_in_order(plant: Plant) -> None:
    device = f"/v1/devices/{a_device(plant)['device_id']}"
    assert plant.call("PATCH", device, json={"gateway_reference": "gw"}).status_code == 200
    path = f"{device}/lifecycle"
    for lifecycle in ("commissioning", "active", "suspended", "active", "retired"):
        assert plant.post(path, {"lifecycle": lifecycle}).json()["lifecycle"] == lifecycle
    assert "retired" in problem_of(plant.post(path, {"lifecycle": "active"}), 409)["rule"]
    problem_of(plant.post(path, {"lifecycle": "declared"}), 422)


def test_an_opt_out_is_kept_listed_and_withdrawn(plant: Plant) -> None:
    path = f"/v1/devices/{a_device(plant)['device_id']}/opt-outs"
    made = plant.post(path, {"start": at(0), "end": at(3600), "reason": "guests"}, once="o")
    assert made.status_code == 201
    assert plant.post(path, {"start": at(0), "end": at(3600), "reason": "guests"}, once="o").json() == made.json()
    assert [one["reason"] for one in plant.get(path).json()["items"]] == ["guests"]
    plant.clock.advance(60)
    ended = plant.post(f"{path}/{made.json()['opt_out_id']}/withdraw").json()
    assert ended["interval_end"] == at(60)
    assert plant.get(path).json()["items"] == []
    problem_of(plant.post(f"{path}/opt_nothing/withdraw"), 404)


@pytest.mark.parametrize(
    ("start_s", "end_s", "rule"),
    [(60, 60, "after start"), (60, 0, "after start"), (-90, -60, "future"), (0, 4e7, "366")],
)
def test_a_bad_opt_out_is_refused(plant: Plant, start_s: float, end_s: float, rule: str) -> None:
    path = f"/v1/devices/{a_device(plant)['device_id']}/opt-outs"
    problem = problem_of(plant.post(path, {"start": at(start_s), "end": at(end_s)}), 422)
    assert problem["field"] == "end"
    assert rule in problem["rule"]


NARROW = {"power_w": -7600.0004, "reported_w": -0.1, "soc_frac": 0.6, "temperature_degc": 25.3, "hold_up_s": 1234.567}


class RecordedHistory:
    """A history of one command and three readings, written up to a minute ago."""

    window = (0, 0)

    def device_commands(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
        """Return one command."""
        row = {
            "at_ns": NOW_NS - 120 * NS_PER_S,
            "epoch": 1,
            "seq": 5,
            "kind": 0,
            "value": -1200.0,
            "start_ns": NOW_NS - 120 * NS_PER_S,
            "expires_ns": NOW_NS,
            "dispatch_id": None,
            "ack_code": 2,
            "answered_ns": NOW_NS - 119 * NS_PER_S,
        }
        return [row]

    def device_readings(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
        """Return one reading of a battery that charges, then those of its meter."""
        row = {"measured_ns": NOW_NS - 90 * NS_PER_S, "known_ns": NOW_NS - 89 * NS_PER_S, "source_kind": 1}
        missing = {"energy_wh": float("nan"), "temperature_degc": None, "voltage_v": 231.5, "quality": 0, "status": 0}
        power = {"reading_kind": 0, "interval_start_ns": None, "power_w": -1200.0, "soc_frac": 0.5}
        meter = {"source_kind": 0, "power_w": None, "soc_frac": None}
        quarter_ns = NOW_NS - 990 * NS_PER_S
        interval = {"reading_kind": 1, "interval_start_ns": quarter_ns, "energy_wh": -300.0}
        register = {"reading_kind": 2, "interval_start_ns": None, "energy_wh": -48_211_700.0}
        return [{**row, **missing, **one} for one in (power, {**meter, **interval}, {**meter, **register})][:limit]

    def device_rollup(self, device_no: int, start_ns: int, end_ns: int, limit: int) -> list[dict[str, Any]]:
        """Return one quarter-hour."""
        bounds = {"interval_start_ns": NOW_NS - 900 * NS_PER_S, "interval_end_ns": NOW_NS, "source_kind": 1}
        power = {"power_mean_w": -1200.0, "power_min_w": -1300.0, "power_max_w": -1100.0}
        return [{**bounds, **power, "energy_wh": -300.0, "energy_is_metered": False, "n": 3, "coverage_frac": 0.2}]

    def portfolio_rollup(self, device_nos: Sequence[int], start_ns: int, end_ns: int) -> list[dict[str, Any]]:
        """Return one quarter-hour of them all."""
        bounds = {"interval_start_ns": NOW_NS - 900 * NS_PER_S, "interval_end_ns": NOW_NS}
        n = len(device_nos)
        return [{**bounds, "power_mean_w": -1200.0 * n, "energy_wh": -300.0 * n, "n_devices": n, "coverage_frac": 0.2}]

    def device_readings_count(self, device_no: int, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Return three."""
        self.window = start_ns, end_ns
        return 3, NOW_NS - 60 * NS_PER_S

    def through_ns(self, kind: str) -> int:
        """Return a minute ago."""
        assert kind in ("commands", "readings")
        return NOW_NS - 60 * NS_PER_S


def test_without_history_the_command_log_says_so(plant: Plant) -> None:
    path = f"/v1/devices/{a_device(plant)['device_id']}"
    log = plant.get(f"{path}/command-log").json()
    assert log["items"] == []
    assert log["missing"] == ["command history is not available here"]
    assert plant.get(f"{path}/connectivity").json()["n_readings"] is None


def test_history_answers_and_says_up_to_when(plant: Plant) -> None:
    plant.context.history = RecordedHistory()
    path = f"/v1/devices/{a_device(plant)['device_id']}"
    log = plant.get(f"{path}/command-log").json()
    assert (log["items"][0]["power_kw"], log["items"][0]["answer"]) == (-1.2, "refused_opt_out")
    assert at(-60) in log["missing"][0]
    plant.clock.advance(600)
    window = f"start={at(0)}&end={at(540)}"
    connectivity = plant.get(f"{path}/connectivity?{window}").json()
    assert (connectivity["n_readings"], connectivity["expected_readings"]) == (3, 9)
    assert connectivity["completeness_frac"] == pytest.approx(3 / 9, abs=1e-4)
    assert any("trust" in missing for missing in connectivity["missing"])


def test_what_is_kept_in_32_bits_is_told_to_the_watt_and_without_noise(plant: Plant) -> None:
    device = a_device(plant)
    narrow = {name: float(np.float32(value)) for name, value in NARROW.items()}
    plant.bus.answer = lambda _query: DeviceStates(at_ns=NOW_NS, states=(state(device, **narrow),))
    now = plant.get(f"/v1/devices/{device['device_id']}").json()["now"]
    shown = (now["power_kw"], now["truth"]["reported_kw"], now["soc_frac"], now["temperature_degc"], now["hold_up_s"])
    assert shown == (-7.6, 0.0, 0.6, 25.3, 1234.567)
    assert str(shown[1]) == "0.0", "there is no minus zero"
    [one] = plant.get("/v1/devices/states").json()["items"]
    assert one["power_kw"] == -7.6


def test_nothing_from_before_its_enrolment_is_put_down_to_a_device(plant: Plant) -> None:
    history = plant.context.history = RecordedHistory()
    path = f"/v1/devices/{a_device(plant)['device_id']}/connectivity"
    plant.clock.advance(600)
    heard = plant.get(f"{path}?start={at(-86_400)}&end={at(540)}").json()
    assert (heard["interval_start"], heard["interval_end"]) == (at(0), at(540))
    assert (heard["expected_readings"], history.window) == (9, (NOW_NS, NOW_NS + 540 * NS_PER_S))
    before = plant.get(f"{path}?start={at(-86_400)}&end={at(-60)}").json()
    assert (before["expected_readings"], before["completeness_frac"]) == (0, None)


@pytest.mark.parametrize(("query", "field"), [("start=x", "start"), ("start=2026-01-01T00:00:00Z", "start")])
def test_a_window_that_is_none_or_too_long_is_refused(plant: Plant, query: str, field: str) -> None:
    path = f"/v1/devices/{a_device(plant)['device_id']}/command-log?{query}"
    assert problem_of(plant.get(path), 422)["field"] == field


def test_history_tells_what_was_measured_in_kilowatts_and_with_both_bounds(plant: Plant) -> None:
    plant.context.history = RecordedHistory()
    device = a_device(plant)
    reading, interval, register = plant.get(f"/v1/devices/{device['device_id']}/readings").json()["items"]
    assert (reading["power_kw"], reading["soc_frac"], reading["source"]) == (-1.2, 0.5, "device")
    assert (reading["energy_kwh"], reading["temperature_degc"]) == (None, None), "missing is not zero"
    shown = ("kind", "power_kw", "interval_start", "energy_kwh", "register_kwh")
    assert [tuple(one[name] for name in shown) for one in (reading, interval, register)] == [
        ("power", -1.2, None, None, None),
        ("interval_energy", None, at(-990), -0.3, None),
        ("register", None, None, None, -48211.7),
    ]
    rollup = plant.get(f"/v1/devices/{device['device_id']}/rollup").json()
    (quarter,) = rollup["items"]
    assert (quarter["power_mean_kw"], quarter["energy_kwh"], quarter["n_readings"]) == (-1.2, -0.3, 3)
    assert (quarter["interval_start"], quarter["interval_end"]) == (at(-900), at(0))
    assert at(-60) in rollup["missing"][0]
    made = plant.post("/v1/vpp/portfolios", {"name": "of one", "members": [device["device_id"]]}).json()
    summed = plant.get(f"/v1/vpp/portfolios/{made['portfolio_id']}/rollup").json()
    assert (summed["n_members"], summed["items"][0]["n_devices"], summed["items"][0]["energy_kwh"]) == (1, 1, -0.3)
