"""Questions about the whole plant: every shard is asked, and the answers are put together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np

from unisono.base.errors import Unavailable
from unisono.brain.dispatch.shares import Shards, first_shares
from unisono.model.dispatch import Dispatch
from unisono.model.queries import DevicePage, DeviceStates, Preview, PreviewResult, Query
from unisono.model.technology import EventKind
from unisono.services.picture import Asker, Picture, ask

T = TypeVar("T", DeviceStates, PreviewResult)

_COUNTS: Final = ("n_eligible", "n_targeted", "n_opted_out", "n_silent", "n_suspect", "n_claimed")


async def page_of_devices(bus: Asker, n_shards: int, query: DevicePage) -> DeviceStates:
    """Return the next devices of all shards by number; raises Unavailable when a shard does not answer."""
    answers = await _ask_all(bus, [query] * n_shards, DeviceStates)
    states = sorted((state for answer in answers for state in answer.states), key=lambda state: state.device_no)
    has_more = len(states) > query.limit or any(answer.has_more for answer in answers)
    return DeviceStates(
        at_ns=min(answer.at_ns for answer in answers), states=tuple(states[: query.limit]), has_more=has_more
    )


async def preview(bus: Asker, picture: Picture, dispatch: Dispatch) -> PreviewResult:
    """Return what the whole plant would give, each shard with the share it would begin with; raises Unavailable."""
    if picture.n_shards == 1:
        return (await _ask_all(bus, [Preview(dispatch=dispatch)], PreviewResult))[0]
    bases = await _ask_all(bus, [Preview(dispatch=dispatch, share_frac=0.0)] * picture.n_shards, PreviewResult)
    base_w = np.array([answer.base_w for answer in bases])
    power_w = max((point.power_w for point in dispatch.targets), key=abs)
    is_change = dispatch.kind == EventKind.CHANGE_W
    change_w = power_w if is_change else power_w - float(base_w.sum())
    shares = first_shares(abs(change_w), _abilities(picture, dispatch.portfolio_no, is_up=change_w >= 0.0))
    elsewhere_w = np.full(base_w.size, math.nan) if is_change else base_w.sum() - base_w
    asked = [
        Preview(dispatch=dispatch, share_frac=share, elsewhere_w=elsewhere)
        for share, elsewhere in zip(shares.tolist(), elsewhere_w.tolist(), strict=True)
    ]
    parts = await _ask_all(bus, asked, PreviewResult)
    return PreviewResult(
        at_ns=min(part.at_ns for part in parts),
        target_w=sum(part.target_w for part in parts),
        deliverable_w=sum(part.deliverable_w for part in parts),
        shortfall_w=sum(part.shortfall_w for part in parts),
        base_w=sum(part.base_w for part in parts),
        **{name: sum(getattr(part, name) for part in parts) for name in _COUNTS},
    )


def _abilities(picture: Picture, portfolio_no: int, *, is_up: bool) -> Shards:
    n = picture.n_shards
    firm_w, free_w = np.zeros(n), np.zeros(n)
    for heard in picture.shards():
        for totals in heard.totals.portfolios:
            if totals.portfolio_no == portfolio_no:
                firm_w[heard.totals.shard] = totals.dispatchable_up_w if is_up else totals.dispatchable_down_w
                free_w[heard.totals.shard] = totals.up_w if is_up else totals.down_w
    return Shards(np.zeros(n), np.zeros(n), np.abs(firm_w), np.abs(free_w), np.zeros(n, np.bool_))


async def _ask_all(bus: Asker, queries: Sequence[Query], kind: type[T]) -> list[T]:
    """Return every shard's answer to its query; raises Unavailable when one gives none of that kind."""
    answers = await asyncio.gather(*(ask(bus, shard, query) for shard, query in enumerate(queries)))
    for answer in answers:
        if not isinstance(answer, kind):
            raise Unavailable("realtime", f"it answered with {type(answer).__name__}, not {kind.__name__}")
    return [answer for answer in answers if isinstance(answer, kind)]
