"""Instants that a command tells are judged by the receiver's clock; where its readings prove it ahead, it is told so.

A reading from the future can only come of a clock that is ahead. A reading from the past may just as well be a slow
way, so a clock that may be behind is told the plain instant: what is sent in time never reaches it too late.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.fleet.columns import F4, I4
from unisono.fleet.fold_kernels import CLOCK_BOUND_S
from unisono.fleet.table import FleetTable
from unisono.model.batches import CommandFrames
from unisono.model.technology import SourceKind


def lead_s(table: FleetTable, rows: I4) -> F4:
    """Return by how many whole seconds the clocks of ``rows`` are known to be ahead; 0 where nothing says so."""
    offset_s = table.slots.offset_s
    own_s = offset_s[SourceKind.DEVICE, rows]
    own_s = np.where(np.isnan(own_s), offset_s[SourceKind.VENDOR_CLOUD, rows], own_s)
    lead: F4 = np.floor(np.clip(np.nan_to_num(-own_s), 0.0, CLOCK_BOUND_S))
    return lead


def in_their_clocks(table: FleetTable, frames: CommandFrames) -> CommandFrames:
    """Return the frames with each expiry as the receiver's clock will show it.

    A renewal's receiver is the gateway, whose clock is ahead by what the clocks of all its devices are.
    """
    is_command = frames.device_no >= 0
    lead = np.zeros(len(frames), np.float32)
    lead[is_command] = lead_s(table, table.row_of_device[frames.device_no[is_command]])
    if not is_command.all():
        gateways = np.array([table.gateway_of_no[no] for no in frames.gateway_no[~is_command].tolist()], np.intp)
        lead[~is_command] = _of_gateways(table, gateways)
    if not lead.any():
        return frames
    return dataclasses.replace(frames, expires_ns=frames.expires_ns + lead.astype(np.int64) * NS_PER_S)


def _of_gateways(table: FleetTable, gateways: NDArray[np.intp]) -> F4:
    """Return the least lead of the devices behind each of ``gateways``."""
    least = np.zeros(table.n_gateways, np.float32)
    least[gateways] = np.float32(CLOCK_BOUND_S)
    gateway_of_row = table.nameplate.gateway[: table.n_devices]
    rows = np.flatnonzero(least[gateway_of_row] > 0.0).astype(np.int32)
    np.minimum.at(least, gateway_of_row[rows], lead_s(table, rows))
    return least[gateways]
