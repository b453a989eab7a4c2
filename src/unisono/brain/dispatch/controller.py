"""The closed loop of one dispatch: each cycle, from what it delivers and what it should, to the setpoints it wants.

With T the target as a change against the reference, P what pinned devices give (silent ones by the evidence of their
leases, locked ones, slow ones until they have answered and settled, those let go that have not heard of it), C what is
likely to come of that before a new setpoint shows, G the smoothed gap between what the free ones were told and what
they are believed to deliver, and K what dead-bands left out the last time, the free ones are asked for T+G+K-P-C.

G is the loop's integrator: it holds as long as the gap lasts and is bounded. A device found out (suspect, refusing,
silent without a lease) leaves the sums, and its share goes to the next in line; over-delivery makes G negative and is
taken back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.brain.dispatch.allocate import merit_order, pro_rata, snap, soc_fair, want
from unisono.brain.dispatch.members import Members
from unisono.brain.dispatch.pace import UNDER_WAY_FRAC, call_waiting, given_later_w, hold_back, keep_slow
from unisono.brain.dispatch.profile import profile_w, ramp_frac, steering_frac
from unisono.brain.dispatch.repair import repair
from unisono.brain.dispatch.sums import Sum
from unisono.brain.dispatch.weigh import weigh
from unisono.fleet.columns import F8
from unisono.fleet.table import FleetTable
from unisono.model.dispatch import Dispatch
from unisono.model.technology import EventKind, Policy

SCHEDULED: Final = "scheduled"
ACTIVE: Final = "active"
COMPLETED: Final = "completed"
CANCELLED: Final = "cancelled"

# A shortfall is one when it lasts two cycles and is above a twentieth of the target; it ends below half of that. While
# little or nothing is asked for it must also be above a fiftieth of the most that the call asks for (references err by
# half of that, COMMON_SD_FRAC) and above 100 W (twice the dead-band).
SHORT_FRAC: Final = 0.05
SHORT_LARGEST_FRAC: Final = 0.02
SHORT_MIN_W: Final = 100.0
SHORT_CYCLES: Final = 2
# References and liars err together: root mean square of estimate less truth over 18 rehearsed calls of 3 to 30 min
# (six seeds, three hours, up and down) was 1.06 % of what was delivered, ten times what independent devices explain.
COMMON_SD_FRAC: Final = 0.01
# What is left over beyond this share of the need is no rounding: then nobody waits.
LEFT_FRAC: Final = 0.001


class SteeringConfig(NamedTuple):
    """How the loop is set."""

    cycle_s: float = 4.0
    # Setpoints closer than both to the one held are not sent again.
    dead_band_w: float = 50.0
    dead_band_frac: float = 0.01
    # What is sent now shows a cycle and a round trip later.
    lead_s: float = 5.0
    gap_gain: float = 0.5
    gap_max_frac: float = 0.3
    plant_ramp_w_per_s: float = float("inf")


@dataclass(slots=True)
class ActiveDispatch:
    """One dispatch while it is scheduled or runs."""

    spec: Dispatch
    dispatch_no: int
    members: Members
    accepted_ns: int
    # When its references were frozen, and from which version of the fleet table its members are.
    frozen_ns: int
    fleet_version: int
    state: str = SCHEDULED
    sign: int = 1
    gap_w: float = 0.0
    asked_w: float = 0.0
    n_short: int = 0
    is_short: bool = False
    short_since_ns: int = -1
    largest_shortfall_w: float = 0.0
    delivered_wh: float = 0.0
    targeted_wh: float = 0.0
    # This shard's part of a plant of several (`shares`): the newest round that told it, its share of the plant's
    # change, and the base of the members elsewhere (NaN: not told; then it is the same share of an absolute power).
    share_round: int = 0
    share_frac: float = 1.0
    elsewhere_w: float = math.nan
    sums: F8 = field(default_factory=lambda: np.zeros(len(Sum)))

    @property
    def urgency(self) -> tuple[int, int, int]:
        """What dispatches are sorted by; the least is served first."""
        return self.spec.priority, self.spec.start_ns, self.dispatch_no


@dataclass(frozen=True, slots=True)
class Steered:
    """What one cycle of the loop came to; powers in the words of the dispatch's kind (net_w, limit_w: absolute)."""

    target_w: float
    delivered_w: float
    shortfall_w: float
    left_w: float
    n_called: int
    n_let_go: int
    is_holding: bool


def steer(active: ActiveDispatch, table: FleetTable, now_ns: int, mono_ns: int, config: SteeringConfig) -> Steered:
    """Weigh the members, decide what is asked of them, and write the setpoints that this dispatch wants."""
    spec, sums = active.spec, active.sums
    full_w = _weighed_change_w(active, table, now_ns, mono_ns, config)
    change_w = steering_frac(spec, now_ns, config.lead_s) * full_w
    due_frac = ramp_frac(spec, now_ns)
    pinned_w = float(sums[Sum.PINNED_W])
    bound_w = config.gap_max_frac * abs(change_w)
    active.gap_w += config.gap_gain * (float(sums[Sum.GAP_W]) - active.gap_w)
    active.gap_w = min(max(active.gap_w, -bound_w), bound_w)
    asked_w = change_w + active.gap_w - pinned_w - float(sums[Sum.COMING_W]) + float(sums[Sum.KEPT_W])
    step_w = config.plant_ramp_w_per_s * config.cycle_s
    asked_w = min(max(asked_w, active.asked_w - step_w), active.asked_w + step_w)
    active.asked_w = asked_w
    left_w = _allocate_at_pace(active, table, max(0.0, active.sign * asked_w), UNDER_WAY_FRAC * abs(full_w))
    n_called, n_let_go = want(
        active.sign,
        active.dispatch_no,
        config.dead_band_w,
        config.dead_band_frac,
        active.members,
        table.nameplate,
        table.leases,
        sums,
    )
    target_w, delivered_w, shortfall_w = _account(active, now_ns)
    return Steered(target_w, delivered_w, shortfall_w, left_w, n_called, n_let_go, due_frac >= 1.0)


def largest_change(active: ActiveDispatch, table: FleetTable, mono_ns: int) -> tuple[float, float, float]:
    """Share out the profile's largest change as if it were due now.

    Returns the target in the words of its kind, the change it asks for, and what of that nobody can give. Setpoints are
    not written.
    """
    target_w = change_w = 0.0
    for _ in range(2):
        weigh_members(active, table, active.frozen_ns, mono_ns)
        changes = [(_own_w(active, p.power_w), _change_of_w(active, p.power_w)) for p in active.spec.targets]
        target_w, change_w = max(changes, key=lambda pair: abs(pair[1]))
        if change_w * active.sign >= 0.0:
            break
        active.sign = -active.sign
    return target_w, change_w, _allocate(active, table, abs(change_w))


def delivered_sd_w(active: ActiveDispatch) -> float:
    """Return the standard deviation of what is delivered: each device's own, and what is wrong with all alike."""
    common_w = COMMON_SD_FRAC * float(active.sums[Sum.DELIVERED_W])
    return math.sqrt(float(active.sums[Sum.DELIVERED_VAR_W2]) + common_w * common_w)


def note_shortfall(active: ActiveDispatch, steered: Steered, now_ns: int) -> str:
    """Follow the shortfall; return "begins", "ends" or "" for this cycle."""
    largest_w = max(abs(_change_of_w(active, point.power_w)) for point in active.spec.targets)
    significant_w = max(SHORT_FRAC * abs(steered.target_w), SHORT_LARGEST_FRAC * largest_w, SHORT_MIN_W)
    active.largest_shortfall_w = max(active.largest_shortfall_w, steered.shortfall_w if steered.is_holding else 0.0)
    if active.is_short:
        if steered.shortfall_w < 0.5 * significant_w or not steered.is_holding:
            active.is_short = False
            active.n_short = 0
            return "ends"
        return ""
    active.n_short = active.n_short + 1 if steered.is_holding and steered.shortfall_w > significant_w else 0
    if active.n_short < SHORT_CYCLES:
        return ""
    active.is_short = True
    active.short_since_ns = now_ns
    return "begins"


def _weighed_change_w(
    active: ActiveDispatch, table: FleetTable, now_ns: int, mono_ns: int, config: SteeringConfig
) -> float:
    """Weigh the members in the direction that the target needs; return the change that it asks for in full force."""
    wanted_w = 0.0
    for _ in range(2):
        # What arrives until the next cycle is there for half of it.
        weigh_members(active, table, now_ns, mono_ns, 0.5 * config.cycle_s)
        wanted_w = _full_change_w(active, now_ns + round(config.lead_s * NS_PER_S))
        sign = active.sign if wanted_w == 0.0 else 1 if wanted_w > 0.0 else -1
        if sign == active.sign:
            break
        active.sign = sign
    return wanted_w


def weigh_members(active: ActiveDispatch, table: FleetTable, now_ns: int, mono_ns: int, lead_s: float = 0.0) -> None:
    """Bring the members' references to ``now_ns`` and weigh them; what is under way is foreseen for ``lead_s``."""
    weigh(
        active.sign,
        active.dispatch_no,
        mono_ns,
        max(0.0, (now_ns - active.frozen_ns) / NS_PER_S),
        lead_s,
        active.members,
        table.nameplate,
        table.slots,
        table.picture,
        table.leases,
        active.sums,
    )


def _full_change_w(active: ActiveDispatch, at_ns: int) -> float:
    """Return the change that the profile asks for in full force, in the words of its kind."""
    return _change_of_w(active, profile_w(active.spec, min(at_ns, active.spec.end_ns - 1)))


def _own_w(active: ActiveDispatch, power_w: float) -> float:
    """Return this shard's part of a target: its share of the plant's change, beyond its own base for absolute kinds."""
    if active.spec.kind == EventKind.CHANGE_W or math.isnan(active.elsewhere_w):
        return active.share_frac * power_w
    base_w = float(active.sums[Sum.BASE_W])
    return base_w + active.share_frac * (power_w - base_w - active.elsewhere_w)


def _change_of_w(active: ActiveDispatch, plant_w: float) -> float:
    """Return the change that the plant's target asks of this shard, in the words of its kind."""
    spec, power_w = active.spec, _own_w(active, plant_w)
    if spec.kind == EventKind.CHANGE_W:
        return power_w
    beyond_w = power_w - float(active.sums[Sum.BASE_W])
    if spec.kind == EventKind.NET_W:
        return beyond_w
    return min(0.0, beyond_w) if spec.limit_is_export else max(0.0, beyond_w)


def _allocate_at_pace(active: ActiveDispatch, table: FleetTable, need_w: float, cap_w: float) -> float:
    """Share ``need_w`` out with at most ``cap_w`` under way to a slow gateway; return what nobody can give now.

    What can't be had otherwise is asked of those who wait, as far as it is not under way already.
    """
    if active.sums[Sum.LEAVING_W] != 0.0:
        # Slow devices that were let go are there still, and soon are not: no other slow one goes in their place.
        need_w = max(0.0, need_w - active.sign * keep_slow(active.members))
    under_way_w = np.zeros(table.n_gateways)
    n_waiting = hold_back(cap_w, active.members, table.nameplate, table.leases, under_way_w)
    left_w = _allocate(active, table, need_w)
    missing_w = left_w - active.sign * float(active.sums[Sum.UNDER_WAY_W])
    if n_waiting and missing_w > LEFT_FRAC * need_w:
        called_w = call_waiting(missing_w, active.members)
        return _allocate(active, table, need_w - left_w + called_w) + max(0.0, left_w - called_w)
    later_w = given_later_w(active.members)
    return _allocate(active, table, need_w + later_w) if later_w > 0.0 else left_w


def _allocate(active: ActiveDispatch, table: FleetTable, need_w: float) -> float:
    """Share ``need_w`` out by the dispatch's policy; return what nobody can give."""
    members = active.members
    if active.spec.policy == Policy.PRO_RATA:
        pro_rata(need_w, members)
    elif active.spec.policy == Policy.SOC_FAIR:
        soc_fair(need_w, active.sign, members, table.nameplate, table.picture)
    else:
        merit_order(need_w, members)
    snap(active.sign, members)
    return repair(active.sign, need_w, members)


def _account(active: ActiveDispatch, now_ns: int) -> tuple[float, float, float]:
    """Return target, delivered and shortfall in the words of the dispatch's kind."""
    spec, sums = active.spec, active.sums
    share = ramp_frac(spec, now_ns)
    power_w = _own_w(active, profile_w(spec, now_ns))
    if spec.kind == EventKind.CHANGE_W:
        target_w, delivered_w = share * power_w, float(sums[Sum.DELIVERED_W])
        return target_w, delivered_w, max(0.0, active.sign * (target_w - delivered_w))
    base_w, net_w = float(sums[Sum.BASE_W]), float(sums[Sum.NET_W])
    if spec.kind == EventKind.NET_W:
        target_w = base_w + share * (power_w - base_w)
        return target_w, net_w, max(0.0, active.sign * (target_w - net_w))
    beyond_w = net_w - power_w if spec.limit_is_export else power_w - net_w
    return power_w, net_w, max(0.0, beyond_w) * share
