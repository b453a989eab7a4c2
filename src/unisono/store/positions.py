"""Up to where a consumer has put a stream into this database: moved in the same transaction, so none counts twice."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from unisono.store.tables.operations import STREAM_POSITION

_P = STREAM_POSITION.c


def get(connection: Connection, consumer: str) -> int:
    """Return the sequence of the last message that ``consumer`` has taken in; 0 before the first."""
    return connection.execute(select(_P.stream_seq).where(_P.consumer == consumer)).scalar_one_or_none() or 0


def advance(connection: Connection, consumer: str, stream_seq: int) -> bool:
    """Move forward to ``stream_seq``; False, with nothing changed, if the position is there or beyond: a repetition."""
    new = insert(STREAM_POSITION).values(consumer=consumer, stream_seq=stream_seq)
    change = {"stream_seq": new.excluded.stream_seq}
    moved = new.on_conflict_do_update(
        index_elements=["consumer"], set_=change, where=_P.stream_seq < new.excluded.stream_seq
    )
    return connection.execute(moved.returning(_P.stream_seq)).first() is not None


def reset_to(connection: Connection, consumer: str, stream_seq: int) -> None:
    """Set the position, backwards too: for a stream that a power cut or a restore has set back."""
    new = insert(STREAM_POSITION).values(consumer=consumer, stream_seq=stream_seq)
    change = {"stream_seq": new.excluded.stream_seq}
    connection.execute(new.on_conflict_do_update(index_elements=["consumer"], set_=change))
