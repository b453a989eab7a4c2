"""How much may hang on one slow gateway's next poll.

A vendor cloud passes on all that it was told at one instant, some time within its latency. What arrives together
appears together, faster than the loop can take it back elsewhere. So only a small part of the target is under way to a
slow gateway at a time, the cheapest first; the others wait, unless nobody else can give what is needed.
"""

from __future__ import annotations

from typing import Final

from numba import types

from unisono.base.kernel import column_kernel, index
from unisono.brain.dispatch.members import FREE, MEMBERS, PINNED, WAITING, Members
from unisono.fleet.columns import F8, LEASES, NAMEPLATE, Leases, Nameplate
from unisono.fleet.evidence import NO_ANSWER_YET

# A fortieth: two such lumps in one cycle still leave delivery within a twentieth of the target.
UNDER_WAY_FRAC: Final = 0.025

_F8: Final = types.Array(types.float64, 1, "C")


@column_kernel(types.int64(types.float64, MEMBERS, NAMEPLATE, LEASES, _F8))
def hold_back(cap_w: float, members: Members, nameplate: Nameplate, leases: Leases, under_way_w: F8) -> int:
    """Let free members behind slow gateways wait where ``cap_w`` is under way already; return how many wait.

    ``under_way_w`` (gateway) is room for the sums.
    """
    under_way_w[:] = 0.0
    for j in range(members.slow_order.size):
        k = index(members.slow_order[j])
        row = index(members.row[k])
        if leases.state[row] != 0 and leases.ack_code[row] == NO_ANSWER_YET:
            under_way_w[index(nameplate.gateway[row])] += abs(members.held_w[k] - members.credit_w[k])
    n_waiting = 0
    for j in range(members.slow_order.size):
        k = index(members.slow_order[j])
        if members.mode[k] != FREE or members.held_w[k] != 0.0:
            continue
        gateway = index(nameplate.gateway[index(members.row[k])])
        under_way_w[gateway] += members.reach_w[k]
        if under_way_w[gateway] > max(cap_w, float(members.reach_w[k])):
            under_way_w[gateway] -= members.reach_w[k]
            members.mode[k] = WAITING
            n_waiting += 1
    return n_waiting


@column_kernel(types.float64(MEMBERS))
def keep_slow(members: Members) -> float:
    """Pin the free members behind slow gateways that hold a command; return what they give, in its own sign."""
    kept_w = 0.0
    for j in range(members.slow_order.size):
        k = index(members.slow_order[j])
        if members.mode[k] == FREE and members.held_w[k] != 0.0:
            members.mode[k] = PINNED
            kept_w += members.credit_w[k]
    return kept_w


@column_kernel(types.float64(MEMBERS))
def given_later_w(members: Members) -> float:
    """Return what the shares give only later: of slow members that are called just now. Slow ones without one wait."""
    later_w = 0.0
    for j in range(members.slow_order.size):
        k = index(members.slow_order[j])
        if members.mode[k] != FREE or members.held_w[k] != 0.0:
            continue
        later_w += members.share_w[k]
        if members.share_w[k] <= 0.0:
            members.mode[k] = WAITING
    return later_w


@column_kernel(types.float64(types.float64, MEMBERS))
def call_waiting(missing_w: float, members: Members) -> float:
    """Let no more wait than ``missing_w`` leaves over, the cheapest called first; return what the called can give."""
    called_w = 0.0
    for j in range(members.slow_order.size):
        k = index(members.slow_order[j])
        if members.mode[k] == WAITING and called_w < missing_w:
            members.mode[k] = FREE
            called_w += members.reach_w[k]
    return called_w
