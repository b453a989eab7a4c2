"""Instants that a command tells are judged by the receiver's clock; where its readings prove it ahead, it is told so.

A reading from the future can only come of a clock that is ahead. A reading from the past may just as well be a slow
way, so a clock that may be behind is told the plain instant: what is sent in time never reaches it too late.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from unisono.base.instants import NS_PER_S
from unisono.base.kernel import kernel
from unisono.fleet.columns import F4, I4
from unisono.fleet.fold_kernels import CLOCK_BOUND_S
from unisono.fleet.table import FleetTable
from unisono.model.batches import CommandFrames
from unisono.model.technology import SourceKind

_DEVICE: Final = int(SourceKind.DEVICE)
_VENDOR_CLOUD: Final = int(SourceKind.VENDOR_CLOUD)


def in_their_clocks(table: FleetTable, frames: CommandFrames) -> CommandFrames:
    """Return the frames with each expiry as the receiver's clock will show it.

    A renewal's receiver is the gateway, whose clock is ahead by what the clocks of all its devices are. Renewals
    cost 1 to 3 ms for a million devices.
    """
    is_command = frames.device_no >= 0
    lead = np.zeros(len(frames), np.float32)
    lead[is_command] = lead_s(table, table.row_of_device[frames.device_no[is_command]])
    if not is_command.all():
        gateways = table.gateway_rows(frames.gateway_no[~is_command])
        lead[~is_command] = _of_gateways(table, gateways)
    if not lead.any():
        return frames
    return dataclasses.replace(frames, expires_ns=frames.expires_ns + lead.astype(np.int64) * NS_PER_S)


def lead_s(table: FleetTable, rows: I4) -> F4:
    """Return by how many whole seconds the clocks of ``rows`` are known to be ahead; 0 where nothing says so."""
    lead = np.empty(rows.size, np.float32)
    _leads(rows, table.slots.offset_s, lead)
    return lead


def _of_gateways(table: FleetTable, gateways: I4) -> F4:
    """Return the least lead of the devices behind each of ``gateways``."""
    least = np.zeros(table.n_gateways, np.float32)
    least[gateways] = np.float32(CLOCK_BOUND_S)
    _lessen(table.nameplate.gateway[: table.n_devices], table.slots.offset_s, least)
    return least[gateways]


@kernel("f4(i8, f4[:, ::1])")
def _lead(row: int, offset_s: F4) -> float:
    own_s = offset_s[_DEVICE, row]
    if np.isnan(own_s):
        own_s = offset_s[_VENDOR_CLOUD, row]
    # Also where it is not known: nothing compares with NaN.
    if not own_s < 0.0:
        return 0.0
    return float(np.floor(min(-own_s, np.float32(CLOCK_BOUND_S))))


@kernel("void(i4[::1], f4[:, ::1], f4[::1])")
def _leads(rows: I4, offset_s: F4, lead: F4) -> None:
    for k in range(rows.size):
        lead[k] = _lead(rows[k], offset_s)


@kernel("void(i4[::1], f4[:, ::1], f4[::1])")
def _lessen(gateway_of_row: I4, offset_s: F4, least: F4) -> None:
    """Bring ``least``, by gateway, down to the least lead of the gateway's rows; those at 0 are not looked at."""
    for row in range(gateway_of_row.size):
        gateway = gateway_of_row[row]
        if least[gateway] > 0.0:
            least[gateway] = min(least[gateway], np.float32(_lead(row, offset_s)))
