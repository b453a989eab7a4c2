"""Alarms over the API: listed, acknowledged once, cleared by themselves."""

from __future__ import annotations

from tests.api.conftest import NOW_NS, Plant, problem_of
from tests.api.test_dispatches import totals

from unisono.engines.room import Room
from unisono.services.alarms import COVERAGE, DISK_FILLING, OUTBOX_BACKLOG, REALTIME_SILENT, AlarmLoop, AlarmSettings
from unisono.store import alarms

SETTINGS = AlarmSettings(hold_s=1, clear_s=1)


def test_the_loop_raises_and_clears_what_the_picture_and_the_outbox_say(lone_plant: Plant) -> None:
    plant = lone_plant
    made = plant.portfolio()
    loop = AlarmLoop(plant.database, plant.picture, plant.clock, SETTINGS)

    for _ in range(3):
        loop.look()
        plant.clock.advance(11)
    found = {one["kind"] for one in plant.get("/v1/alarms").json()["items"]}
    assert found == {REALTIME_SILENT, OUTBOX_BACKLOG}
    plant.picture.fold_totals(totals(made["portfolio_no"], completeness_frac=0.5))
    loop.look()
    plant.picture.fold_totals(totals(made["portfolio_no"], completeness_frac=0.5))
    plant.clock.advance(2)
    loop.look()
    kinds = {one["kind"] for one in plant.get("/v1/alarms").json()["items"]}
    assert kinds == {COVERAGE, OUTBOX_BACKLOG}
    everything = plant.get("/v1/alarms?open_only=false").json()["items"]
    assert {one["kind"]: one["state"] for one in everything}[REALTIME_SILENT] == "cleared"
    events = plant.get(f"/v1/vpp/portfolios/{made['portfolio_id']}/events").json()["items"]
    assert events[-1]["kind"] == "alarm.raised"


def test_a_disk_that_fills_up_is_an_alarm_until_there_is_room(lone_plant: Plant) -> None:
    plant, rooms = lone_plant, [Room(19, 100), Room(18, 100), Room(30, 100), Room(30, 100)]
    loop = AlarmLoop(plant.database, plant.picture, plant.clock, SETTINGS, room=lambda: rooms.pop(0))

    def seen() -> list[tuple[str, str]]:
        loop.look()
        plant.clock.advance(2)
        everything = plant.get("/v1/alarms?open_only=false").json()["items"]
        return [(one["state"], one["severity"]) for one in everything if one["kind"] == DISK_FILLING]

    assert [seen(), seen(), seen(), seen()] == [[], [("raised", "critical")], *[[("cleared", "critical")]] * 2]


def test_the_end_of_an_alarm_says_what_is_so_now_and_its_words_follow_before(lone_plant: Plant) -> None:
    plant = lone_plant
    portfolio = plant.portfolio()
    loop = AlarmLoop(plant.database, plant.picture, plant.clock, SETTINGS)

    def look(fresh_frac: float, seconds: float) -> None:
        plant.clock.advance(seconds)
        plant.picture.fold_totals(totals(portfolio["portfolio_no"], completeness_frac=fresh_frac))
        loop.look()

    look(0.5, 0)
    look(0.5, 2)
    look(0.25, 61)
    (words,) = (one["detail"] for one in plant.get("/v1/alarms").json()["items"] if one["kind"] == COVERAGE)
    assert words.startswith("25.0% of")
    # Another process takes over.
    loop = AlarmLoop(plant.database, plant.picture, plant.clock, SETTINGS)
    look(0.9, 2)
    look(0.9, 2)
    entries = plant.get(f"/v1/vpp/portfolios/{portfolio['portfolio_id']}/events").json()["items"]
    (cleared,) = (entry["body"] for entry in entries if entry["kind"] == "alarm.cleared")
    assert cleared["detail"].startswith("90.0% of")
    assert cleared["was"].startswith("25.0% of")


def test_the_first_who_has_seen_it_stays_on_record(plant: Plant) -> None:
    with plant.database.begin() as connection:
        raised = alarms.raise_alarm(connection, plant.organisation_id, "coverage_below_floor", "pfo_x", NOW_NS)
    path = f"/v1/alarms/{raised.alarm_id}/acknowledge"
    assert plant.post(path, {"note": "crew informed"}).json()["state"] == "acknowledged"
    again = plant.post(path, {"note": "me too"}).json()
    assert (again["acknowledged_by"], again["note"]) == ("test", "crew informed")
    _, stranger = plant.organisation("alarm stranger")
    problem_of(plant.post(path, {}, key=stranger), 404)
    assert plant.get("/v1/alarms", key=stranger).json()["items"] == []
