"""All dispatches of a shard through one cycle: begun, steered in order of urgency, ended; and what is told of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from unisono.base.instants import NS_PER_S
from unisono.brain.dispatch.controller import (
    ACTIVE,
    CANCELLED,
    COMPLETED,
    SCHEDULED,
    ActiveDispatch,
    Steered,
    delivered_sd_w,
    note_shortfall,
    steer,
)
from unisono.brain.dispatch.profile import profile_w
from unisono.brain.dispatch.sums import SUM_NAMES, Sum
from unisono.model.batches import CommandFrames
from unisono.model.dispatch import DispatchProgress, ShardPart
from unisono.plant.requests import log_entry, members_of, refreshed, remember
from unisono.plant.state import PlantState

# Kinds of log entries.
ACTIVATED: Final = "dispatch.activated"
COMPLETED_KIND: Final = "dispatch.completed"
SHORTFALL_BEGINS: Final = "shortfall.begins"
SHORTFALL_ENDS: Final = "shortfall.ends"

_IDLE: Final = Steered(0.0, 0.0, 0.0, 0.0, 0, 0, is_holding=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """One dispatch's row of this cycle, but for what is known only when the frames are."""

    state: PlantState
    active: ActiveDispatch
    steered: Steered
    at_ns: int

    def progress(self, frames: CommandFrames, digest: str) -> DispatchProgress:
        """Return the row."""
        active, steered, spec = self.active, self.steered, self.active.spec
        sums = dict(zip(SUM_NAMES, active.sums.tolist(), strict=True))
        counts = {name: int(value) for name, value in sums.items() if name.startswith("n_")}
        n_sent, n_reported, n_measured = (counts.pop(name) for name in ("n_targeted", "n_reported", "n_measured"))
        return DispatchProgress(
            dispatch_id=spec.dispatch_id,
            revision=spec.revision,
            organisation_id=spec.organisation_id,
            portfolio_id=spec.portfolio_id,
            shard=self.state.shard,
            epoch=self.state.epoch,
            cycle=self.state.cycle,
            at_ns=self.at_ns,
            state=active.state,
            target_w=steered.target_w,
            commanded_w=sums["commanded_w"] if n_sent else None,
            acknowledged_w=sums["acknowledged_w"] if counts["n_acknowledged"] else None,
            reported_w=sums["reported_w"] if n_reported else None,
            measured_w=sums["measured_w"] if n_measured else None,
            delivered_w=steered.delivered_w,
            delivered_sd_w=delivered_sd_w(active),
            shortfall_w=steered.shortfall_w,
            reference_w=sums["reference_w"],
            n_targeted=n_sent + steered.n_called - steered.n_let_go,
            n_sent=n_sent,
            n_refilled=steered.n_called if steered.is_holding else 0,
            n_released=steered.n_let_go if steered.is_holding else 0,
            frames_digest=digest,
            n_frames=int((frames.dispatch_no == active.dispatch_no).sum()),
            part=self._part() if self.state.config.n_shards > 1 else None,
            **counts,
        )

    def _part(self) -> ShardPart:
        active, spec = self.active, self.active.spec
        points = [point.power_w for point in spec.targets]
        is_running = active.state == ACTIVE
        return ShardPart(
            portfolio_no=spec.portfolio_no,
            kind=spec.kind,
            limit_is_export=spec.limit_is_export,
            round=active.share_round,
            share_frac=active.share_frac,
            elsewhere_w=active.elsewhere_w,
            power_w=profile_w(spec, self.at_ns) if is_running else max(points, key=abs, default=0.0),
            base_w=float(active.sums[Sum.BASE_W]),
            left_w=max(0.0, self.steered.left_w),
        )


def run_dispatches(state: PlantState, now_ns: int, mono_ns: int) -> list[Draft]:
    """Steer every dispatch that runs, the most urgent first, so that a device serves one; return their rows."""
    drafts = []
    config = state.steering
    for active in sorted(state.dispatches.values(), key=lambda one: one.urgency):
        _turn(state, active, now_ns)
        steered = _IDLE
        if active.state == ACTIVE:
            refreshed(state, active)
            steered = steer(active, state.fleet, now_ns, mono_ns, config)
            _account(state, active, steered, now_ns)
        else:
            active.sums[:] = 0.0
        drafts.append(Draft(state, active, steered, now_ns))
        if active.state in (COMPLETED, CANCELLED):
            del state.dispatches[active.spec.dispatch_id]
            remember(state, active.spec.dispatch_id, active.spec.revision, active.state)
    return drafts


def _turn(state: PlantState, active: ActiveDispatch, now_ns: int) -> None:
    """Begin or end the dispatch if it is time to."""
    spec = active.spec
    if active.state in (CANCELLED, COMPLETED):
        return
    if now_ns >= spec.end_ns:
        active.state = COMPLETED
        body: dict[str, object] = {
            "delivered_wh": round(active.delivered_wh),
            "targeted_wh": round(active.targeted_wh),
            "largest_shortfall_w": round(active.largest_shortfall_w),
        }
        state.pending_log.append(log_entry(state, active, COMPLETED_KIND, now_ns, body))
    elif active.state == SCHEDULED and now_ns >= spec.start_ns:
        active.state = ACTIVE
        is_old = now_ns - active.frozen_ns > state.config.reference_age_max_s * NS_PER_S
        if is_old:
            active.members = members_of(state, spec)
            active.frozen_ns = now_ns
            active.fleet_version = state.fleet.version
        body = {"n_members": int(active.members.row.size), "references_frozen_ns": active.frozen_ns}
        state.pending_log.append(log_entry(state, active, ACTIVATED, now_ns, body))
    elif active.state == ACTIVE and now_ns < spec.start_ns:
        # A revision moved the start into the future: let go until then.
        active.state = SCHEDULED


def _account(state: PlantState, active: ActiveDispatch, steered: Steered, now_ns: int) -> None:
    """Add the cycle to the dispatch's energies and follow its shortfall."""
    hours = state.config.cycle_s / 3600.0
    active.delivered_wh += steered.delivered_w * hours
    active.targeted_wh += steered.target_w * hours
    turn = note_shortfall(active, steered, now_ns)
    if not turn:
        return
    body: dict[str, object] = {
        "target_w": round(steered.target_w),
        "delivered_w": round(steered.delivered_w),
        "shortfall_w": round(steered.shortfall_w),
    }
    if turn == "begins":
        body["nobody_left_for_w"] = max(0, round(steered.left_w))
        state.pending_log.append(log_entry(state, active, SHORTFALL_BEGINS, now_ns, body))
    else:
        body["lasted_s"] = round((now_ns - active.short_since_ns) / NS_PER_S, 3)
        state.pending_log.append(log_entry(state, active, SHORTFALL_ENDS, now_ns, body))
