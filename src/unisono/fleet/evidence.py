"""What a command's answer, its absence and the readings since say about what a device does now.

Before a reading is late enough to show a command, its answer is the evidence. A device that is reached at once is taken
to follow until the time to answer is over. One behind a slow cloud is not: its answer comes when the command does, so
that no answer yet means that it still does what it did.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, part
from unisono.fleet.columns import LEASES, NAMEPLATE, PICTURE, Leases, Nameplate, Picture

# What a device is given beyond command, ramp and answer before its reading is held against it.
GRACE_S: Final = 4.0
# Unanswered commands are repeated after this long, or three latencies.
ANSWER_S: Final = 5.0
ANSWER_LATENCIES: Final = 3.0
# After so many repetitions a device that neither answers nor moves is let go.
RESENT_MAX: Final = 6
# What stands for the code of an answer until there is one.
NO_ANSWER_YET: Final = 255
# What takes longer than two cycles to arrive is not taken as followed before it is answered.
QUICK_S: Final = 8.0
# A latency is what is usual; after one and a half of them something is wrong.
OVERDUE_LATENCIES: Final = 1.5
# A report is overdue after one and a half periods, but not before 10 s: ours is the slower clock then.
REPORT_PERIODS: Final = 1.5
REPORT_S: Final = 10.0
# Who gives less than this of what it was told does not do it.
SHORT_FRAC: Final = 0.5
# The mean of more than a minute does not tell what was at an instant.
INSTANT_SPAN_S: Final = 60.0
_NS: Final = 1e-9
# Trust codes of devices that are not heard.
_UNKNOWN, _SILENT = 0, 3


@part
def settle_s(nameplate: Nameplate, picture: Picture, row: int, change_w: float) -> float:
    """Return how long after a command the present reading must show it: way there and back, notice, ramp, grace.

    A vendor cloud may hand out what it polled up to one period ago; a mean shows all of it once it began after it.
    """
    waiting_s = 2.0 * nameplate.latency_s[row] + nameplate.notice_s[row] + GRACE_S
    waiting_s += abs(change_w) / nameplate.ramp_w_per_s[row]
    waiting_s += picture.span_s[row]
    return float(waiting_s + (nameplate.period_s[row] if picture.source[row] == 2 else 0.0))


@part
def shows(nameplate: Nameplate, picture: Picture, leases: Leases, row: int, change_w: float) -> bool:
    """Return whether the present reading came late enough to show the newest command, a change by ``change_w``."""
    since_s = (picture.received_mono_ns[row] - leases.sent_mono_ns[row]) * _NS
    return bool(since_s >= settle_s(nameplate, picture, row, change_w))


@part
def shows_least(nameplate: Nameplate, picture: Picture, leases: Leases, row: int, change_w: float) -> bool:
    """Return whether the present reading must show ``change_w`` at the least: so much or more was told long enough ago.

    A command that is told again, or asks for less than the one before, is no reason to wait anew.
    """
    since_s = (picture.received_mono_ns[row] - leases.told_mono_ns[row]) * _NS
    return bool(since_s >= settle_s(nameplate, picture, row, change_w))


@part
def falls_short(
    nameplate: Nameplate, picture: Picture, leases: Leases, row: int, change_w: float, given_w: float
) -> bool:
    """Return whether ``given_w`` is less than half of the change that was told, and the reading late enough for all."""
    is_short = abs(change_w) > 0.0 and given_w / change_w < SHORT_FRAC
    return bool(is_short and shows_least(nameplate, picture, leases, row, change_w))


@part
def is_heard(picture: Picture, row: int) -> bool:
    """Return whether anything was ever heard of the device, and lately."""
    return bool(picture.trust[row] not in (_UNKNOWN, _SILENT))


@part
def answer_s(nameplate: Nameplate, row: int) -> float:
    """Return how long an answer may take before the command is repeated."""
    return max(ANSWER_S, ANSWER_LATENCIES * float(nameplate.latency_s[row]))


@part
def is_quick(nameplate: Nameplate, row: int) -> bool:
    """Return whether a command reaches the device within two cycles."""
    return bool(nameplate.latency_s[row] <= QUICK_S)


@part
def is_in_time(nameplate: Nameplate, leases: Leases, row: int, mono_ns: int) -> bool:
    """Return whether the time to answer the newest command is not over yet."""
    return bool((mono_ns - leases.sent_mono_ns[row]) * _NS < answer_s(nameplate, row))


@part
def is_newly_told(nameplate: Nameplate, leases: Leases, row: int, mono_ns: int) -> bool:
    """Return whether the time to answer is not over since the device was told as much as now for the first time."""
    return bool((mono_ns - leases.told_mono_ns[row]) * _NS < answer_s(nameplate, row))


@part
def is_on_its_way(nameplate: Nameplate, leases: Leases, row: int, mono_ns: int) -> bool:
    """Return whether an unanswered command may be taken as followed: just sent, to a device that is reached at once."""
    is_open = leases.ack_code[row] == NO_ANSWER_YET and is_quick(nameplate, row)
    return bool(is_open and is_in_time(nameplate, leases, row, mono_ns))


@part
def is_overdue(nameplate: Nameplate, picture: Picture, row: int, mono_ns: int) -> bool:
    """Return whether the device should have reported again by now."""
    since_s = (mono_ns - picture.received_mono_ns[row]) * _NS
    return bool(since_s > max(REPORT_PERIODS * nameplate.period_s[row], REPORT_S))


@part
def is_alive(nameplate: Nameplate, picture: Picture, leases: Leases, row: int, mono_ns: int) -> bool:
    """Return whether there is evidence that the device still holds its lease.

    A gateway's answers are none once the device itself is overdue: it may have been cut off behind the gateway, at any
    instant before the report that is missing, half a period after the last one on average.
    """
    heard_ns = leases.heard_mono_ns[row]
    if heard_ns < 0:
        return False
    if is_overdue(nameplate, picture, row, mono_ns):
        own_ns = picture.received_mono_ns[row] + np.int64(0.5 * nameplate.period_s[row] * 1e9)
        if leases.acked_seq[row] == leases.seq[row]:
            own_ns = max(own_ns, leases.sent_mono_ns[row])
        heard_ns = min(heard_ns, own_ns)
    return bool((mono_ns - heard_ns) * _NS < leases.ttl_s[row])


@part
def is_current(nameplate: Nameplate, picture: Picture, leases: Leases, row: int, mono_ns: int) -> bool:
    """Return whether the newest reading of a device that was told tells of now: its lease has not run out since.

    Of a lease that was never accepted nobody knows the end: the reading counts until the next is overdue.
    """
    if is_alive(nameplate, picture, leases, row, mono_ns):
        return True
    heard_ns = leases.heard_mono_ns[row]
    if heard_ns >= 0 and (picture.received_mono_ns[row] - heard_ns) * _NS < leases.ttl_s[row]:
        return False
    return not is_overdue(nameplate, picture, row, mono_ns)


@part
def is_moved(nameplate: Nameplate, leases: Leases, row: int) -> bool:
    """Return whether the device belongs to another gateway by now than the one that its lease lives at."""
    return bool(leases.state[row] != 0 and leases.gateway[row] != nameplate.gateway[row])


@part
def is_used_up(nameplate: Nameplate, leases: Leases, row: int) -> bool:
    """Return whether its owner lets it be called by no further dispatch in this season."""
    return bool(leases.n_events[row] >= nameplate.events_per_season_max[row])


@part
def arrives_frac(nameplate: Nameplate, leases: Leases, row: int, mono_ns: int, within_s: float) -> float:
    """Return how likely an unanswered command to a slow device arrives within the next ``within_s``.

    A cloud that polls fetches it at any instant of its pause, so that its chance grows while it does not come; what is
    long overdue is not counted on.
    """
    since_s = max(0.0, (mono_ns - leases.sent_mono_ns[row]) * _NS)
    longest_s = OVERDUE_LATENCIES * float(nameplate.latency_s[row])
    return float(min(1.0, within_s / max(longest_s - since_s, 0.5 * longest_s))) if since_s < longest_s else 0.0


@part
def answered_w(nameplate: Nameplate, picture: Picture, leases: Leases, row: int, mono_ns: int) -> float:
    """Return the power that a device accepted last, if it still holds that, else as it is read; NaN: unknown."""
    if leases.acked_seq[row] >= 0 and is_alive(nameplate, picture, leases, row, mono_ns):
        return float(leases.acked_w[row])
    return float(picture.power_w[row])


@part
def _goal_w(nameplate: Nameplate, picture: Picture, leases: Leases, row: int, mono_ns: int) -> float:
    """Return the power that a device which holds a lease is on its way to, by the newest answer."""
    if leases.acked_seq[row] == leases.seq[row] or is_on_its_way(nameplate, leases, row, mono_ns):
        return float(leases.setpoint_w[row])
    return answered_w(nameplate, picture, leases, row, mono_ns)


@column_kernel(types.void(types.int64, types.int64, types.float64, NAMEPLATE, PICTURE, LEASES))
def expect(n: int, mono_ns: int, cycle_s: float, nameplate: Nameplate, picture: Picture, leases: Leases) -> None:
    """Say where each device is now: as read, or, before a reading can show it, on its ramp to what it accepted."""
    for row in range(n):
        power_w = picture.power_w[row]
        if leases.state[row] != 1:
            leases.expected_w[row] = power_w
            leases.called_s[row] = max(0.0, leases.called_s[row] - cycle_s)
            continue
        leases.called_s[row] += np.float32(cycle_s)
        expected_w = leases.expected_w[row]
        if math.isnan(expected_w):
            expected_w = np.float32(0.0) if math.isnan(power_w) else power_w
        if shows(nameplate, picture, leases, row, leases.setpoint_w[row] - expected_w):
            leases.expected_w[row] = power_w
            continue
        goal_w = _goal_w(nameplate, picture, leases, row, mono_ns)
        if math.isnan(goal_w):
            continue
        step_w = nameplate.ramp_w_per_s[row] * cycle_s
        leases.expected_w[row] = min(max(goal_w, expected_w - step_w), expected_w + step_w)
