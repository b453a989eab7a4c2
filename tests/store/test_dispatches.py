from __future__ import annotations

import threading

import msgspec
import pytest
from tests.store.fleets import NOW_NS, enrol_batteries

from unisono.base.errors import Conflict, InvalidInput, NotFound
from unisono.model.commitment import Commitment, CommitmentInterval
from unisono.model.dispatch import Dispatch, DispatchProgress, TargetPoint, decode_request
from unisono.model.registry import decode_registry
from unisono.store import commitments, dispatches, organisations, outbox, portfolios, views
from unisono.store.announce import announce_everything
from unisono.store.database import Database
from unisono.store.identity import fresh_id

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def wanted(database: Database, organisation_id: str) -> Dispatch:
    with database.begin() as connection:
        portfolio = portfolios.create(connection, organisation_id, "all", NOW_NS)
    return Dispatch(
        dispatch_id=fresh_id("dispatch", NOW_NS),
        revision=1,
        organisation_id=organisation_id,
        portfolio_id=portfolio.portfolio_id,
        portfolio_no=portfolio.portfolio_no,
        kind="change_w",
        start_ns=NOW_NS,
        end_ns=NOW_NS + HOUR_NS,
        targets=(TargetPoint(NOW_NS, 5e6), TargetPoint(NOW_NS + HOUR_NS // 2, 2.5e6)),
        ramp_s=60.0,
        is_test=True,
        requested_ns=NOW_NS - 1,
    )


def requests(database: Database) -> list[object]:
    with database.begin() as connection:
        return [decode_request(row.payload) for row in outbox.waiting(connection) if row.subject == "requests.0"]


def progress(dispatch: Dispatch, cycle: int, state: str = "active", **more: object) -> DispatchProgress:
    names = [field.name for field in msgspec.structs.fields(DispatchProgress)]
    numbers = {name: 1.5 if name.endswith("_w") else 2 for name in names if name.endswith("_w") or name[:2] == "n_"}
    facts = {
        "dispatch_id": dispatch.dispatch_id,
        "revision": dispatch.revision,
        "organisation_id": dispatch.organisation_id,
        "portfolio_id": dispatch.portfolio_id,
        "shard": 0,
        "epoch": 1,
        "cycle": cycle,
        "at_ns": NOW_NS + cycle,
        "state": state,
    }
    return DispatchProgress(**{**numbers, **facts, **more})  # type: ignore[arg-type]


def test_a_dispatch_and_its_message_are_kept_together_or_not_at_all(database: Database, wanted: Dispatch) -> None:
    class Crash(Exception):
        pass

    with pytest.raises(Crash), database.begin() as connection:
        dispatches.create(connection, wanted)
        raise Crash
    assert requests(database) == []
    with pytest.raises(NotFound), database.begin() as connection:
        dispatches.get(connection, wanted.organisation_id, wanted.dispatch_id)
    with database.begin() as connection:
        kept = dispatches.create(connection, wanted, requested_by="key_1", partner_reference="d-17")
    assert kept.dispatch_no > 0
    assert requests(database) == [kept]
    with database.begin() as connection:
        stored = dispatches.get(connection, wanted.organisation_id, wanted.dispatch_id)
        assert dispatches.by_no(connection, kept.dispatch_no) == stored
        assert dispatches.open_ones(connection) == [kept]
    assert stored.dispatch == kept
    assert (stored.state, stored.requested_by, stored.partner_reference) == ("scheduled", "key_1", "d-17")


def test_a_dispatch_is_revised_in_order_and_cancelled_once(database: Database, wanted: Dispatch) -> None:
    with database.begin() as connection:
        first = dispatches.create(connection, wanted)
        second = dispatches.revise(connection, msgspec.structs.replace(wanted, revision=2, end_ns=NOW_NS + 2 * HOUR_NS))
        assert second.dispatch_no == first.dispatch_no
        with pytest.raises(Conflict, match="is at revision 2: the next one is 3, not 2"):
            dispatches.revise(connection, msgspec.structs.replace(wanted, revision=2))
        ours = (connection, wanted.organisation_id, wanted.dispatch_id)
        third = dispatches.cancel(*ours, NOW_NS + 9, reason="called off")
        assert (third.revision, third.is_cancelled, third.end_ns) == (3, True, second.end_ns)
        assert third.reason == "called off"
        assert dispatches.cancel(*ours, NOW_NS + 10) == third
        with pytest.raises(Conflict, match="is cancelled"):
            dispatches.revise(connection, msgspec.structs.replace(wanted, revision=4))
        assert dispatches.revisions(connection, wanted.organisation_id, wanted.dispatch_id) == [first, second, third]
        assert dispatches.get(connection, wanted.organisation_id, wanted.dispatch_id).state == "cancelled"
    assert requests(database) == [first, second, third]


def test_of_two_revisions_at_once_one_wins(database: Database, wanted: Dispatch) -> None:
    with database.begin() as connection:
        dispatches.create(connection, wanted)
    outcomes: list[str] = []

    def revise(reason: str) -> None:
        try:
            with database.begin() as connection:
                dispatches.revise(connection, msgspec.structs.replace(wanted, revision=2, reason=reason))
            outcomes.append("kept")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=revise, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict", "conflict", "conflict", "kept"]
    assert len(requests(database)) == 2


def test_nobody_touches_the_dispatch_of_somebody_else(database: Database, wanted: Dispatch) -> None:
    with database.begin() as connection:
        dispatches.create(connection, wanted)
        stranger = organisations.add(connection, "Other", NOW_NS).organisation_id
        with pytest.raises(NotFound, match="dispatch"):
            dispatches.cancel(connection, stranger, wanted.dispatch_id, NOW_NS)
        with pytest.raises(NotFound, match="portfolio"):
            theirs = msgspec.structs.replace(wanted, dispatch_id=fresh_id("dispatch", 1), organisation_id=stranger)
            dispatches.create(connection, theirs)


def test_an_event_that_ends_before_it_starts_is_refused(database: Database, wanted: Dispatch) -> None:
    with pytest.raises(InvalidInput, match="dispatch_revision_window_check"), database.begin() as connection:
        dispatches.create(connection, msgspec.structs.replace(wanted, end_ns=wanted.start_ns))


def test_progress_is_kept_once_and_moves_the_state_forward_only(database: Database, wanted: Dispatch) -> None:
    with database.begin() as connection:
        kept = dispatches.create(connection, wanted)
        rows = [progress(kept, 1), progress(kept, 2, n_frames=7, frames_digest="ab")]
        assert dispatches.record_progress(connection, rows) == 2
        assert dispatches.record_progress(connection, rows) == 0
        unknown = msgspec.structs.replace(rows[0], dispatch_id="dsp_unknown")
        assert dispatches.record_progress(connection, [unknown]) == 0

        def state() -> str:
            return dispatches.get(connection, wanted.organisation_id, wanted.dispatch_id).state

        assert state() == "active"
        dispatches.record_progress(connection, [progress(kept, 3, "completed")])
        dispatches.record_progress(connection, [progress(kept, 4, "active")])
        assert state() == "completed"
        with pytest.raises(Conflict, match="is completed"):
            dispatches.cancel(connection, wanted.organisation_id, wanted.dispatch_id, NOW_NS)


def test_what_a_cancelled_dispatch_still_reports_does_not_wake_it(database: Database, wanted: Dispatch) -> None:
    with database.begin() as connection:
        kept = dispatches.create(connection, wanted)
        dispatches.cancel(connection, wanted.organisation_id, wanted.dispatch_id, NOW_NS)
        dispatches.record_progress(connection, [progress(kept, 1, "active")])
        assert dispatches.get(connection, wanted.organisation_id, wanted.dispatch_id).state == "cancelled"
        assert dispatches.open_ones(connection) == []


def test_everything_can_be_announced_again_for_a_stream_that_was_lost(database: Database, wanted: Dispatch) -> None:
    with database.begin() as connection:
        enrol_batteries(connection, wanted.organisation_id, 3)
        kept = dispatches.create(connection, wanted)
        over = dispatches.create(connection, msgspec.structs.replace(wanted, dispatch_id=fresh_id("dispatch", 1)))
        dispatches.cancel(connection, wanted.organisation_id, over.dispatch_id, NOW_NS)
        first = outbox.waiting(connection)
        outbox.mark_published(connection, [row.outbox_id for row in first], NOW_NS)
        # One gateway, three devices, one portfolio, one dispatch that is open.
        assert announce_everything(connection, NOW_NS) == 6
        again = outbox.waiting(connection)
    assert [decode_request(row.payload) for row in again if row.subject == "requests.0"] == [kept]
    records = [record for row in again[:-1] for record in decode_registry(row.payload).everything()]
    before = [
        record for row in first if row.subject == "registry.0" for record in decode_registry(row.payload).everything()
    ]
    assert sorted(map(repr, records)) == sorted(map(repr, before))


def test_commitments_are_owed_until_they_are_withdrawn(database: Database, wanted: Dispatch) -> None:
    hours = tuple(
        CommitmentInterval(start_ns=i * HOUR_NS, end_ns=(i + 1) * HOUR_NS, power_w=1000.0 * i) for i in range(3)
    )
    promise = Commitment(
        commitment_id="cmt_1",
        organisation_id=wanted.organisation_id,
        portfolio_id=wanted.portfolio_id,
        counterparty="utility",
        basis="award",
        currency="USD",
        intervals=hours,
    )
    with database.begin() as connection:
        commitments.add(connection, promise, NOW_NS)
        owner = (wanted.organisation_id, wanted.portfolio_id)
        assert commitments.owed(connection, *owner, HOUR_NS, 2 * HOUR_NS) == [hours[1]]
        commitments.withdraw(connection, wanted.organisation_id, "cmt_1", NOW_NS)
        assert commitments.owed(connection, *owner, 0, 9 * HOUR_NS) == []
        with pytest.raises(NotFound):
            commitments.withdraw(connection, "org_other", "cmt_1", NOW_NS)


def test_an_outcome_goes_when_its_days_are_over_and_the_log_says_so(database: Database, wanted: Dispatch) -> None:
    younger = msgspec.structs.replace(
        wanted, dispatch_id=fresh_id("dispatch", NOW_NS + 1), end_ns=wanted.end_ns + 2 * HOUR_NS
    )
    with database.begin() as connection:
        for dispatch in (wanted, younger):
            dispatches.create(connection, dispatch)
            dispatches.record_progress(connection, [progress(dispatch, cycle) for cycle in (1, 2, 3)])
        before_ns, now_ns = wanted.end_ns + HOUR_NS, younger.end_ns + HOUR_NS
        assert dispatches.forget_outcomes(connection, wanted.end_ns, now_ns) == 0
        assert dispatches.forget_outcomes(connection, before_ns, now_ns) == 3
        assert dispatches.forget_outcomes(connection, before_ns, now_ns) == 0
        old, new = (dispatches.get(connection, wanted.organisation_id, one.dispatch_id) for one in (wanted, younger))
        left = [
            len(views.dispatch_cycles(connection, one.dispatch.dispatch_no, after=(-1, -1, -1), limit=9))
            for one in (old, new)
        ]
        assert left == [0, 3]
        [entry] = views.events(connection, wanted.organisation_id, portfolio_id="", after=0, limit=9)
        assert (entry["kind"], entry["subject_id"]) == (dispatches.OUTCOME_EXPIRED, wanted.dispatch_id)
        assert entry["body"] == {"n_cycles": 3}
