"""The recorder between a real nats-server and a real PostgreSQL: each cycle is on record once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select, text
from tests.store.history.make import DAY_NS
from tests.store.history.running import Records, running_nats, running_records

from unisono.base.clock import MovableClock
from unisono.base.errors import Unavailable
from unisono.bus import subjects
from unisono.bus.connection import Bus, connect
from unisono.engines.nats import NatsEndpoints
from unisono.model.dispatch import Dispatch, DispatchProgress, TargetPoint
from unisono.model.totals import LogEntry, OutcomeBatch
from unisono.services import recorder
from unisono.services.recorder import Recorder, RecorderCounters
from unisono.store import dispatches, event_log, organisations, portfolios
from unisono.store.database import Database
from unisono.store.identity import fresh_id
from unisono.store.tables.dispatches import DISPATCH_CYCLE


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    with running_records(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsEndpoints]:
    with running_nats(tmp_path / "nats") as (_, endpoints):
        yield endpoints


def some_dispatch(database: Database) -> Dispatch:
    with database.begin() as connection:
        owner = organisations.add(connection, "owner", DAY_NS)
        portfolio = portfolios.create(connection, owner.organisation_id, "all", DAY_NS)
        return dispatches.create(
            connection,
            Dispatch(
                dispatch_id=fresh_id("dispatch", DAY_NS),
                revision=1,
                organisation_id=owner.organisation_id,
                portfolio_id=portfolio.portfolio_id,
                portfolio_no=portfolio.portfolio_no,
                kind="change_w",
                start_ns=DAY_NS,
                end_ns=DAY_NS + 3600 * 10**9,
                targets=(TargetPoint(DAY_NS, 5000.0),),
            ),
        )


def outcome(dispatch: Dispatch, cycle: int, state: str = "active", epoch: int = 1) -> OutcomeBatch:
    number_fields = {
        name: 0 for name in DispatchProgress.__struct_fields__ if name.startswith("n_") or name.endswith("_w")
    }
    progress = DispatchProgress(
        **number_fields,
        dispatch_id=dispatch.dispatch_id,
        revision=1,
        organisation_id=dispatch.organisation_id,
        portfolio_id=dispatch.portfolio_id,
        shard=0,
        epoch=epoch,
        cycle=cycle,
        at_ns=DAY_NS + cycle,
        state=state,
    )
    entry = LogEntry(
        at_ns=DAY_NS + cycle, kind="dispatch.cycle", organisation_id=dispatch.organisation_id, body={"cycle": cycle}
    )
    return OutcomeBatch(shard=0, epoch=epoch, cycle=cycle, at_ns=DAY_NS + cycle, progress=(progress,), log=(entry,))


def play(records: Records, endpoints: NatsEndpoints, scene: Callable[[Bus, Database], Awaitable[None]]) -> None:
    async def run() -> None:
        bus = await connect(endpoints.nats_url, endpoints.core_user, endpoints.core_password)
        try:
            await bus.ensure_streams()
            with records.database() as database:
                await asyncio.wait_for(scene(bus, database), 60)
        finally:
            await bus.close()

    asyncio.run(run())


async def publish(bus: Bus, *batches: OutcomeBatch) -> None:
    for batch in batches:
        await bus.publish_kept(subjects.outcomes(0, batch.epoch), msgspec.msgpack.encode(batch))


async def step_until(one: Recorder, n_messages: int) -> None:
    while one.counters.n_messages < n_messages:
        with contextlib.suppress(Unavailable):
            await one.step(wait_s=0.2)


def on_record(database: Database, dispatch: Dispatch) -> tuple[list[int], str, int]:
    with database.begin() as connection:
        in_order = select(DISPATCH_CYCLE.c.cycle).order_by(DISPATCH_CYCLE.c.epoch, DISPATCH_CYCLE.c.cycle)
        cycles = list(
            connection.execute(in_order.where(DISPATCH_CYCLE.c.dispatch_no == dispatch.dispatch_no)).scalars()
        )
        state = dispatches.get(connection, dispatch.organisation_id, dispatch.dispatch_id).state
        return cycles, state, event_log.verify(connection).seq


def test_cycles_states_and_entries_are_recorded_once_however_often_they_come(
    records: Records, nats: NatsEndpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(bus: Bus, database: Database) -> None:
        dispatch = some_dispatch(database)
        first = Recorder(bus, database, MovableClock(DAY_NS), RecorderCounters())

        async def killed(self: object, messages: object) -> None:
            raise Unavailable("NATS", "killed before the acknowledgement")

        # The sender did not hear that cycle 1 was kept, and sent it again.
        await publish(bus, outcome(dispatch, 0), outcome(dispatch, 1), outcome(dispatch, 1))
        with monkeypatch.context() as patch:
            patch.setattr("unisono.bus.consumers.Durable.ack", killed)
            await step_until(first, 3)
        assert on_record(database, dispatch) == ([0, 1], "active", 2)
        second = Recorder(bus, database, MovableClock(DAY_NS), RecorderCounters())
        # A successor of the owner counts its cycles anew, under a higher epoch.
        await publish(bus, outcome(dispatch, 1, epoch=2), outcome(dispatch, 2, "completed", epoch=2))
        await step_until(second, 2)
        assert second.counters.n_messages == 2
        assert on_record(database, dispatch) == ([0, 1, 1, 2], "completed", 4)
        await bus.publish_kept(subjects.outcomes(0, 2), b"nonsense")
        await step_until(second, 3)
        assert second.counters.n_damaged == 1

    play(records, nats, scene)


def test_an_outage_of_postgres_is_waited_out(records: Records, nats: NatsEndpoints) -> None:
    async def scene(bus: Bus, database: Database) -> None:
        dispatch = some_dispatch(database)
        counters = RecorderCounters()
        running = asyncio.create_task(recorder.run(bus, database, MovableClock(DAY_NS), counters=counters))
        await asyncio.to_thread(records.engine.stop)
        await publish(bus, *(outcome(dispatch, cycle) for cycle in range(5)))
        await asyncio.to_thread(records.engine.start)
        pace = asyncio.Event()
        while counters.n_messages < 5:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pace.wait(), 0.02)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert on_record(database, dispatch)[0] == [0, 1, 2, 3, 4]
        with database.begin() as connection:
            assert connection.execute(select(text("count(*)")).select_from(text("event_log"))).scalar_one() == 5

    play(records, nats, scene)
