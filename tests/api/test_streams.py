"""Live streams: a picture at once and with each cycle; the event log resumed by id; the end when a key is revoked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.api.conftest import Plant, problem_of
from tests.api.test_dispatches import asked, totals

from unisono.api.auth import Caller
from unisono.api.routes import streams
from unisono.store import keys


class Listener:
    """Calls a stream's route and reads its events, without a server between."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.caller = Caller(plant.organisation_id, "key", "test", frozenset({"read"}))

    def request(self) -> Any:
        """Return a request that carries the key."""
        from starlette.requests import Request

        header = (b"authorization", f"Bearer {self.plant.key}".encode())
        return Request({"type": "http", "headers": [header], "app": self.plant.app, "method": "GET", "path": "/"})

    async def take(self, body: AsyncIterator[Any], n: int) -> list[tuple[str, str, dict[str, Any]]]:
        """Return the next ``n`` events: name, id, data."""
        found: list[tuple[str, str, dict[str, Any]]] = []
        async for chunk in body:
            fields = dict(text.split(": ", 1) for text in bytes(chunk).decode().strip().split("\n") if ": " in text)
            if "data" in fields:
                found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
            if len(found) == n:
                break
        return found


def test_a_portfolio_tells_its_picture_at_once_and_with_each_cycle(plant: Plant) -> None:
    made = plant.portfolio()
    listener = Listener(plant)

    async def main() -> list[Any]:
        response = await streams.stream_portfolio(
            made["portfolio_id"], listener.request(), listener.caller, plant.context
        )
        body = aiter(response.body_iterator)
        first = await listener.take(body, 1)
        plant.picture.fold_totals(totals(made["portfolio_no"]))
        return first + await listener.take(body, 1)

    before, after = asyncio.run(main())
    assert before[0] == after[0] == "status"
    assert before[2]["stale"]
    assert before[2]["power"]["power_kw"] is None
    assert after[2]["dispatchable_capacity_kw"] == 7.0


def test_the_event_log_is_resumed_behind_the_last_seen_entry(plant: Plant) -> None:
    made = plant.portfolio()
    path = f"/v1/vpp/portfolios/{made['portfolio_id']}"
    seen = plant.get(f"{path}/events").json()["items"][-1]["seq"]
    plant.post(f"{path}/dispatches", asked(), once="d")
    listener = Listener(plant)

    async def main() -> list[Any]:
        response = await streams.stream_events(
            listener.request(), listener.caller, plant.context, made["portfolio_id"], str(seen)
        )
        return await listener.take(aiter(response.body_iterator), 1)

    [(name, event_id, body)] = asyncio.run(main())
    assert (name, body["kind"]) == ("event", "dispatch.requested")
    assert int(event_id) == body["seq"] > seen
    problem_of(plant.get("/v1/stream/events", headers={"Last-Event-ID": "x"}), 422)


def test_a_dispatch_that_is_over_ends_its_stream(plant: Plant) -> None:
    made = plant.portfolio()
    dispatch = plant.post(f"/v1/vpp/portfolios/{made['portfolio_id']}/dispatches", asked(), once="d").json()
    plant.post(f"/v1/vpp/dispatches/{dispatch['dispatch_id']}/cancel", {}, once="c")
    response = plant.get(f"/v1/stream/dispatches/{dispatch['dispatch_id']}")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "event: end" in response.text
    assert plant.context.n_streams == 0


def test_a_stream_ends_when_its_key_is_revoked(plant: Plant) -> None:
    made = plant.portfolio()
    listener = Listener(plant)
    key_id = plant.get("/v1/keys").json()["items"][0]["key_id"]

    async def main() -> list[Any]:
        response = await streams.stream_portfolio(
            made["portfolio_id"], listener.request(), listener.caller, plant.context
        )
        body = aiter(response.body_iterator)
        first = await listener.take(body, 1)
        with plant.database.begin() as connection:
            keys.revoke(connection, plant.organisation_id, key_id, plant.clock.wall_ns())
        plant.clock.advance(streams.KEY_CHECK_S + 1)
        plant.picture.fold_totals(totals(made["portfolio_no"]))
        return first + await listener.take(body, 1)

    _, last = asyncio.run(main())
    assert last[0] == "end"
    assert "revoked" in last[2]["reason"]


def test_streams_are_bounded(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plant.portfolio()
    monkeypatch.setattr(streams, "STREAMS_MAX", 0)
    response = plant.get(f"/v1/stream/portfolios/{made['portfolio_id']}")
    assert problem_of(response, 429)["field"] == "live streams"
    assert response.headers["retry-after"] == "10"


def test_an_event_stream_of_no_portfolio_id_is_refused_by_its_field(plant: Plant) -> None:
    assert problem_of(plant.get("/v1/stream/events?portfolio_id=%00"), 422)["field"] == "portfolio_id"
