"""One cycle of a shard: fold what arrived, see what is true, decide, and put it into frames, totals and outcomes.

    registry, requests, readings, answers            `fold`
    -> reconcile and suspect -> references -> envelope   what is true
    -> each dispatch, the most urgent first           what is wanted
    -> gates -> leases                                what is sent
    -> progress, totals, log                          what came of it

Pure and deterministic: the same state, inputs and instants give the same frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.brain.dispatch.gates import GATES
from unisono.brain.forecast.clear_sky import light_up
from unisono.brain.forecast.reference import refer
from unisono.fleet.apply import apply_acks, apply_readings
from unisono.fleet.envelope import bound
from unisono.fleet.evidence import expect
from unisono.fleet.seasons import begin_seasons
from unisono.fleet.trust import LeaseState, SuspectReason, reconcile, suspect
from unisono.model.batches import AckBatch, CommandFrames, ReadingBatch
from unisono.model.dispatch import Request
from unisono.model.registry import GatewayRecord, PortfolioRecord, RegistryBatch
from unisono.model.totals import LogEntry, OutcomeBatch, ShardTotals
from unisono.plant.clocks import in_their_clocks
from unisono.plant.events import run_dispatches
from unisono.plant.leases import frames_of, new_outbox, send
from unisono.plant.requests import fold_request, log_entry
from unisono.plant.state import PlantState
from unisono.plant.takeover import take_over, tell_again
from unisono.plant.totals import shard_totals

# Kinds of log entries.
SUSPECTED = "device.suspected"
TRIMMED = "gate.trimmed"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A batch and the monotonic instant of its receipt."""

    batch: ReadingBatch | AckBatch
    received_monotonic_ns: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a cycle decided and found."""

    frames: CommandFrames
    totals: ShardTotals
    outcomes: OutcomeBatch


def step(
    state: PlantState,
    arrivals: Sequence[Arrival],
    requests: Sequence[Request],
    registry: Sequence[RegistryBatch],
    now_ns: int,
    monotonic_ns: int,
) -> StepResult:
    """Run one cycle; ``state`` is changed in place."""
    fold(state, arrivals, requests, registry, now_ns, monotonic_ns)
    mono_ns = monotonic_ns + state.mono_shift_ns
    is_new_owner = state.epoch_mono_ns < 0
    if is_new_owner:
        state.epoch_mono_ns = mono_ns
    state.cycle += 1
    drafts = run_dispatches(state, now_ns, mono_ns)
    _pass_gates(state, now_ns)
    frames = _frames(state, now_ns, mono_ns, is_new_owner=is_new_owner)
    n = len(frames)
    digests = [hashlib.sha256(part.encode()).hexdigest() for part in frames.parts()] if n and drafts else []
    progress = tuple(draft.progress(frames, " ".join(digests)) for draft in drafts)
    log, state.pending_log = tuple(state.pending_log), []
    return StepResult(
        frames=frames,
        totals=shard_totals(state, progress, now_ns, mono_ns),
        outcomes=OutcomeBatch(
            shard=state.shard, epoch=state.epoch, cycle=state.cycle, at_ns=now_ns, progress=progress, log=log
        ),
    )


def fold(
    state: PlantState,
    arrivals: Sequence[Arrival],
    requests: Sequence[Request],
    registry: Sequence[RegistryBatch],
    now_ns: int,
    monotonic_ns: int,
) -> None:
    """Take in all inputs and bring the picture up to date, without deciding or sending anything."""
    take_in(state, arrivals, registry, now_ns)
    _picture(state, now_ns, monotonic_ns + state.mono_shift_ns)
    take_requests(state, requests, now_ns)


def take_in(state: PlantState, arrivals: Sequence[Arrival], registry: Sequence[RegistryBatch], now_ns: int) -> None:
    """Fold what arrived into the columns and no more: no time passes for the picture."""
    for batch in registry:
        _fold_registry(state, batch)
    table = state.fleet
    if table.version != state.indexed_version:
        table.index_portfolios()
        state.indexed_version = table.version
        state.static_totals.clear()
        state.clear_sky_mono_ns = -1
    _fold_arrivals(state, arrivals, now_ns)


def take_requests(state: PlantState, requests: Sequence[Request], now_ns: int) -> None:
    """Fold requests, by the picture as it is."""
    for request in requests:
        fold_request(state, request, now_ns)
    state.fleet.refresh_opt_outs(now_ns)


def _fold_registry(state: PlantState, batch: RegistryBatch) -> None:
    for columns in batch.all_devices():
        state.fleet.upsert_devices(columns)
    gateways = [record for record in batch.records if isinstance(record, GatewayRecord)]
    if gateways:
        state.fleet.upsert_gateways(gateways)
    for record in batch.records:
        if isinstance(record, PortfolioRecord):
            state.fleet.upsert_portfolio(record)


def _fold_arrivals(state: PlantState, arrivals: Sequence[Arrival], now_ns: int) -> None:
    """Fold all readings, then all answers, each in their order."""
    shift_ns = state.mono_shift_ns
    readings: list[ReadingBatch] = []
    answers: list[AckBatch] = []
    read_mono_ns: list[int] = []
    answered_mono_ns: list[int] = []
    for arrival in arrivals:
        if isinstance(arrival.batch, ReadingBatch):
            readings.append(arrival.batch)
            read_mono_ns.append(arrival.received_monotonic_ns + shift_ns)
        else:
            answers.append(arrival.batch if state.config.n_shards == 1 else _own_answers(state, arrival.batch))
            answered_mono_ns.append(arrival.received_monotonic_ns + shift_ns)
    if readings:
        apply_readings(state.fleet, readings, read_mono_ns)
    if answers:
        apply_acks(state.fleet, answers, answered_mono_ns, now_ns)


def _own_answers(state: PlantState, batch: AckBatch) -> AckBatch:
    """Return the answers without those to other shards' renewals, which have epochs of their own."""
    is_ours = (batch.epoch == state.epoch) | (batch.epoch == state.told[0])
    return batch.only((batch.device_no >= 0) | is_ours)


def _picture(state: PlantState, now_ns: int, mono_ns: int) -> None:
    """Reconcile sources, find suspects, and set references and envelopes."""
    state.folded_mono_ns = mono_ns
    table, n = state.fleet, state.fleet.n_devices
    nameplate, picture, leases = table.nameplate, table.picture, table.leases
    table.refresh_opt_outs(now_ns)
    begin_seasons(table, now_ns, state.config.season_month)
    reconcile(n, mono_ns, nameplate, table.slots, picture)
    found_rows = np.empty(n, np.int32)
    n_found = suspect(n, mono_ns, nameplate, picture, leases, found_rows)
    for row in found_rows[:n_found].tolist():
        state.pending_log.append(_suspicion(state, row, now_ns))
    if state.clear_sky_mono_ns < 0 or mono_ns - state.clear_sky_mono_ns >= state.config.clear_sky_every_s * NS_PER_S:
        light_up(n, now_ns, nameplate, picture)
        state.clear_sky_mono_ns = mono_ns
    refer(n, nameplate, picture, leases)
    expect(n, mono_ns, state.config.cycle_s, nameplate, picture, leases)
    bound(n, table.n_sites, now_ns, mono_ns, state.config.cycle_s, table.sites, nameplate, picture, leases)


def _frames(state: PlantState, now_ns: int, mono_ns: int, *, is_new_owner: bool) -> CommandFrames:
    """Return what is sent in this cycle; a new owner tells every lease that it took over, changed or not."""
    table = state.fleet
    outbox = new_outbox(table.n_devices + table.n_gateways)
    rows, seqs = np.empty(0, np.int32), np.empty(0, np.int64)
    if is_new_owner:
        rows, seqs = take_over(table, state.next_seq, mono_ns)
        state.next_seq += rows.size
    n, state.next_seq = send(
        table, outbox, state.next_seq, epoch_mono_ns=state.epoch_mono_ns, now_ns=now_ns, mono_ns=mono_ns
    )
    is_untold = (table.leases.seq[rows] == seqs) & (table.leases.state[rows] != LeaseState.NONE)
    n = tell_again(table, outbox, n, rows[is_untold], now_ns)
    header = {"shard": state.shard, "epoch": state.epoch, "cycle": state.cycle, "issued_ns": now_ns}
    return in_their_clocks(table, frames_of(outbox, n, header))


def _suspicion(state: PlantState, row: int, now_ns: int) -> LogEntry:
    """Return the entry; its lease, or without one its newest reading, tells this suspicion from others."""
    table = state.fleet
    is_held = table.leases.state[row] == LeaseState.HELD
    return LogEntry(
        at_ns=now_ns,
        kind=SUSPECTED,
        organisation_id=table.organisation_id(row),
        subject_id=table.device_id(row),
        body={
            "reason": SuspectReason(int(table.picture.suspect_code[row])).name.lower(),
            "power_w": float(table.picture.power_w[row]),
            "lease_seq": int(table.leases.seq[row]) if is_held else None,
            "measured_ns": None if is_held else int(table.slots.measured_ns[:, row].max()),
            "setpoint_w": None if np.isnan(table.leases.setpoint_w[row]) else float(table.leases.setpoint_w[row]),
        },
    )


def _pass_gates(state: PlantState, now_ns: int) -> None:
    """Run the gates over the wanted setpoints; say of each dispatch when they begin to trim it for a reason."""
    trimmed: dict[str, dict[str, int]] = {}
    if state.dispatches:
        # A gate may refuse a setpoint altogether: whose it was is known before.
        wanted_no = state.fleet.leases.wanted_no[: state.fleet.n_devices].copy()
        for gate in GATES:
            for reason, is_trimmed in gate(state.fleet, state.config.cycle_s).items():
                for dispatch_id, active in state.dispatches.items():
                    if n := int((wanted_no[is_trimmed] == active.dispatch_no).sum()):
                        trimmed.setdefault(dispatch_id, {})[reason] = n
    for dispatch_id, n_of_reason in trimmed.items():
        if n_of_reason.keys() - state.trimmed.get(dispatch_id, {}).keys():
            state.pending_log.append(
                log_entry(state, state.dispatches[dispatch_id], TRIMMED, now_ns, dict(n_of_reason))
            )
    state.trimmed = trimmed
