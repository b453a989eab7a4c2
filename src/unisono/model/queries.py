"""Questions that a shard answers on ``query.<shard>``, and its answers; each is one MessagePack message.

A query is read-only and is answered from the newest finished cycle; whoever asks waits with a timeout.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from unisono.model.dispatch import Dispatch
from unisono.model.totals import DeviceState

# Most devices in one page: an answer stays far below the bus's 8 MB payload limit (about 0.5 kB a device).
PAGE_MAX = 1000


class DeviceQuery(msgspec.Struct, frozen=True, kw_only=True, tag="device"):
    """The state of one device."""

    device_no: int


class DevicePage(msgspec.Struct, frozen=True, kw_only=True, tag="device_page"):
    """States of up to ``limit`` devices with ``device_no`` > ``after``, in that order.

    Filters at their default (-1, "") admit everything.
    """

    organisation_id: str = ""
    portfolio_no: int = -1
    technology: int = -1
    trust: int = -1
    after: int = 0
    limit: int = 100


class Preview(msgspec.Struct, frozen=True, kw_only=True, tag="preview"):
    """What would come of this dispatch if it were in full force now; nothing is changed or sent.

    ``share_frac`` and ``elsewhere_w`` are the shard's part of it, as in ``DispatchShare``.
    """

    dispatch: Dispatch
    share_frac: float = 1.0
    elsewhere_w: float = math.nan


Query = DeviceQuery | DevicePage | Preview


class DeviceStates(msgspec.Struct, frozen=True, kw_only=True, tag="device_states"):
    """Answer to DeviceQuery (none: not in the shard's registry) and DevicePage; ``has_more``: ask after the last."""

    at_ns: int
    states: tuple[DeviceState, ...]
    has_more: bool = False


class PreviewResult(msgspec.Struct, frozen=True, kw_only=True, tag="preview_result"):
    """Answer to Preview: the largest target of the profile and how much of it today's members would give."""

    at_ns: int
    target_w: float
    deliverable_w: float
    shortfall_w: float
    n_eligible: int
    n_targeted: int
    n_opted_out: int = 0
    n_silent: int = 0
    n_suspect: int = 0
    # Members that other dispatches of the same or a higher urgency would take in an overlapping time.
    n_claimed: int = 0
    # The members' power without the dispatch.
    base_w: float = 0.0


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The shard can't answer this query; ``reason`` says why."""

    reason: str


Answer = DeviceStates | PreviewResult | Refused


def encode_query(query: Query) -> bytes:
    """Return the query's bytes."""
    return msgspec.msgpack.encode(query)


def decode_query(payload: bytes) -> Query:
    """Return the query; raises msgspec.DecodeError on a foreign payload."""
    query: Query = msgspec.msgpack.decode(payload, type=Query)
    return query


def encode_answer(answer: Answer) -> bytes:
    """Return the answer's bytes; numpy's scalars, which sums over columns give, are numbers like others."""
    return msgspec.msgpack.encode(answer, enc_hook=_plain)


def decode_answer(payload: bytes) -> Answer:
    """Return the answer; raises msgspec.DecodeError on a foreign payload."""
    answer: Answer = msgspec.msgpack.decode(payload, type=Answer)
    return answer


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in an answer")
