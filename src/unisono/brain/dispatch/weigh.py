"""What each member of a dispatch is worth to it in this cycle: reference, mode, reach and credit, and all added up."""

from __future__ import annotations

import math
from typing import Final

from numba import types

from unisono.base.kernel import column_kernel, index, part
from unisono.brain.dispatch.credit import count_under_way, credit_of, leftover_w, seen_w
from unisono.brain.dispatch.members import EXCLUDED, FREE, MEMBERS, PINNED, Members
from unisono.brain.dispatch.sums import Sum
from unisono.fleet.columns import F8, LEASES, NAMEPLATE, PICTURE, SLOTS, Leases, Nameplate, Picture, Slots
from unisono.fleet.evidence import (
    NO_ANSWER_YET,
    RESENT_MAX,
    falls_short,
    is_alive,
    is_current,
    is_heard,
    is_in_time,
    is_moved,
    is_newly_told,
    is_on_its_way,
    is_overdue,
    is_quick,
    is_used_up,
)

# A device is moving when a quarter of its change shows, and has delivered when nine tenths do.
MOVING_FRAC: Final = 0.25
DELIVERED_FRAC: Final = 0.9
# A change below both of these is not worth a command.
WORTH_W: Final = 50.0
WORTH_FRAC: Final = 0.01
# Below it the clear-sky ratio says nothing.
DUSK_W_PER_M2: Final = 20.0
_PV: Final = 1
_F8: Final = types.Array(types.float64, 1, "C")


@part
def _reference_now_w(members: Members, k: int, since_s: float, nameplate: Nameplate, picture: Picture) -> float:
    """Return the reference by the formula frozen at acceptance: PV follows the clear sky, runs of loads end."""
    row = index(members.row[k])
    reference_w = float(members.accepted_reference_w[k])
    then = members.accepted_clear_sky[k]
    now = picture.clear_sky_w_per_m2[row]
    if nameplate.technology[row] == _PV and then > DUSK_W_PER_M2 and not math.isnan(now):
        return float(min(reference_w * now / then, float(nameplate.power_max_w[row])))
    drift_s = members.drift_s[k]
    if math.isfinite(drift_s):
        settled_w = float(members.settled_w[k])
        return float(settled_w + (reference_w - settled_w) * math.exp(-since_s / drift_s))
    return reference_w


@part
def _is_unanswered(nameplate: Nameplate, leases: Leases, row: int, mono_ns: int) -> bool:
    """Return whether its command is neither answered nor seen to act, and can't be taken for on its way."""
    if leases.ack_code[row] != NO_ANSWER_YET or leases.move_mono_ns[row] < 0:
        return False
    return not is_on_its_way(nameplate, leases, row, mono_ns)


@part
def _mode(
    members: Members,
    k: int,
    sign: int,
    dispatch_no: int,
    mono_ns: int,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    sums: F8,
) -> int:
    """Say whether the member may be used, counting those who may not."""
    row = index(members.row[k])
    is_held = leases.state[row] == 1 and leases.dispatch_no[row] == dispatch_no
    if nameplate.lifecycle[row] != 2 or nameplate.control_kind[row] == 255:
        return EXCLUDED
    if picture.is_opted_out[row] == 1:
        sums[Sum.N_OPTED_OUT] += 1.0
        return EXCLUDED
    trust = picture.trust[row]
    if trust == 4:
        sums[Sum.N_SUSPECT] += 1.0
        return EXCLUDED
    if mono_ns < leases.refused_until_mono_ns[row]:
        sums[Sum.N_REFUSED] += 1.0
        return EXCLUDED
    if is_moved(nameplate, leases, row):
        # It is released at the gateway that it was moved away from.
        return EXCLUDED
    if is_used_up(nameplate, leases, row) and leases.event_no[row] != dispatch_no:
        return EXCLUDED
    if leases.wanted_no[row] >= 0:
        # A more urgent dispatch has it.
        return EXCLUDED
    is_early = is_in_time(nameplate, leases, row, mono_ns)
    if not is_heard(picture, row):
        sums[Sum.N_SILENT] += 1.0
        return PINNED if is_held and (is_alive(nameplate, picture, leases, row, mono_ns) or is_early) else EXCLUDED
    if not is_held:
        is_late = trust == 2 or is_overdue(nameplate, picture, row, mono_ns)
        is_open = leases.ack_code[row] == NO_ANSWER_YET
        # Late, or nothing was heard of it since it was told last.
        if is_late or (is_open and picture.received_mono_ns[row] < leases.sent_mono_ns[row]):
            return EXCLUDED
    hold_s = picture.hold_up_s[row] if sign > 0 else picture.hold_down_s[row]
    is_slow_and_told = not is_quick(nameplate, row) and leases.ack_code[row] == 0
    if is_held and is_slow_and_told and is_early and (hold_s > 0.0 or is_newly_told(nameplate, leases, row, mono_ns)):
        # It is not told anew before it has settled: quick ones balance.
        return PINNED
    if is_held and _is_unanswered(nameplate, leases, row, mono_ns):
        # It keeps being told, and what it shows counts; its share goes to others until it answers.
        sums[Sum.N_SILENT] += 0.0 if is_early else 1.0
        return PINNED if leases.n_resent[row] < RESENT_MAX else EXCLUDED
    if is_held and (
        is_overdue(nameplate, picture, row, mono_ns) or not is_current(nameplate, picture, leases, row, mono_ns)
    ):
        # It can't be steered; what it still holds is its share, until its lease has run out.
        sums[Sum.N_SILENT] += 1.0
        return PINNED if is_alive(nameplate, picture, leases, row, mono_ns) or is_early else EXCLUDED
    if hold_s <= 0.0:
        # Empty, full, or at the end of what its owner allows.
        return EXCLUDED
    if picture.high_w[row] - picture.low_w[row] < 1.0:
        return PINNED if is_held else EXCLUDED
    return FREE


@part
def _end_w(bound_w: float, sign: int, least_w: float, reference_w: float) -> float:
    """Return the last power before the bound at which the device can run: not between 0 W and its least power."""
    if abs(bound_w) >= least_w or bound_w == 0.0:
        return bound_w
    if bound_w * sign > 0.0:
        return 0.0
    return -sign * least_w if sign * reference_w <= -least_w else reference_w


@part
def _reach_w(members: Members, k: int, sign: int, nameplate: Nameplate, picture: Picture) -> float:
    """Return how far the device can go from its reference in the dispatch's direction."""
    row = index(members.row[k])
    reference_w = members.reference_w[k]
    high_w = float(picture.high_w[row])
    low_w = float(picture.low_w[row])
    if nameplate.is_on_off[row] == 1:
        on_w = float(nameplate.power_max_w[row] if nameplate.power_max_w[row] > 0.0 else nameplate.power_min_w[row])
        level_w = max(0.0, on_w) if sign > 0 else min(0.0, on_w)
        if not low_w - 1.0 <= level_w <= high_w + 1.0:
            return 0.0
        reach_w = sign * (level_w - reference_w)
    elif sign > 0:
        reach_w = _end_w(high_w, sign, float(nameplate.power_step_min_w[row]), reference_w) - reference_w
        reach_w = 0.0 if nameplate.technology[row] == _PV else reach_w
    else:
        reach_w = reference_w - _end_w(low_w, sign, float(nameplate.power_step_min_w[row]), reference_w)
    worth_w = max(WORTH_W, WORTH_FRAC * nameplate.rating_w[row])
    return reach_w if reach_w >= worth_w else 0.0


@part
def _count_held(members: Members, k: int, slots: Slots, picture: Picture, leases: Leases, sums: F8) -> None:
    """Add a device that holds our lease to the four levels of truth and to the funnel."""
    row = index(members.row[k])
    reference_w = members.reference_w[k]
    held_w = members.held_w[k]
    sums[Sum.N_TARGETED] += 1.0
    sums[Sum.COMMANDED_W] += held_w
    sums[Sum.REFERENCE_W] += reference_w
    if leases.acked_seq[row] >= 0:
        sums[Sum.N_ACKNOWLEDGED] += 1.0
        sums[Sum.ACKNOWLEDGED_W] += leases.acked_w[row] - reference_w
    said_w = slots.power_w[1, row]
    said_w = slots.power_w[2, row] if math.isnan(said_w) else said_w
    if not math.isnan(said_w):
        sums[Sum.N_REPORTED] += 1.0
        sums[Sum.REPORTED_W] += said_w - reference_w
    if not math.isnan(slots.power_w[0, row]):
        sums[Sum.N_MEASURED] += 1.0
        sums[Sum.MEASURED_W] += slots.power_w[0, row] - reference_w
    if held_w != 0.0 and not math.isnan(picture.power_w[row]):
        share = (picture.power_w[row] - reference_w) / held_w
        sums[Sum.N_MOVING] += 1.0 if share >= MOVING_FRAC else 0.0
        sums[Sum.N_DELIVERED] += 1.0 if share >= DELIVERED_FRAC else 0.0


@column_kernel(
    types.void(
        types.int64,
        types.int64,
        types.int64,
        types.float64,
        types.float64,
        MEMBERS,
        NAMEPLATE,
        SLOTS,
        PICTURE,
        LEASES,
        _F8,
    )
)
def weigh(
    sign: int,
    dispatch_no: int,
    mono_ns: int,
    since_s: float,
    lead_s: float,
    members: Members,
    nameplate: Nameplate,
    slots: Slots,
    picture: Picture,
    leases: Leases,
    sums: F8,
) -> None:
    """Set each member's reference, mode, reach and credit for this cycle, and add all up in ``sums`` (SUM_NAMES).

    ``sign`` is +1 when more power into the grid is wanted, else -1; ``since_s`` is the age of the frozen references,
    ``lead_s`` how far ahead what is under way is foreseen (``coming_w`` of ``under_way_w``).
    """
    kept_w = sums[Sum.KEPT_W]
    sums[:] = 0.0
    sums[Sum.KEPT_W] = kept_w
    for k in range(members.row.size):
        row = index(members.row[k])
        reference_w = _reference_now_w(members, k, since_s, nameplate, picture)
        members.reference_w[k] = reference_w
        is_held = leases.state[row] == 1 and leases.dispatch_no[row] == dispatch_no
        members.held_w[k] = leases.setpoint_w[row] - reference_w if is_held else 0.0
        mode = _mode(members, k, sign, dispatch_no, mono_ns, nameplate, picture, leases, sums)
        reach_w = _reach_w(members, k, sign, nameplate, picture) if mode == FREE else 0.0
        credit_w, delivered_w, variance = 0.0, 0.0, 0.0
        is_let_go = leases.state[row] != 1 and leases.event_no[row] == dispatch_no
        if is_held:
            credit_w, variance = credit_of(members, k, mono_ns, nameplate, picture, leases)
            held_w = float(members.held_w[k])
            is_short = is_heard(picture, row) and falls_short(nameplate, picture, leases, row, held_w, credit_w)
            if mode == FREE and is_short:
                # What it gives counts; the rest is asked of others.
                mode, reach_w = PINNED, 0.0
            delivered_w = seen_w(members, k, credit_w, mono_ns, nameplate, picture, leases)
            _count_held(members, k, slots, picture, leases, sums)
        elif is_let_go:
            delivered_w = credit_w = leftover_w(members, k, mono_ns, nameplate, picture, leases)
            sums[Sum.PINNED_W] += credit_w
        members.mode[k] = mode
        members.reach_w[k] = reach_w
        members.credit_w[k] = credit_w
        if is_let_go or mode != FREE:
            count_under_way(members, k, mono_ns, lead_s, nameplate, picture, leases, sums)
        sums[Sum.DELIVERED_W] += delivered_w
        sums[Sum.DELIVERED_VAR_W2] += variance
        sums[Sum.REACH_W] += reach_w
        sums[Sum.N_ELIGIBLE] += 1.0 if mode != EXCLUDED else 0.0
        if mode == PINNED:
            sums[Sum.PINNED_W] += credit_w
        elif is_held and mode == FREE:
            sums[Sum.GAP_W] += members.held_w[k] - credit_w
        if not math.isnan(picture.power_w[row]):
            # What was called may still show it: there the reference stands for what it would do.
            base_w = reference_w if is_held or is_let_go else float(picture.power_w[row])
            sums[Sum.BASE_W] += base_w
            sums[Sum.NET_W] += base_w + delivered_w
