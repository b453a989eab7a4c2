"""An owner without its checkpoint tells again what it replays; the event log holds each thing once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from tests.plant.fake_fleet import FakeFleet, battery, dispatch_of, fleet_of, opt_out_of
from tests.store.history.running import Records, running_records

from unisono.model.dispatch import Request
from unisono.model.registry import RegistryBatch
from unisono.model.totals import LogEntry
from unisono.plant.replay import Recorded, replay
from unisono.plant.state import new_state
from unisono.plant.step import Arrival
from unisono.services.told_once import news
from unisono.store import event_log


@pytest.fixture
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    with running_records(tmp_path_factory.mktemp("postgres")) as running:
        yield running


class Story:
    """A fleet whose streams are kept whole, and all that its owners told."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.arrivals: list[Arrival] = []
        self.told: list[LogEntry] = []
        self.fleet = fleet_of([battery(no, merit=no) for no in range(1, 5)])
        everything = (*(device.record for device in self.fleet.devices), *self.fleet.portfolios)
        self.registry = [RegistryBatch(everything)]

    def cycle(self, n: int = 1, *requests: Request) -> None:
        for at in range(n):
            self.arrivals += self.fleet.arrivals
            new = requests if at == 0 else ()
            self.requests += new
            self.told += self.fleet.cycle(*new).outcomes.log

    def lose_everything(self, epoch: int) -> None:
        """Replace the owner by one that has nothing but the streams."""
        fleet: FakeFleet = self.fleet
        fleet.at_s += 4.0
        fleet.state = new_state(0, epoch)
        recorded = Recorded(self.arrivals, self.requests, self.registry, [f for f in fleet.frames if len(f)])
        replay(fleet.state, recorded, fleet.now_ns, fleet.mono_ns)


def kinds(entries: list[LogEntry]) -> list[str]:
    return [entry.kind for entry in entries]


def write(records: Records, entries: list[LogEntry], n_at_once: int) -> list[dict[str, Any]]:
    with records.database() as database:
        for at in range(0, len(entries), n_at_once):
            with database.begin() as connection:
                event_log.append(connection, news(connection, entries[at : at + n_at_once]))
        with database.begin() as connection:
            event_log.verify(connection)
            rows = connection.execute(text("SELECT kind, subject_id, body FROM event_log ORDER BY seq")).all()
    return [row._asdict() for row in rows]


@pytest.mark.parametrize("n_at_once", [1, 1000])
def test_after_a_recovery_without_a_checkpoint_nothing_is_on_the_log_twice(records: Records, n_at_once: int) -> None:
    story = Story()
    fleet = story.fleet
    over = dispatch_of(fleet, 10_000.0, duration_s=40.0, dispatch_id="dsp_over", requested_ns=fleet.now_ns)
    story.cycle(15, over)
    spec = dispatch_of(fleet, 20_000.0, duration_s=400.0, requested_ns=fleet.now_ns)
    story.cycle(4, spec)
    out = opt_out_of(fleet, 3, 3600.0)
    story.cycle(8, msgspec.structs.replace(spec, revision=2), out)
    story.cycle(2, msgspec.structs.replace(out, end_ns=fleet.now_ns))
    before = kinds(story.told)
    assert {"dispatch.accepted", "dispatch.completed", "dispatch.revised", "device.opt_out_withdrawn"} <= set(before)

    story.lose_everything(2)
    story.cycle(10)
    again = kinds(story.told)[len(before) :]
    assert {"dispatch.accepted", "dispatch.activated"} <= set(again)
    story.lose_everything(3)
    story.cycle(120)

    on_log = write(records, story.told, n_at_once)
    found = [row["kind"] for row in on_log]
    assert found[: len(before)] == before
    assert sorted(found[len(before) :]) == sorted(set(found[len(before) :]) - set(before) | {"dispatch.completed"})
    completed = [row["subject_id"] for row in on_log if row["kind"] == "dispatch.completed"]
    assert completed == ["dsp_over", "dsp_1"]


def entry(kind: str, subject_id: str = "dsp_1", **body: object) -> LogEntry:
    return LogEntry(at_ns=1, kind=kind, organisation_id="org_1", subject_id=subject_id, body=body)


def test_shortfalls_and_suspicions_that_are_new_are_told(records: Records) -> None:
    begins, ends = entry("shortfall.begins", shard=0), entry("shortfall.ends", shard=0)
    suspected = [entry("device.suspected", "dev_1", reason="frozen", lease_seq=n, measured_ns=None) for n in (5, 6)]
    other = [entry("shortfall.begins", shard=1), entry("shortfall.begins", "dsp_2", shard=0), entry("gate.trimmed", "")]
    told = [begins, ends, begins, begins, ends, *suspected, *suspected, *other]
    on_log = write(records, told, 2)
    assert [row["kind"] for row in on_log] == kinds([begins, ends, begins, ends, *suspected, *other])
