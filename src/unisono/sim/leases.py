"""The device side of the command contract, as kernels over columns: epochs, sequences, leases, refusals, fallback.

A gateway drops frames of a lower epoch than it has seen; a device drops what it has seen (and answers again), anything
past its expiry, and what it cannot or will not do. Expiry and start are judged by the device's own wall clock, right
or wrong. A lease's ttl runs on its monotonic clock from receipt; when it is over the device falls back by itself. A
renewal grants every lease with seq <= its own another ttl.

``lease[fact, row]`` and ``command[fact, i]`` are int64 tables; the names below are their facts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisono.base.kernel import kernel
from unisono.model.technology import AckCode, CommandKind, Fallback

Whole = NDArray[np.int64]
Floats = NDArray[np.float64]

(
    NEWEST_SEQ,
    NEWEST_EPOCH,
    LAST_CODE,
    IS_HELD,
    HAS_BEGUN,
    SEQ,
    EPOCH,
    START_NS,
    END_NS,
    TTL_NS,
    FALLBACK,
    GRANTED_NS,
    BEGIN_BY_NS,
) = range(13)
N_LEASE = 13
(
    C_ROW,
    C_GATEWAY,
    C_EPOCH,
    C_SEQ,
    C_KIND,
    C_FALLBACK,
    C_START_NS,
    C_EXPIRES_NS,
    C_TTL_NS,
    C_AT_NS,
    C_ISSUED_NS,
) = range(11)
N_COMMAND = 11
(R_GATEWAY, R_EPOCH, R_SEQ, R_EXPIRES_NS, R_AT_NS) = range(5)
N_RENEWAL = 5
(E_AT_NS, E_ROW, E_SEQ, E_EPOCH, E_WHAT, E_EXPIRES_NS) = range(6)
N_EVENT = 6

BEGAN, EXPIRED, RELEASED, OPTED_OUT = 1, 2, 3, 4
NO_ANSWER = 255

# Traits of a device, as bits.
DOES_NOTHING, FROZEN, WRONG_SIGN, REFUSES, MUTE, OVER_DELIVERS, OPTS_OUT = 1, 2, 4, 8, 16, 32, 64

_ACCEPTED, _BOUNDS, _OPT_OUT = int(AckCode.ACCEPTED), int(AckCode.REFUSED_BOUNDS), int(AckCode.REFUSED_OPT_OUT)
_OVERRIDE, _UNSUPPORTED = int(AckCode.REFUSED_LOCAL_OVERRIDE), int(AckCode.REFUSED_UNSUPPORTED)
_EXPIRED, _OLD_EPOCH = int(AckCode.REFUSED_EXPIRED), int(AckCode.REFUSED_OLD_EPOCH)
_UNREACHABLE, _OTHER = int(AckCode.UNREACHABLE), int(AckCode.REFUSED_OTHER)
_SETPOINT, _RELEASE = int(CommandKind.POWER_SETPOINT), int(CommandKind.RELEASE)
_ZERO, _HOLD = int(Fallback.ZERO_POWER), int(Fallback.HOLD)
# IS_HELD of a lease that was released and waits to be settled.
_LET_GO = 2
# A setpoint this far beyond the nameplate is out of bounds (rounding to whole watts is not).
_BOUNDS_SLACK = 1.005


@kernel("i8(i8, u1, b1, b1)")
def _judge(kind: int, trait: int, is_connected: bool, is_within: bool) -> int:
    """Return what a device answers to a command that it hasn't seen."""
    if kind == _RELEASE:
        return _ACCEPTED
    if trait & OPTS_OUT:
        return _OPT_OUT
    if trait & REFUSES:
        return _OVERRIDE
    if kind != _SETPOINT:
        return _UNSUPPORTED
    if not is_within:
        return _BOUNDS
    return _ACCEPTED if is_connected else _OTHER


@kernel(
    "void(i8[:,::1], i8[:,::1], f8[::1], i8[:,::1], f8[::1], f8[::1], f8[::1], u1[::1], b1[::1], b1[::1],"
    " i8[::1], i8[::1], i8, u1[::1], i8[::1])"
)
def receive(
    lease: Whole,
    command: Whole,
    command_w: Floats,
    epochs: Whole,
    value_w: Floats,
    power_min_w: Floats,
    power_max_w: Floats,
    trait: NDArray[np.uint8],
    is_reachable: NDArray[np.bool_],
    is_connected: NDArray[np.bool_],
    own_clock_ns: Whole,
    lead_ns: Whole,
    mono_ns: int,
    code: NDArray[np.uint8],
    answered_seq: Whole,
) -> None:
    """Take in commands in order of arrival; fill ``code`` (NO_ANSWER: nobody answers) and the seq that is answered.

    ``epochs[0, gateway]`` is the highest epoch a gateway has seen; ``own_clock_ns[row]`` the device's monotonic clock,
    ``lead_ns[row]`` by how much its wall clock is ahead of the truth.
    """
    for j in range(command.shape[1]):
        i, gateway, epoch, seq = command[C_ROW, j], command[C_GATEWAY, j], command[C_EPOCH, j], command[C_SEQ, j]
        answered_seq[j] = seq
        if epoch < epochs[0, gateway]:
            code[j] = _OLD_EPOCH
            continue
        epochs[0, gateway] = epoch
        is_seen = epoch == lease[NEWEST_EPOCH, i] and seq <= lease[NEWEST_SEQ, i]
        if command[C_AT_NS, j] + lead_ns[i] > command[C_EXPIRES_NS, j] and not is_seen:
            code[j] = _EXPIRED
            continue
        if not is_reachable[i]:
            code[j] = _UNREACHABLE
            continue
        if is_seen:
            # Dropped, but answered again, for the newest.
            code[j] = lease[LAST_CODE, i]
            answered_seq[j] = lease[NEWEST_SEQ, i]
        else:
            kind = command[C_KIND, j]
            least_w, most_w = power_min_w[i] * _BOUNDS_SLACK - 1.0, power_max_w[i] * _BOUNDS_SLACK + 1.0
            answer = _judge(kind, trait[i], is_connected[i], least_w <= command_w[j] <= most_w)
            lease[NEWEST_EPOCH, i], lease[NEWEST_SEQ, i], lease[LAST_CODE, i] = epoch, seq, answer
            code[j] = answer
            if answer == _ACCEPTED:
                if kind == _RELEASE:
                    lease[IS_HELD, i], lease[FALLBACK, i] = _LET_GO, 0
                    lease[SEQ, i], lease[EPOCH, i], lease[END_NS, i] = seq, epoch, own_clock_ns[i]
                else:
                    lease[IS_HELD, i], lease[HAS_BEGUN, i] = 1, 0
                    lease[SEQ, i], lease[EPOCH, i] = seq, epoch
                    lease[START_NS, i], lease[TTL_NS, i] = command[C_START_NS, j], command[C_TTL_NS, j]
                    lease[END_NS, i] = own_clock_ns[i] + command[C_TTL_NS, j]
                    lease[FALLBACK, i] = command[C_FALLBACK, j]
                    lease[GRANTED_NS, i] = mono_ns
                    # In true time, whatever the command told this device's clock: a command is good for one ttl.
                    lease[BEGIN_BY_NS, i] = min(
                        command[C_EXPIRES_NS, j], command[C_ISSUED_NS, j] + command[C_TTL_NS, j]
                    )
                    value_w[i] = command_w[j]
        if trait[i] & MUTE:
            code[j] = NO_ANSWER


@kernel("void(i8[:,::1], i8[:,::1], i8[:,::1], i8[::1], i8[::1], b1[::1], i8[::1], i8[::1], i8, u1[::1])")
def renew(
    lease: Whole,
    renewal: Whole,
    epochs: Whole,
    row_of_place: Whole,
    first_place: Whole,
    is_reachable: NDArray[np.bool_],
    own_clock_ns: Whole,
    gateway_lead_ns: Whole,
    mono_ns: int,
    code: NDArray[np.uint8],
) -> None:
    """Grant unexpired leases of the gateways' reachable rows another ttl of their own; fill ``code``.

    The rows of gateway g are ``row_of_place[first_place[g]:first_place[g + 1]]``.
    """
    for j in range(code.size):
        gateway, epoch = renewal[R_GATEWAY, j], renewal[R_EPOCH, j]
        if epoch < epochs[0, gateway]:
            code[j] = _OLD_EPOCH
            continue
        epochs[0, gateway] = epoch
        if renewal[R_AT_NS, j] + gateway_lead_ns[gateway] > renewal[R_EXPIRES_NS, j]:
            code[j] = _EXPIRED
            continue
        code[j] = _ACCEPTED
        for place in range(first_place[gateway], first_place[gateway + 1]):
            i = row_of_place[place]
            if not is_reachable[i] or lease[IS_HELD, i] == 0 or lease[EPOCH, i] != epoch:
                continue
            if lease[SEQ, i] <= renewal[R_SEQ, j] and own_clock_ns[i] < lease[END_NS, i]:
                lease[END_NS, i] = own_clock_ns[i] + lease[TTL_NS, i]
                lease[GRANTED_NS, i] = mono_ns


@kernel("i8(i8[:,::1], i8[:,::1], i8, i8, i8, i8)")
def _note(lease: Whole, event: Whole, n: int, row: int, at_ns: int, what: int) -> int:
    event[E_AT_NS, n], event[E_ROW, n], event[E_WHAT, n] = at_ns, row, what
    event[E_SEQ, n], event[E_EPOCH, n], event[E_EXPIRES_NS, n] = (
        lease[SEQ, row],
        lease[EPOCH, row],
        lease[BEGIN_BY_NS, row],
    )
    return n + 1


@kernel("i8(i8[:,::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], u1[::1], i8[::1], i8[::1], i8, i8[:,::1])")
def settle(
    lease: Whole,
    value_w: Floats,
    commanded_w: Floats,
    twin_w: Floats,
    power_min_w: Floats,
    power_max_w: Floats,
    trait: NDArray[np.uint8],
    own_clock_ns: Whole,
    lead_ns: Whole,
    wall_ns: int,
    event: Whole,
) -> int:
    """Begin what is to begin, end what has run out; write ``commanded_w`` and the events; return their number."""
    n = 0
    for i in range(commanded_w.size):
        opted_out = trait[i] & OPTS_OUT
        if lease[IS_HELD, i] == 0:
            if opted_out:
                # An owner's word also ends a fallback that holds.
                commanded_w[i] = np.nan
            continue
        ended = RELEASED if lease[IS_HELD, i] == _LET_GO else EXPIRED
        if own_clock_ns[i] >= lease[END_NS, i] or opted_out:
            lease[IS_HELD, i] = 0
            fallback = lease[FALLBACK, i]
            if opted_out or fallback != _HOLD:
                commanded_w[i] = 0.0 if fallback == _ZERO and not opted_out else np.nan
            n = _note(lease, event, n, i, wall_ns, OPTED_OUT if opted_out else ended)
            continue
        if lease[START_NS, i] > wall_ns + lead_ns[i]:
            continue
        if lease[HAS_BEGUN, i] == 0:
            lease[HAS_BEGUN, i] = 1
            n = _note(lease, event, n, i, wall_ns, BEGAN)
        if trait[i] & DOES_NOTHING:
            continue
        wanted = value_w[i]
        if trait[i] & OVER_DELIVERS:
            wanted = min(power_max_w[i], max(power_min_w[i], wanted + 0.15 * (wanted - twin_w[i])))
        commanded_w[i] = wanted
    return n
