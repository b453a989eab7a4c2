"""What a dead owner of a shard had taken in and told after its checkpoint, folded into the state; nothing is decided.

Readings, answers and requests come from their streams again; what was told comes from the frames themselves, so that it
does not matter which code decided it. Everything is folded in slices of a cycle, at the instants at which the owner's
cycles ran as far as its frames show them: moves, ramps and the time for which devices are called go on as they did.

Not told by frames, and therefore as the checkpoint had it: the loop of each dispatch (its smoothed gap, energies,
shortfall). A shed level or an offset is no power: where the device was to go is then taken for the end of its range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.brain.dispatch.controller import ActiveDispatch, weigh_members
from unisono.fleet.columns import F4, I4
from unisono.model.batches import CommandFrames
from unisono.model.dispatch import Dispatch, Request
from unisono.model.registry import RegistryBatch
from unisono.model.technology import CommandKind
from unisono.plant.requests import refreshed
from unisono.plant.state import PlantState
from unisono.plant.step import Arrival, fold, take_in, take_requests
from unisono.plant.takeover import Told, fold_told, forget_refused

# Slices at most; what is older is folded at once. At 4 s cycles they reach back ten minutes, which is longer than any
# ramp and any lease that could still be held.
SLICES_MAX: Final = 150
# Two cycles that frames show are further apart than this: others, which told nobody anything, ran between them.
_PAUSE_CYCLES: Final = 1.5
# What `leases` sends for a load that is to stop, and for one that is to go on.
_STOP_LEVEL, _GO_LEVEL = 3.0, 0.0


@dataclass(slots=True)
class Recorded:
    """What is on the streams behind a checkpoint, in stream order within each kind."""

    arrivals: Sequence[Arrival] = ()
    requests: Sequence[Request] = ()
    registry: Sequence[RegistryBatch] = ()
    frames: Sequence[CommandFrames] = ()


@dataclass(slots=True)
class _Slice:
    arrivals: list[Arrival] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    frames: list[CommandFrames] = field(default_factory=list)


def replay(state: PlantState, recorded: Recorded, now_ns: int, monotonic_ns: int) -> None:
    """Fold what was recorded up to now; the next cycle may follow at once."""
    ago_ns = monotonic_ns - now_ns
    half_ns = round(0.5 * state.config.cycle_s * NS_PER_S)
    told = list(_news(state, recorded.frames))
    ends_ns = _ends_ns(state, recorded, told, now_ns)
    registry = recorded.registry
    for end_ns, part in zip(ends_ns, _sliced(recorded, told, ends_ns, ago_ns), strict=True):
        if end_ns + ago_ns + state.mono_shift_ns - state.folded_mono_ns < half_ns:
            # The checkpoint's own cycle: what came since is for the next one's picture.
            take_in(state, part.arrivals, registry, end_ns)
            take_requests(state, part.requests, end_ns)
        else:
            fold(state, part.arrivals, part.requests, registry, end_ns, end_ns + ago_ns)
        registry = ()
        forget_refused(state.fleet, end_ns + ago_ns + state.mono_shift_ns)
        for frames in part.frames:
            fold_frames(state, frames, end_ns, end_ns + ago_ns)


def fold_frames(state: PlantState, frames: CommandFrames, now_ns: int, monotonic_ns: int) -> None:
    """Take over what another owner told in one cycle, at the instant at which that was."""
    table, mono_ns = state.fleet, monotonic_ns + state.mono_shift_ns
    state.told = (frames.epoch, frames.cycle)
    state.cycle = max(state.cycle, frames.cycle)
    state.next_seq = max(state.next_seq, int(frames.seq.max(initial=0)) + 1)
    active_of_no = {active.dispatch_no: active for active in state.dispatches.values()}
    for active in active_of_no.values():
        refreshed(state, active)
        weigh_members(active, table, now_ns, mono_ns)
    rows = _rows(table.row_of_device, frames.device_no)
    references_w, setpoints_w = _references_and_setpoints(state, frames, rows, active_of_no)
    told = Told(
        row=rows,
        gateway=table.gateway_rows(frames.gateway_no),
        seq=frames.seq.astype(np.int64),
        kind=frames.kind.astype(np.uint8),
        dispatch_no=frames.dispatch_no.astype(np.int32),
        setpoint_w=setpoints_w,
        reference_w=references_w,
        ttl_s=frames.ttl_s.astype(np.float32),
    )
    fold_told(table, told, now_ns, mono_ns)
    _fold_renewals(state, frames, mono_ns)


def _news(state: PlantState, recorded: Sequence[CommandFrames]) -> Iterator[CommandFrames]:
    """Yield the frames of cycles after the checkpoint by owners before this one; who had been relieved told nobody."""
    newest = (state.told[0], state.told[1] + 1, -1)
    for frames in recorded:
        place = (frames.epoch, frames.cycle, frames.first_row)
        if newest < place and frames.epoch < state.epoch:
            newest = place
            yield frames


def _ends_ns(state: PlantState, recorded: Recorded, told: Sequence[CommandFrames], now_ns: int) -> list[int]:
    """Return the wall instants at which to fold: the cycles that frames show, and others in the pauses between them.

    The last one is a cycle ago: the next cycle is the new owner's.
    """
    cycle_ns = round(state.config.cycle_s * NS_PER_S)
    last_ns = now_ns - cycle_ns
    earliest_ns = last_ns - (SLICES_MAX - 1) * cycle_ns
    shown_ns = {frames.issued_ns for frames in told if earliest_ns <= frames.issued_ns < last_ns}
    first_ns = max(earliest_ns, min((arrival.batch.known_ns for arrival in recorded.arrivals), default=last_ns))
    points_ns = sorted({*shown_ns, last_ns})
    while points_ns[0] - cycle_ns >= first_ns:
        points_ns.insert(0, points_ns[0] - cycle_ns)
    ends_ns = points_ns[:1]
    for point_ns in points_ns[1:]:
        while point_ns - ends_ns[-1] >= _PAUSE_CYCLES * cycle_ns:
            ends_ns.append(ends_ns[-1] + cycle_ns)
        ends_ns.append(point_ns)
    return ends_ns


def _sliced(recorded: Recorded, told: Sequence[CommandFrames], ends_ns: Sequence[int], ago_ns: int) -> Iterator[_Slice]:
    """Yield what belongs to each slice; what has no instant of its own goes with what came before it."""
    slices = [_Slice() for _ in ends_ns]
    ends = np.array(ends_ns, np.int64)

    def place(at_ns: int) -> int:
        return min(int(np.searchsorted(ends, at_ns)), len(slices) - 1)

    for arrival in recorded.arrivals:
        slices[place(arrival.received_monotonic_ns - ago_ns)].arrivals.append(arrival)
    at = 0
    for request in recorded.requests:
        at = max(at, place(request.requested_ns)) if isinstance(request, Dispatch) else at
        slices[at].requests.append(request)
    for frames in told:
        slices[place(frames.issued_ns)].frames.append(frames)
    yield from slices


def _rows(row_of_device: I4, device_no: I4) -> I4:
    """Return the rows of the devices; -1 for renewals and strangers."""
    rows = np.full(device_no.size, -1, np.int32)
    is_known = (device_no >= 0) & (device_no < row_of_device.size)
    rows[is_known] = row_of_device[device_no[is_known]]
    return rows


def _references_and_setpoints(
    state: PlantState, frames: CommandFrames, rows: I4, active_of_no: dict[int, ActiveDispatch]
) -> tuple[F4, F4]:
    """Return each row's reference in its dispatch and the power that it was told."""
    nameplate = state.fleet.nameplate
    references_w = state.fleet.picture.reference_w[rows].copy()
    is_up = np.ones(rows.size, np.bool_)
    for dispatch_no, active in active_of_no.items():
        at = np.flatnonzero((frames.dispatch_no == dispatch_no) & np.isin(rows, active.members.row))
        references_w[at] = active.members.reference_w[np.searchsorted(active.members.row, rows[at])]
        is_up[frames.dispatch_no == dispatch_no] = active.sign > 0
    setpoints_w = frames.value.astype(np.float32)
    highest_w, lowest_w = nameplate.power_max_w[rows], nameplate.power_min_w[rows]
    is_offset = frames.kind == CommandKind.TEMPERATURE_OFFSET
    setpoints_w[is_offset] = np.where(is_up, highest_w, lowest_w)[is_offset]
    levels_w = np.where(frames.value == _STOP_LEVEL, np.float32(0.0), np.float32(0.5) * references_w)
    levels_w = np.where(frames.value == _GO_LEVEL, np.where(is_up, references_w, lowest_w), levels_w)
    is_level = frames.kind == CommandKind.SHED_LEVEL
    setpoints_w[is_level] = levels_w[is_level]
    return references_w, setpoints_w


def _fold_renewals(state: PlantState, frames: CommandFrames, mono_ns: int) -> None:
    table = state.fleet
    for at in np.flatnonzero(frames.device_no < 0).tolist():
        gateway = table.gateway_row(int(frames.gateway_no[at]))
        if gateway:
            table.gateways.renewed_mono_ns[gateway] = mono_ns
            table.gateways.renewed_seq[gateway] = frames.seq[at]
