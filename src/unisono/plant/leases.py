"""Commands are leases: what the dispatches want, compared with what each device holds, becomes frames.

A device that is told something new gets a command with the next sequence. Nothing else is sent but: one renewal row
a gateway each third of a ttl; the same command again while it is unanswered; a new command where a lease has run out
although it is wanted. A release is repeated, ever more slowly, until it is answered or its lease is surely over.

A new owner of the shard does not know what the one before it sent last. So, for the longest ttl of a gateway after
its epoch began, it renews nothing there: its own leases are commanded anew each third of a ttl, and all others run out.
In its first cycle it tells every lease again under sequences of its own (`take_over`, `tell_again`). The setpoints and
what is known of them stay: who has answered and still ramps must not be taken for somebody who has not.

A lease lives at the gateway that it was given through. A device that is moved to another gateway is released at the old
one, and called again only when that is answered or the lease has surely run out. Until then nothing is renewed at the
old gateway, because a renewal covers every sequence up to its own; its other leases are commanded anew if it lasts.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, index, pair_of, part, type_of
from unisono.fleet.columns import (
    F4,
    GATEWAYS,
    I4,
    I8,
    LEASES,
    NAMEPLATE,
    PICTURE,
    U1,
    Gateways,
    Leases,
    Nameplate,
    Picture,
)
from unisono.fleet.evidence import (
    NO_ANSWER_YET,
    REPORT_PERIODS,
    RESENT_MAX,
    answer_s,
    falls_short,
    is_moved,
    is_overdue,
)
from unisono.fleet.table import FleetTable
from unisono.model.batches import CommandFrames

# The pause between repetitions of a release doubles up to this.
RELEASE_PAUSE_MAX_S: Final = 60.0
# A device that never answered, repeated or not, is left alone so long.
NO_ANSWER_PAUSE_S: Final = 120.0
# Leases are renewed each third of their ttl: two renewals may be lost before one runs out.
RENEW_FRAC: Final = 1.0 / 3.0
# Where renewals are withheld, leases are commanded anew after this part: an answer to a release may take until then.
ANEW_FRAC: Final = 0.5
# A sequence begins with its epoch, so that it grows over all owners of a shard: 2^32 commands an owner, and JSON's
# 2^53 still hold two million owners.
SEQ_BITS: Final = 32
# Who falls short of a change of this much is told again, once in each ttl.
IDLE_MIN_W: Final = 100.0
# Offset of a thermostat that is steered by offsets, and half of its band decides the direction.
OFFSET_K: Final = 2.0

_NONE, _HELD, _RELEASING = 0, 1, 2
_RELEASE_KIND: Final = 6
_NS: Final = 1e-9


class Outbox(NamedTuple):
    """The columns of CommandFrames, with room for every device and gateway."""

    device_no: I4
    gateway_no: I4
    dispatch_no: I4
    seq: I8
    kind: U1
    fallback: U1
    value: F4
    start_ns: I8
    expires_ns: I8
    ttl_s: F4


def new_outbox(n: int) -> Outbox:
    """Return an outbox with room for ``n`` rows."""
    return Outbox(*(np.empty(n, CommandFrames.DTYPES[name]) for name in Outbox._fields))


OUTBOX: Final = type_of(new_outbox(0))


def send(
    table: FleetTable, outbox: Outbox, next_seq: int, *, epoch_mono_ns: int, now_ns: int, mono_ns: int
) -> tuple[int, int]:
    """Fill the outbox from the wanted setpoints; return how many rows it holds and the next sequence."""
    n, next_seq = _send(
        table.n_devices,
        table.n_gateways,
        next_seq,
        epoch_mono_ns,
        now_ns,
        mono_ns,
        table.gateways,
        table.nameplate,
        table.picture,
        table.leases,
        outbox,
    )
    return int(n), int(next_seq)


def frames_of(outbox: Outbox, n: int, header: dict[str, Any]) -> CommandFrames:
    """Return the first ``n`` rows as a batch of their own."""
    return CommandFrames(**header, **{name: getattr(outbox, name)[:n].copy() for name in Outbox._fields})


@part
def _value(row: int, nameplate: Nameplate, picture: Picture, leases: Leases) -> float:
    """Return what the setpoint is in the words of the device's command kind."""
    setpoint_w = float(leases.setpoint_w[row])
    kind = nameplate.control_kind[row]
    is_shed = setpoint_w > leases.reference_w[row]
    if kind == 4:
        return 0.0 if not is_shed else 3.0 if setpoint_w == 0.0 else 1.0
    if kind == 3:
        middle = 0.5 * (nameplate.comfort_low_degc[row] + nameplate.comfort_high_degc[row])
        # Nearer to the upper bound it cools: less power is warmer then.
        warmer = OFFSET_K if picture.temperature_degc[row] >= middle else -OFFSET_K
        return warmer if is_shed else -warmer
    return setpoint_w


@part
def put_row(
    n: int,
    row: int,
    now_ns: int,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    gateways: Gateways,
    outbox: Outbox,
) -> int:
    """Append the row's present command; return the new length."""
    is_release = leases.state[row] == _RELEASING
    ttl_s = float(leases.ttl_s[row])
    outbox.device_no[n] = nameplate.device_no[row]
    outbox.gateway_no[n] = gateways.gateway_no[leases.gateway[row]]
    outbox.dispatch_no[n] = leases.dispatch_no[row]
    outbox.seq[n] = leases.seq[row]
    outbox.kind[n] = _RELEASE_KIND if is_release else nameplate.control_kind[row]
    outbox.fallback[n] = nameplate.fallback[row]
    outbox.value[n] = 0.0 if is_release else _value(row, nameplate, picture, leases)
    outbox.start_ns[n] = now_ns
    outbox.expires_ns[n] = now_ns + np.int64(ttl_s * 1e9)
    outbox.ttl_s[n] = ttl_s
    return n + 1


@part
def give_sequence(
    row: int, seq: int, mono_ns: int, now_ns: int, nameplate: Nameplate, leases: Leases, gateways: Gateways
) -> None:
    """Give the row's command its sequence and instants; it goes through the lease's gateway."""
    leases.seq[row] = seq
    leases.former_seq[row] = -1
    leases.sent_mono_ns[row] = mono_ns
    leases.resent_mono_ns[row] = mono_ns
    leases.n_resent[row] = 0
    leases.ack_code[row] = NO_ANSWER_YET
    leases.ttl_s[row] = nameplate.ttl_s[row]
    leases.expires_ns[row] = now_ns + np.int64(leases.ttl_s[row] * 1e9)
    gateways.newest_command_seq[leases.gateway[row]] = seq


@part
def take(row: int, mono_ns: int, picture: Picture, leases: Leases) -> None:
    """Take over what is wanted: begin a lease or change the one that is held, and the move that must follow."""
    wanted_w = leases.wanted_w[row]
    is_new = leases.state[row] != _HELD
    was_w = leases.setpoint_w[row] - leases.wanted_reference_w[row]
    is_w = wanted_w - leases.wanted_reference_w[row]
    if is_new or was_w * is_w < 0.0 or abs(is_w) > abs(was_w):
        leases.told_mono_ns[row] = mono_ns
    at_w = leases.expected_w[row]
    was_towards_w = leases.move_to_w[row] - leases.move_from_w[row]
    is_turned = leases.move_mono_ns[row] >= 0 and (wanted_w - leases.move_from_w[row]) * was_towards_w <= 0.0
    if is_new or leases.move_mono_ns[row] < 0 or is_turned:
        leases.move_mono_ns[row] = mono_ns
        leases.move_from_w[row] = picture.power_w[row] if is_new or math.isnan(at_w) else at_w
        leases.move_to_w[row] = wanted_w
        picture.n_against[row] = 0
    elif abs(wanted_w - leases.move_from_w[row]) < abs(was_towards_w):
        # Less is wanted now than when the move began: no more is to be seen.
        leases.move_to_w[row] = wanted_w
    if is_new:
        leases.acked_seq[row] = -1
        leases.acked_w[row] = np.nan
        leases.heard_mono_ns[row] = -1
    if leases.event_no[row] != leases.wanted_no[row]:
        leases.event_no[row] = leases.wanted_no[row]
        leases.n_events[row] += 1
    leases.state[row] = _HELD
    leases.setpoint_w[row] = wanted_w
    leases.dispatch_no[row] = leases.wanted_no[row]
    leases.reference_w[row] = leases.wanted_reference_w[row]


@part
def _let_go(row: int, mono_ns: int, leases: Leases) -> bool:
    """End the lease; True if the device must be told (it never accepted anything: it need not)."""
    if leases.ack_code[row] == NO_ANSWER_YET and leases.n_resent[row] >= RESENT_MAX and leases.move_mono_ns[row] >= 0:
        leases.refused_until_mono_ns[row] = mono_ns + np.int64(NO_ANSWER_PAUSE_S * 1e9)
    leases.move_mono_ns[row] = -1
    if leases.ack_code[row] != NO_ANSWER_YET and leases.ack_code[row] != 0 and leases.acked_seq[row] < 0:
        leases.state[row] = _NONE
        return False
    leases.told_mono_ns[row] = mono_ns
    leases.state[row] = _RELEASING
    return True


@part
def _shows_nothing(row: int, mono_ns: int, nameplate: Nameplate, picture: Picture, leases: Leases) -> bool:
    """Return whether a device that accepted its command is read to give less than half of it.

    It may have lost its lease with its power, or its gateway with its memory: a renewal's answer does not tell.
    """
    change_w = float(leases.setpoint_w[row] - leases.wanted_reference_w[row])
    if leases.ack_code[row] != 0 or abs(change_w) < IDLE_MIN_W or is_overdue(nameplate, picture, row, mono_ns):
        return False
    shown_w = float(picture.power_w[row] - leases.wanted_reference_w[row])
    return bool(falls_short(nameplate, picture, leases, row, change_w, shown_w))


@part
def _needs_command(
    row: int,
    mono_ns: int,
    is_first_ttl: bool,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    gateways: Gateways,
) -> bool:
    """Return whether a wanted device has to be told something new."""
    if leases.state[row] != _HELD or leases.wanted_w[row] != leases.setpoint_w[row]:
        return True
    ttl_s = float(leases.ttl_s[row])
    if ttl_s != nameplate.ttl_s[row]:
        return True
    since_s = (mono_ns - leases.sent_mono_ns[row]) * _NS
    if is_first_ttl and since_s >= RENEW_FRAC * ttl_s:
        return True
    renewed_ns = gateways.renewed_mono_ns[leases.gateway[row]]
    is_withheld = gateways.left_mono_ns[leases.gateway[row]] > renewed_ns
    if is_withheld and min(since_s, (mono_ns - renewed_ns) * _NS) >= ANEW_FRAC * ttl_s:
        return True
    heard_ns = leases.heard_mono_ns[row]
    has_run_out = heard_ns >= 0 and (mono_ns - heard_ns) * _NS >= ttl_s
    # Told again when it can hear: a silent device is told once it speaks.
    can_hear = picture.trust[row] == 1 or picture.trust[row] == 2
    is_lost = has_run_out or _shows_nothing(row, mono_ns, nameplate, picture, leases)
    return bool(is_lost and can_hear and since_s >= ttl_s)


@part
def _is_to_repeat(row: int, mono_ns: int, nameplate: Nameplate, leases: Leases, gateways: Gateways) -> bool:
    """Return whether an unanswered command is due again; gives a release up once nothing can hold its lease."""
    pause_s = answer_s(nameplate, row)
    if leases.state[row] == _RELEASING:
        pause_s = max(pause_s, min(RELEASE_PAUSE_MAX_S, pause_s * 2.0 ** min(leases.n_resent[row], 10)))
        gateway = leases.gateway[row]
        renewed_ns = max(gateways.renewed_mono_ns[gateway], leases.sent_mono_ns[row])
        # The ttl of who was moved away may have been changed as well.
        ttl_s = gateways.ttl_max_s[gateway] if is_moved(nameplate, leases, row) else leases.ttl_s[row]
        if (mono_ns - renewed_ns) * _NS > ttl_s + pause_s:
            leases.state[row] = _NONE
            return False
    elif leases.n_resent[row] >= 2 and leases.move_mono_ns[row] < 0:
        # It never answers, but it is seen to do what it was told.
        return False
    is_open = leases.ack_code[row] == NO_ANSWER_YET
    return bool(is_open and (mono_ns - leases.resent_mono_ns[row]) * _NS >= pause_s)


@part
def _note_renewal(
    row: int, now_ns: int, mono_ns: int, nameplate: Nameplate, picture: Picture, leases: Leases, gateways: Gateways
) -> None:
    """Carry a gateway's answer to a renewal over to a lease that it covers, if the device is fresh and it still ran.

    Behind the gateway the device itself may have dropped out: beyond its next report the answer is no evidence of it.
    """
    gateway = leases.gateway[row]
    due_ns = picture.received_mono_ns[row] + np.int64(REPORT_PERIODS * nameplate.period_s[row] * 1e9)
    answered_ns = min(gateways.acked_mono_ns[gateway], due_ns)
    heard_ns = leases.heard_mono_ns[row]
    if heard_ns < 0 or answered_ns <= heard_ns or leases.acked_seq[row] > gateways.acked_seq[gateway]:
        return
    if (answered_ns - heard_ns) * _NS >= leases.ttl_s[row]:
        return
    if picture.trust[row] == 1:
        leases.heard_mono_ns[row] = answered_ns
        leases.expires_ns[row] = now_ns - (mono_ns - answered_ns) + np.int64(leases.ttl_s[row] * 1e9)


@part
def _renew(
    n: int, n_gateways: int, epoch_mono_ns: int, now_ns: int, mono_ns: int, gateways: Gateways, outbox: Outbox
) -> int:
    """Append one renewal row for each gateway that is due; return the new length."""
    for gateway in range(n_gateways):
        ttl_s = float(gateways.ttl_min_s[gateway])
        if not math.isfinite(ttl_s):
            gateways.renewed_mono_ns[gateway] = -1
            continue
        if gateways.renewed_mono_ns[gateway] < 0:
            gateways.renewed_mono_ns[gateway] = mono_ns
        is_left = gateways.left_mono_ns[gateway] == mono_ns
        if gateway == 0 or is_left or (mono_ns - epoch_mono_ns) * _NS < gateways.ttl_max_s[gateway]:
            continue
        if (mono_ns - gateways.renewed_mono_ns[gateway]) * _NS < RENEW_FRAC * ttl_s:
            continue
        gateways.renewed_mono_ns[gateway] = mono_ns
        gateways.renewed_seq[gateway] = gateways.newest_command_seq[gateway]
        outbox.device_no[n] = -1
        outbox.gateway_no[n] = gateways.gateway_no[gateway]
        outbox.dispatch_no[n] = -1
        outbox.seq[n] = gateways.newest_command_seq[gateway]
        outbox.kind[n] = 0
        outbox.fallback[n] = 0
        outbox.value[n] = 0.0
        outbox.start_ns[n] = now_ns
        outbox.expires_ns[n] = now_ns + np.int64(ttl_s * 1e9)
        outbox.ttl_s[n] = ttl_s
        n += 1
    return n


@column_kernel(
    pair_of(types.int64)(
        types.int64,
        types.int64,
        types.int64,
        types.int64,
        types.int64,
        types.int64,
        GATEWAYS,
        NAMEPLATE,
        PICTURE,
        LEASES,
        OUTBOX,
    )
)
def _send(
    n_devices: int,
    n_gateways: int,
    next_seq: int,
    epoch_mono_ns: int,
    now_ns: int,
    mono_ns: int,
    gateways: Gateways,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    outbox: Outbox,
) -> tuple[int, int]:
    n = 0
    for gateway in range(n_gateways):
        gateways.ttl_min_s[gateway] = np.inf
    for row in range(n_devices):
        is_wanted = leases.wanted_no[row] >= 0
        if not is_wanted and leases.state[row] == _NONE:
            continue
        if leases.state[row] == _NONE:
            leases.gateway[row] = nameplate.gateway[row]
        gateway = index(leases.gateway[row])
        is_first_ttl = gateway == 0 or (mono_ns - epoch_mono_ns) * _NS < gateways.ttl_max_s[gateway]
        if leases.state[row] == _HELD:
            _note_renewal(row, now_ns, mono_ns, nameplate, picture, leases, gateways)
        is_told = False
        if is_wanted and not is_moved(nameplate, leases, row):
            is_told = _needs_command(row, mono_ns, is_first_ttl, nameplate, picture, leases, gateways)
            if is_told:
                take(row, mono_ns, picture, leases)
            leases.dispatch_no[row] = leases.wanted_no[row]
            leases.reference_w[row] = leases.wanted_reference_w[row]
        elif leases.state[row] == _HELD:
            is_told = _let_go(row, mono_ns, leases)
        if is_told:
            give_sequence(row, next_seq, mono_ns, now_ns, nameplate, leases, gateways)
            next_seq += 1
            n = put_row(n, row, now_ns, nameplate, picture, leases, gateways, outbox)
        elif leases.state[row] != _NONE and _is_to_repeat(row, mono_ns, nameplate, leases, gateways):
            leases.resent_mono_ns[row] = mono_ns
            leases.n_resent[row] += 1
            n = put_row(n, row, now_ns, nameplate, picture, leases, gateways, outbox)
        if is_moved(nameplate, leases, row):
            gateways.left_mono_ns[gateway] = mono_ns
        if leases.state[row] == _HELD:
            gateways.ttl_min_s[gateway] = min(gateways.ttl_min_s[gateway], leases.ttl_s[row])
        leases.wanted_no[row] = -1
        leases.wanted_w[row] = np.nan
    return _renew(n, n_gateways, epoch_mono_ns, now_ns, mono_ns, gateways, outbox), next_seq
