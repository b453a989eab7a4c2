from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from tests.store.fleets import NOW_NS

from unisono.base.errors import Conflict, DamagedRecord
from unisono.model.totals import LogEntry
from unisono.store import event_log
from unisono.store.database import Database
from unisono.store.event_log import Head

BODY: dict[str, object] = {"target_w": 1e2, "digest": "ab", "rows": [1, 2.5, None], "ümlaut": {"b": 1, "a": True}}


def entry(number: int, **body: object) -> LogEntry:
    return LogEntry(
        at_ns=NOW_NS + number, kind="dispatch.accepted", organisation_id="org_1", body={**BODY, **body, "n": number}
    )


def tamper(database: Database, statement: str) -> None:
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE event_log DISABLE TRIGGER event_log_append_only"))
        connection.execute(text(statement))
        connection.execute(text("ALTER TABLE event_log ENABLE TRIGGER event_log_append_only"))


def fill(database: Database, n: int = 10) -> Head:
    with database.begin() as connection:
        return event_log.append(connection, [entry(number) for number in range(n)])


def test_an_empty_log_verifies(database: Database) -> None:
    with database.begin() as connection:
        assert event_log.verify(connection) == event_log.append(connection, []) == Head(0, "00" * 32)
        assert event_log.verify(connection, Head(0, "00" * 32)).seq == 0


def test_the_chain_goes_on_over_transactions_and_verifies(database: Database) -> None:
    first = fill(database)
    with database.begin() as connection:
        second = event_log.append(connection, [entry(10, ratio=math.nan, huge=2**60)])
        assert (first.seq, second.seq) == (10, 11)
        assert event_log.head(connection) == second
        assert event_log.verify(connection) == second
        assert event_log.verify(connection, expected=first) == second
        body = connection.execute(text("SELECT body FROM event_log WHERE seq = 11")).scalar_one()
    assert (body["ratio"], body["huge"], body["target_w"]) == (None, 2**60, 100)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE event_log SET body = jsonb_set(body, '{target_w}', '200') WHERE seq = 4", "entry 4: body is not"),
        ("UPDATE event_log SET at_ns = at_ns + 1 WHERE seq = 4", "entry 4: at_ns is not"),
        ("UPDATE event_log SET organisation_id = 'org_2' WHERE seq = 4", "entry 4: organisation_id is not"),
        ("UPDATE event_log SET canon = canon || ' '::bytea WHERE seq = 4", "entry 4 does not match"),
        ("UPDATE event_log SET canon = 'x', hash = sha256(prev || 'x'::bytea) WHERE seq = 10", "10 can't be read"),
        ("UPDATE event_log SET canon = '{}', hash = sha256(prev || '{}'::bytea) WHERE seq = 10", "10: seq is not"),
        ("DELETE FROM event_log WHERE seq = 4", "entry 4 is missing"),
        ("DELETE FROM event_log WHERE seq = 1", "entry 1 is missing"),
        ("DELETE FROM event_log WHERE seq > 7", "entry 10 is not there any more"),
    ],
)
def test_what_was_tampered_with_is_found(database: Database, statement: str, words: str) -> None:
    head = fill(database)
    tamper(database, statement)
    with pytest.raises(DamagedRecord, match=words), database.begin() as connection:
        event_log.verify(connection, expected=head)


def test_a_chain_written_anew_has_another_head(database: Database) -> None:
    head = fill(database)
    tamper(database, "DELETE FROM event_log")
    with database.begin() as connection:
        event_log.append(connection, [entry(number, target_w=1) for number in range(10)])
    with pytest.raises(DamagedRecord, match="entry 10 has another hash"), database.begin() as connection:
        event_log.verify(connection, expected=head)


@pytest.mark.parametrize(
    "statement", ["UPDATE event_log SET kind = 'x'", "DELETE FROM event_log", "TRUNCATE event_log"]
)
def test_the_past_can_not_be_changed_by_mistake(database: Database, statement: str) -> None:
    fill(database)
    with pytest.raises(Conflict, match="append-only"), database.begin() as connection:
        connection.execute(text(statement))
    with database.begin() as connection:
        assert event_log.verify(connection).seq == 10


def test_writers_at_once_make_one_chain(database: Database) -> None:
    def write(number: int) -> None:
        with database.begin() as connection:
            event_log.append(connection, [entry(number), entry(number + 1000)])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(30)))
    with database.begin() as connection:
        assert event_log.verify(connection).seq == 60


def test_ten_thousand_entries(database: Database) -> None:
    begun = time.perf_counter()
    head = fill(database, 10_000)
    written = time.perf_counter()
    with database.begin() as connection:
        assert event_log.verify(connection) == head
    verified = time.perf_counter()
    print(f"10,000 entries: append {written - begun:.2f} s, verify {verified - written:.2f} s")  # noqa: T201 - a figure, not a verdict
