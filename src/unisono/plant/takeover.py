"""What a new owner of a shard does with the leases of the ones before: fold what they told, and tell it anew."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import types

from unisono.base.kernel import column_kernel, type_of
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
from unisono.fleet.evidence import NO_ANSWER_YET
from unisono.fleet.table import FleetTable
from unisono.fleet.trust import LeaseState
from unisono.model.technology import CommandKind
from unisono.plant.leases import OUTBOX, Outbox, give_sequence, put_row, take

_NONE, _HELD, _RELEASING = int(LeaseState.NONE), int(LeaseState.HELD), int(LeaseState.RELEASING)
_RELEASE_KIND: Final = int(CommandKind.RELEASE)


class Told(NamedTuple):
    """Rows of a dead owner's command frames in the fleet's own words; ``row`` -1 and ``gateway`` 0: none of ours."""

    row: I4
    gateway: I4
    seq: I8
    kind: U1
    dispatch_no: I4
    setpoint_w: F4
    reference_w: F4
    ttl_s: F4


def _told(n: int) -> Told:
    return Told(*(np.zeros(n, dtype) for dtype in ("i4", "i4", "i8", "u1", "i4", "f4", "f4", "f4")))


_TOLD: Final = type_of(_told(0))
_ROWS: Final = type_of(np.zeros(0, np.int32))


def fold_told(table: FleetTable, told: Told, now_ns: int, mono_ns: int) -> None:
    """Bring the leases to where the owner had them who sent these commands at these instants."""
    _fold_told(told, now_ns, mono_ns, table.nameplate, table.picture, table.leases, table.gateways)


def forget_refused(table: FleetTable, mono_ns: int) -> None:
    """End the leases that were refused and never accepted, as the owner did who heard of it: nobody is told."""
    leases = table.leases
    is_refused = (leases.ack_code != NO_ANSWER_YET) & (leases.ack_code != 0) & (leases.acked_seq < 0)
    is_left_alone = mono_ns < leases.refused_until_mono_ns
    rows = (leases.state == _HELD) & is_refused & is_left_alone
    leases.state[rows] = _NONE
    leases.move_mono_ns[rows] = -1


def take_over(table: FleetTable, next_seq: int, mono_ns: int) -> tuple[I4, I8]:
    """Give each lease a sequence of this owner, from ``next_seq`` on; return the rows and their sequences.

    What was accepted under the former sequence, or is yet, counts as accepted under this one: it is the same setpoint.
    """
    leases, gateways = table.leases, table.gateways
    rows = np.flatnonzero(leases.state[: table.n_devices] != _NONE).astype(np.int32)
    seqs = next_seq + np.arange(rows.size, dtype=np.int64)
    was_accepted = leases.acked_seq[rows] == leases.seq[rows]
    leases.acked_seq[rows[was_accepted]] = seqs[was_accepted]
    leases.former_seq[rows] = leases.seq[rows]
    leases.seq[rows] = seqs
    leases.resent_mono_ns[rows] = mono_ns
    np.maximum.at(gateways.newest_command_seq, leases.gateway[rows], seqs)
    return rows, seqs


def tell_again(table: FleetTable, outbox: Outbox, n: int, rows: I4, now_ns: int) -> int:
    """Append the present command of ``rows`` to an outbox of ``n`` rows; return the new length."""
    _tell_again(n, rows, now_ns, table.nameplate, table.picture, table.leases, table.gateways, outbox)
    return n + int(rows.size)


@column_kernel(types.void(_TOLD, types.int64, types.int64, NAMEPLATE, PICTURE, LEASES, GATEWAYS))
def _fold_told(
    told: Told,
    now_ns: int,
    mono_ns: int,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    gateways: Gateways,
) -> None:
    for k in range(told.row.size):
        row, seq = told.row[k], told.seq[k]
        if row < 0 or seq < leases.seq[row]:
            continue
        if seq == leases.seq[row]:
            leases.resent_mono_ns[row] = mono_ns
            leases.n_resent[row] += 1
            continue
        leases.gateway[row] = told.gateway[k]
        if told.kind[k] == _RELEASE_KIND:
            leases.move_mono_ns[row] = -1
            leases.told_mono_ns[row] = mono_ns
            leases.state[row] = _RELEASING
        else:
            leases.wanted_w[row] = told.setpoint_w[k]
            leases.wanted_no[row] = told.dispatch_no[k]
            leases.wanted_reference_w[row] = told.reference_w[k]
            take(row, mono_ns, picture, leases)
            leases.wanted_w[row] = np.nan
            leases.wanted_no[row] = -1
        give_sequence(row, seq, mono_ns, now_ns, nameplate, leases, gateways)
        leases.ttl_s[row] = told.ttl_s[k]


@column_kernel(types.void(types.int64, _ROWS, types.int64, NAMEPLATE, PICTURE, LEASES, GATEWAYS, OUTBOX))
def _tell_again(
    n: int,
    rows: I4,
    now_ns: int,
    nameplate: Nameplate,
    picture: Picture,
    leases: Leases,
    gateways: Gateways,
    outbox: Outbox,
) -> None:
    for k in range(rows.size):
        n = put_row(n, rows[k], now_ns, nameplate, picture, leases, gateways, outbox)
