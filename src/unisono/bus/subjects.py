"""The one map of what flows where. Device-facing subjects are MQTT topics with dots for slashes.

readings.<shard>            stream READINGS   ReadingBatch | AckBatch      fronts -> realtime, historian
registry.<shard>            stream REGISTRY   RegistryBatch (MessagePack)  outbox -> realtime, fronts (kept whole)
requests.<shard>            stream REQUESTS   Dispatch | OptOutChange      outbox -> realtime
commands.<shard>.<epoch>    stream COMMANDS   CommandFrames                realtime -> fronts, historian, realtime
outcomes.<shard>.<epoch>    stream OUTCOMES   OutcomeBatch (MessagePack)   realtime -> recorder
totals.<shard>              core              ShardTotals (MessagePack)    realtime -> web, each cycle
counters.<role>.<instance>  core              IngestCounters (MessagePack) fronts -> web, every 2 s, in slices
query.<shard>               request/reply     realtime answers web (MessagePack)

u.<gateway>.<device>.t      one reading, JSON, QoS 0 or 1       c.<gateway>.f   command frame
u.<gateway>.b               batch with sequence, JSON           c.<gateway>.r   lease renewal
u.<gateway>.p               batch with sequence, packed         c.<gateway>.s   receipt {"through_seq": n}
u.<gateway>.a               acknowledgements, JSON
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Stream:
    """A JetStream stream: its subjects, its bound in bytes, and its bound in age (0: none)."""

    name: str
    subjects: tuple[str, ...]
    bytes_max: int
    age_max_s: int


# Bounds: at 10,000 devices with 10 s telemetry READINGS takes some 60 kB/s;
# two GiB are nine hours of an absent historian.
STREAMS: Final = (
    Stream("READINGS", ("readings.*",), 2048 * MIB, 24 * 3600),
    Stream("REGISTRY", ("registry.*",), 2048 * MIB, 0),
    Stream("REQUESTS", ("requests.*",), 256 * MIB, 0),
    Stream("COMMANDS", ("commands.*.*",), 1024 * MIB, 24 * 3600),
    Stream("OUTCOMES", ("outcomes.*.*",), 512 * MIB, 7 * 24 * 3600),
)


def readings(shard: int) -> str:
    """Return the subject of a shard's readings and acknowledgements."""
    return f"readings.{shard}"


def registry(shard: int) -> str:
    """Return the subject of a shard's registry."""
    return f"registry.{shard}"


def shard_of(subject: str) -> int:
    """Return the shard of a subject that has one in its second place."""
    return int(subject.split(".")[1])


def requests(shard: int) -> str:
    """Return the subject of a shard's requests."""
    return f"requests.{shard}"


def commands(shard: int, epoch: int) -> str:
    """Return the subject of a shard's command frames under one owner."""
    return f"commands.{shard}.{epoch}"


def all_commands(shard: int) -> str:
    """Return the subjects of a shard's command frames under all its owners."""
    return f"commands.{shard}.*"


def outcomes(shard: int, epoch: int) -> str:
    """Return the subject of a shard's outcomes under one owner."""
    return f"outcomes.{shard}.{epoch}"


def totals(shard: int) -> str:
    """Return the subject of a shard's totals."""
    return f"totals.{shard}"


def counters(role: str, instance: str) -> str:
    """Return the subject of one process's ingest counters."""
    return f"counters.{role}.{instance}"


def query(shard: int) -> str:
    """Return the subject on which a shard answers questions about its devices."""
    return f"query.{shard}"


def to_gateway(gateway_id: str, what: str) -> str:
    """Return the subject that reaches a gateway; ``what`` is f, r or s."""
    return f"c.{gateway_id}.{what}"
