"""What one member is believed to deliver now, and what is under way to it; by evidence (see `fleet.evidence`)."""

from __future__ import annotations

import math
from typing import Final

from unisono.base.kernel import index, part
from unisono.brain.dispatch.members import Members
from unisono.brain.dispatch.sums import Sum
from unisono.fleet.columns import F8, Leases, Nameplate, Picture
from unisono.fleet.evidence import (
    NO_ANSWER_YET,
    answered_w,
    arrives_frac,
    is_alive,
    is_current,
    is_heard,
    is_on_its_way,
    is_quick,
    shows,
    shows_least,
)

# Variance of a slow device's unanswered command as a share of its square: one in twenty may act and not answer.
DOUBT_FRAC: Final = 0.05
# Trust code of devices that are not believed.
_SUSPECT: Final = 4


@part
def _default_w(nameplate: Nameplate, row: int, reference_w: float, held_w: float) -> float:
    """Return the change that a device shows once its lease has run out."""
    fallback = nameplate.fallback[row]
    return -reference_w if fallback == 1 else held_w if fallback == 2 else 0.0


@part
def credit_of(
    members: Members, k: int, mono_ns: int, nameplate: Nameplate, picture: Picture, leases: Leases
) -> tuple[float, float]:
    """Return what a device that holds our lease is believed to deliver, and the variance of that.

    Its reading counts once it is late enough to show the command; before that, and in silence, its lease does. A
    reading says nothing of the time after the lease ran out.
    """
    row = index(members.row[k])
    reference_w = float(members.reference_w[k])
    held_w = float(members.held_w[k])
    record = min(1.0, max(0.0, float(picture.record_frac[row])))
    sd_w = float(picture.power_sd_w[row])
    is_told = is_alive(nameplate, picture, leases, row, mono_ns) or is_on_its_way(nameplate, leases, row, mono_ns)
    if is_heard(picture, row) and (is_told or is_current(nameplate, picture, leases, row, mono_ns)):
        if shows(nameplate, picture, leases, row, held_w):
            return float(picture.power_w[row]) - reference_w, sd_w * sd_w
        shown_w = float(picture.power_w[row]) - reference_w
        expected_w = float(leases.expected_w[row]) - reference_w
        is_less = (expected_w - shown_w) * held_w > 0.0
        if is_less and shows_least(nameplate, picture, leases, row, held_w):
            return shown_w, sd_w * sd_w
        is_answered = leases.acked_seq[row] == leases.seq[row]
        doubt = record * (1.0 - record) if is_answered or is_quick(nameplate, row) else DOUBT_FRAC
        return expected_w, sd_w * sd_w + held_w * held_w * doubt
    if is_told:
        return record * held_w, held_w * held_w * record * (1.0 - record) + sd_w * sd_w
    doubt_w = (1.0 - 0.5 * record) * abs(held_w)
    return _default_w(nameplate, row, reference_w, held_w), doubt_w * doubt_w + sd_w * sd_w


@part
def seen_w(
    members: Members,
    k: int,
    credit_w: float,
    mono_ns: int,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
) -> float:
    """Return what of a held member's credit there is evidence for.

    The loop counts on a command that has just left; whoever asks what is delivered is told so once it is answered.
    """
    row = index(members.row[k])
    if not is_on_its_way(nameplate, leases, row, mono_ns):
        return credit_w
    power_w = answered_w(nameplate, picture, leases, row, mono_ns)
    return 0.0 if math.isnan(power_w) else power_w - float(members.reference_w[k])


@part
def leftover_w(members: Members, k: int, mono_ns: int, nameplate: Nameplate, picture: Picture, leases: Leases) -> float:
    """Return what a device that was let go changes all the same: it has not heard of it yet, or makes up for the call.

    A car that gave back charges again, a tank that was held off heats: that is part of what the call does.
    """
    row = index(members.row[k])
    change_w = float(leases.setpoint_w[row] - members.reference_w[k])
    if picture.trust[row] == _SUSPECT:
        return 0.0
    if shows(nameplate, picture, leases, row, change_w):
        return float(picture.power_w[row] - members.reference_w[k])
    if leases.state[row] == 0:
        return 0.0
    if not is_heard(picture, row):
        return change_w if is_alive(nameplate, picture, leases, row, mono_ns) else 0.0
    if is_quick(nameplate, row):
        return 0.0
    # A slow cloud has not passed it on yet.
    was_accepted = leases.acked_seq[row] >= 0
    return change_w if was_accepted else float(picture.power_w[row] - members.reference_w[k])


@part
def count_under_way(
    members: Members,
    k: int,
    mono_ns: int,
    lead_s: float,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    sums: F8,
) -> None:
    """Add by how much its credit grows or goes once a slow cloud passes a command on, and how much of that is soon."""
    row = index(members.row[k])
    if is_quick(nameplate, row) or leases.ack_code[row] != NO_ANSWER_YET or leases.state[row] == 0:
        return
    arrives = arrives_frac(nameplate, leases, row, mono_ns, lead_s)
    if arrives > 0.0:
        record = min(1.0, max(0.0, float(picture.record_frac[row])))
        change_w = record * (float(members.held_w[k]) - float(members.credit_w[k]))
        if leases.state[row] == 1:
            sums[Sum.UNDER_WAY_W] += change_w
        else:
            sums[Sum.LEAVING_W] -= change_w
        sums[Sum.COMING_W] += arrives * change_w
