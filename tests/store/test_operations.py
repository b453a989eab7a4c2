from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.store.fleets import NOW_NS

from unisono.base.errors import Conflict, InvalidInput, NotFound
from unisono.store import alarms, idempotency, jobs, keys, leases, organisations, positions
from unisono.store.database import Database
from unisono.store.idempotency import Answer, Claim

S = 1_000_000_000


def claim(organisation_id: str, body: bytes = b"{}", key: str = "k1") -> Claim:
    return Claim(organisation_id=organisation_id, key=key, endpoint="POST /v1/vpp/dispatches", body=body)


def test_the_same_request_gets_the_same_answer_and_another_body_a_conflict(
    database: Database, organisation_id: str
) -> None:
    with database.begin() as connection:
        attempt = idempotency.begin(connection, claim(organisation_id), NOW_NS)
        assert attempt.answer is None
        idempotency.finish(connection, attempt, 201, b"made", NOW_NS)
    with database.begin() as connection:
        assert idempotency.begin(connection, claim(organisation_id), NOW_NS + 1).answer == Answer(201, b"made")
    with pytest.raises(Conflict, match="used with another body"), database.begin() as connection:
        idempotency.begin(connection, claim(organisation_id, b"[]"), NOW_NS + 1)
    with database.begin() as connection:
        other = organisations.add(connection, "Other", NOW_NS).organisation_id
        assert idempotency.begin(connection, claim(other), NOW_NS).answer is None, "a key is its organisation's own"


def test_of_many_threads_one_does_the_work_and_the_others_hear_why_not(
    database: Database, organisation_id: str
) -> None:
    n_threads = 6
    n_done, said = [], []
    begun, everyone_asked = threading.Event(), threading.Semaphore(0)

    def work(number: int) -> None:
        try:
            with database.begin() as connection:
                if number:
                    begun.wait(10)
                attempt = idempotency.begin(connection, claim(organisation_id), NOW_NS)
                begun.set()
                for _ in range(n_threads - 1):
                    assert everyone_asked.acquire(timeout=10)
                n_done.append(number)
                idempotency.finish(connection, attempt, 200, b"once", NOW_NS)
        except Conflict as refused:
            said.append(str(refused))
        finally:
            everyone_asked.release()

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(work, range(n_threads)))
    assert n_done == [0]
    assert len(said) == n_threads - 1
    assert all("still in progress" in words for words in said)
    with database.begin() as connection:
        assert idempotency.begin(connection, claim(organisation_id), NOW_NS).answer == Answer(200, b"once")


def test_work_that_fails_leaves_the_key_free(database: Database, organisation_id: str) -> None:
    with pytest.raises(InvalidInput), database.begin() as connection:
        idempotency.begin(connection, claim(organisation_id), NOW_NS)
        raise InvalidInput("end", 1, "must be after start")
    with database.begin() as connection:
        assert idempotency.begin(connection, claim(organisation_id), NOW_NS).answer is None


def test_a_committed_claim_is_taken_over_only_after_its_time(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        first = idempotency.begin(connection, claim(organisation_id), NOW_NS)
    with pytest.raises(Conflict, match="still in progress"), database.begin() as connection:
        idempotency.begin(connection, claim(organisation_id), NOW_NS + 59 * S)
    with database.begin() as connection:
        second = idempotency.begin(connection, claim(organisation_id), NOW_NS + 61 * S)
        assert (second.number, second.answer) == (2, None)
    with pytest.raises(Conflict, match="taken over"), database.begin() as connection:
        idempotency.finish(connection, first, 200, b"late", NOW_NS + 62 * S)
    with database.begin() as connection:
        idempotency.abandon(connection, second)
        assert idempotency.begin(connection, claim(organisation_id), NOW_NS + 63 * S).number == 1
        assert idempotency.prune(connection, NOW_NS + 64 * S) == 1


def test_an_epoch_grows_with_each_owner(database: Database) -> None:
    with database.begin() as connection:
        assert leases.current(connection, 0) is None
        assert leases.acquire(connection, 0, "a", 10.0, now_ns=NOW_NS) == 1
        assert leases.acquire(connection, 0, "b", 10.0, now_ns=NOW_NS + 9 * S) is None
        assert leases.renew(connection, 0, "a", 1, 10.0, now_ns=NOW_NS + 9 * S)
        assert leases.acquire(connection, 0, "b", 10.0, now_ns=NOW_NS + 18 * S) is None
        assert leases.acquire(connection, 0, "b", 10.0, now_ns=NOW_NS + 19 * S) == 2
        assert not leases.renew(connection, 0, "a", 1, 10.0, now_ns=NOW_NS + 19 * S)
        assert not leases.release(connection, 0, "a", 1)
        assert leases.acquire(connection, 0, "b", 10.0, now_ns=NOW_NS + 20 * S) == 3, "the same place, started again"
        assert leases.release(connection, 0, "b", 3)
        assert leases.acquire(connection, 0, "c", 10.0, now_ns=NOW_NS + 20 * S) == 4
        assert leases.acquire(connection, 1, "c", 10.0, now_ns=NOW_NS) == 5, "no two shards ever have the same"


def test_of_many_owners_at_once_one_gets_the_shard_by_the_servers_clock(database: Database) -> None:
    def take(owner: int) -> int | None:
        with database.begin() as connection:
            return leases.acquire(connection, 0, f"owner-{owner}", 60.0)

    with ThreadPoolExecutor(6) as pool:
        assert sorted(epoch for epoch in pool.map(take, range(6)) if epoch is not None) == [1]


def test_a_key_is_found_by_its_token_until_it_expires_or_is_revoked(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        key, token = keys.make(
            connection, organisation_id, "desk", ["read", "dispatch"], NOW_NS, expires_at_ns=NOW_NS + 5
        )
        assert keys.find(connection, token) == key
        assert keys.find(connection, token + "x") is None
        assert (key.refusal(NOW_NS + 4), key.refusal(NOW_NS + 5)) == ("", "expired")
        revoked = keys.revoke(connection, organisation_id, key.key_id, NOW_NS + 1)
        assert revoked.refusal(NOW_NS + 1) == "revoked"
        assert keys.revoke(connection, organisation_id, key.key_id, NOW_NS + 9) == revoked
        with pytest.raises(NotFound):
            keys.revoke(connection, "org_other", key.key_id, NOW_NS)
        with pytest.raises(InvalidInput, match="expires_at"):
            keys.make(connection, organisation_id, "late", ["read"], NOW_NS, expires_at_ns=NOW_NS)
        stored = connection.exec_driver_sql("SELECT api_key::text FROM api_key").scalar_one()
    assert token not in stored
    assert token.removeprefix("uni_") not in stored


def test_a_job_goes_on_where_its_worker_died(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        made = jobs.create(connection, organisation_id, "enrolment", b"lines", NOW_NS, n_total=10)
        job, request = _claimed(connection, "w1", NOW_NS + 1)
        assert (job.job_id, request, job.state) == (made.job_id, b"lines", "running")
        bad = jobs.RowError(row=2, field="zip", value="00000", rule="is no ZIP", partner_reference="home-2")
        jobs.advance(connection, job, NOW_NS + 2, n_done=5, errors=[bad])
    with database.begin() as connection:
        assert jobs.claim(connection, "w2", NOW_NS + 50 * S) is None
        taken, request = _claimed(connection, "w2", NOW_NS + 70 * S)
        assert (taken.n_done, taken.n_failed, request) == (5, 1, b"lines")
    with pytest.raises(Conflict, match="is not run by 'w1'"), database.begin() as connection:
        jobs.advance(connection, job, NOW_NS + 71 * S, n_done=6)
    with database.begin() as connection:
        jobs.advance(connection, taken, NOW_NS + 72 * S, n_done=10)
        jobs.finish(connection, taken, NOW_NS + 73 * S, result={"n_new": 9})
        done = jobs.get(connection, organisation_id, made.job_id)
        assert (done.state, done.n_done, done.n_failed, done.result) == ("completed", 10, 1, {"n_new": 9})
        assert jobs.claim(connection, "w3", NOW_NS + 999 * S) is None
        with pytest.raises(NotFound):
            jobs.get(connection, "org_other", made.job_id)


def _claimed(connection: object, worker: str, now_ns: int) -> tuple[jobs.Job, bytes]:
    found = jobs.claim(connection, worker, now_ns)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_an_alarm_is_open_once_however_often_it_is_raised(database: Database, organisation_id: str) -> None:
    with database.begin() as connection:
        first = alarms.raise_alarm(connection, organisation_id, "gateway_silent", "gwy_1", NOW_NS, detail="60 s")
        again = alarms.raise_alarm(
            connection, organisation_id, "gateway_silent", "gwy_1", NOW_NS + 5, detail="90 s", severity="critical"
        )
        assert (first.n_raised, again.n_raised, again.alarm_id) == (1, 2, first.alarm_id)
        assert (again.raised_ns, again.detail, again.severity, again.state) == (NOW_NS, "90 s", "critical", "raised")
        seen = alarms.acknowledge(connection, organisation_id, first.alarm_id, NOW_NS + 6, by="key_1", note="crew")
        later = alarms.acknowledge(connection, organisation_id, first.alarm_id, NOW_NS + 7, by="key_2")
        assert (seen.state, later) == ("acknowledged", seen)
        assert alarms.open_ones(connection, organisation_id) == [seen]
        cleared = alarms.clear(connection, organisation_id, "gateway_silent", "gwy_1", NOW_NS + 8)
        assert cleared is not None
        assert cleared.state == "cleared"
        assert alarms.clear(connection, organisation_id, "gateway_silent", "gwy_1", NOW_NS + 9) is None
        new = alarms.raise_alarm(connection, organisation_id, "gateway_silent", "gwy_1", NOW_NS + 10)
        assert (new.n_raised, new.alarm_id == first.alarm_id) == (1, False)
        with pytest.raises(NotFound):
            alarms.acknowledge(connection, "org_other", new.alarm_id, NOW_NS, by="x")


def test_a_position_only_goes_forward_unless_it_is_reset(database: Database) -> None:
    with database.begin() as connection:
        assert positions.get(connection, "recorder") == 0
        assert positions.advance(connection, "recorder", 5)
        assert not positions.advance(connection, "recorder", 5)
        assert not positions.advance(connection, "recorder", 4)
        assert positions.advance(connection, "recorder", 9)
        positions.reset_to(connection, "recorder", 3)
        assert positions.get(connection, "recorder") == 3
