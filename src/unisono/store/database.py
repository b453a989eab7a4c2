"""The database: one pool, transactions as contexts, foreign errors in our words.

What a power cut can lose
-------------------------
PostgreSQL here runs with its defaults (``fsync`` and ``synchronous_commit`` on): when the block of ``begin()`` has
ended without an error, the transaction is on the disk. A power cut, a ``kill -9`` of the server or of us loses none of
it. Lost is what was not committed: the whole transaction, never a part of it.

- *A request* (dispatch, revision, cancellation, opt-out, registry change) is committed with its outbox row. If the
  power goes before the relay has published it, the relay publishes it after the restart. If it goes between publishing
  and marking, it is published twice; receivers drop the second by (id, revision).
- *The answer to a caller* may be lost although the transaction was committed (the connection broke in between). The
  caller retries with the same Idempotency-Key and gets the stored answer.
- *A stream* (JetStream) syncs to the disk each second: of what a stream alone holds - readings, acknowledgements,
  command frames and outcomes not yet recorded here or in a history file - the last second can be lost in a power cut
  (not in a crash of a process). So nothing that binds us is on a stream alone: requests, progress with its digests, the
  event log, leases and the manifest of history are rows here. When a stream was set back, a consumer's stored position
  may lie beyond its end: ``positions.reset_to`` is for that, and what was lost is a gap in telemetry. A request
  that the stream lost after it was published is still here: ``dispatches.open_ones`` is for announcing it again.
- *History files* count from the commit of their row in ``history_file``, which is written after the file is synced. A
  file without a row is left over from a cut and is deleted; a row without its file is damage.
- *A shard's lease* survives; its epoch never goes back, so that gateways can drop an owner of before the cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg import errors as pg
from sqlalchemy import Connection, Engine, create_engine, exc, text
from sqlalchemy.engine import make_url

from unisono.base.errors import Conflict, InvalidInput, Unavailable, UnisonoError

# Callers wait in a worker thread; beyond this many at once they queue for up to POOL_TIMEOUT_S.
POOL_SIZE: Final = 8
POOL_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5
# Nothing here takes longer, save migrations and bulk jobs, which set their own.
STATEMENT_TIMEOUT_MS: Final = 30_000
# A caller that died with an open transaction must not hold its locks for ever.
IDLE_TIMEOUT_MS: Final = 60_000
# A silent network is noticed within this time instead of the system's 15 minutes.
TCP_TIMEOUT_MS: Final = 10_000

# Server states in which the same transaction may succeed a moment later.
_PASSING: Final = (pg.OperationalError, pg.SerializationFailure, pg.DeadlockDetected, pg.LockNotAvailable)


class Database:
    """A pool of connections to one PostgreSQL. Thread-safe; survives the server's restart."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Give a connection with a transaction: committed at the end of the block, rolled back by any exception.

        Raises Unavailable (server away, pool exhausted, deadlock, timeout: the same block may work later), Conflict
        (a unique or foreign key is violated), InvalidInput (a check, a type or a length is violated).
        """
        with _translated(), self._engine.begin() as connection:
            yield connection

    def check(self) -> None:
        """Return if the server answers, else raise Unavailable."""
        with self.begin() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all idle connections; the object can be used again and then opens new ones."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_database(url: str, *, pool_size: int = POOL_SIZE, name: str = "unisono") -> Database:
    """Return the database behind ``url`` (postgresql://user:password@host:port/database); connects at the first use.

    ``name`` is what the server's list of sessions shows.
    """
    try:
        address = make_url(url).set(drivername="postgresql+psycopg")
    except exc.ArgumentError as wrong:
        raise InvalidInput("database_url", "(not shown)", f"is no URL: {wrong}") from wrong
    settings = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c idle_in_transaction_session_timeout={IDLE_TIMEOUT_MS}"
    engine = create_engine(
        address,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": name,
            "options": f"{settings} -c timezone=UTC",
            "tcp_user_timeout": TCP_TIMEOUT_MS,
        },
    )
    return Database(engine)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exc.TimeoutError as full:
        raise Unavailable("PostgreSQL", f"all connections are in use for {POOL_TIMEOUT_S:g} s") from full
    except exc.DBAPIError as wrong:
        raise _in_our_words(wrong.orig if isinstance(wrong.orig, psycopg.Error) else wrong) from wrong
    except psycopg.Error as wrong:  # COPY speaks to the driver directly
        raise _in_our_words(wrong) from wrong


def _in_our_words(error: BaseException) -> UnisonoError:
    """Return the error of ours that says the same; what remains is a mistake of ours and stays what it is."""
    if isinstance(error, pg.UniqueViolation | pg.ExclusionViolation):
        columns, values = _key_of(error)
        return Conflict(f"{_table(error)} {columns}".strip(), values, "exists already")
    if isinstance(error, pg.ForeignKeyViolation):
        return Conflict(_table(error), _key_of(error)[1], "refers to something that does not exist, or is referred to")
    if isinstance(error, pg.RestrictViolation):
        return Conflict(_table(error) or "record", "", str(error).splitlines()[0])
    if isinstance(error, pg.IntegrityError):
        return InvalidInput(error.diag.column_name or error.diag.constraint_name or "record", None, _first_line(error))
    if isinstance(error, pg.DataError):
        return InvalidInput(error.diag.column_name or "record", None, _first_line(error))
    if isinstance(error, _PASSING):
        return Unavailable("PostgreSQL", _first_line(error))
    if isinstance(error, pg.UndefinedTable):
        return Unavailable("PostgreSQL", f"the schema is not there yet ({_first_line(error)}): migrate first")
    assert not isinstance(error, pg.ProgrammingError), f"a statement of ours is wrong: {_first_line(error)}"
    return Unavailable("PostgreSQL", _first_line(error))


def _table(error: psycopg.Error) -> str:
    return (error.diag.table_name or "").replace("_", " ")


def _key_of(error: psycopg.Error) -> tuple[str, str]:
    """Return the key's columns and values, which the server words as "Key (a, b)=(x, y) already exists".

    The organisation in front goes without saying.
    """
    found = re.search(r"Key \((?:organisation_id, )?(.*?)\)=\((?:org_\w+, )?(.*)\)", error.diag.message_detail or "")
    return (found.group(1), found.group(2)) if found else ("", error.diag.constraint_name or "")


def _first_line(error: BaseException) -> str:
    lines: list[Any] = str(error).strip().splitlines()
    return str(lines[0]) if lines else type(error).__name__
