"""What arrived, folded into the columns: readings into the slot of their source, answers into the leases.

A reading ends in exactly one counter (COUNTER_NAMES). It touches the state only if it is newer, by its own device's
clock, than what its slot holds. Ages come from its monotonic receipt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from unisono.fleet.fold_kernels import Inflow, fold_acks, fold_readings
from unisono.fleet.table import FleetTable
from unisono.model.batches import NO_SEQ, AckBatch, ReadingBatch

# Batches that a gateway may send out of order and still have their repetition recognised by sequence.
WINDOW: Final = 64
# A sequence so far below the newest means that the gateway has begun to count anew.
RESTARTED: Final = 1024
_WINDOW_MASK: Final = (1 << WINDOW) - 1
_ACCEPTED: Final = 0
_DUPLICATE: Final = 2

# Seconds by which a refusing device is left alone, by AckCode; a refusal is its owner's right and no fault.
REFUSAL_PAUSE_S: Final = np.array(
    [
        0.0,  # ACCEPTED
        60.0,  # REFUSED_BOUNDS: its bounds move with its state of charge
        3600.0,  # REFUSED_OPT_OUT
        900.0,  # REFUSED_LOCAL_OVERRIDE
        86_400.0,  # REFUSED_UNSUPPORTED
        60.0,  # REFUSED_RATE_LIMITED
        60.0,  # REFUSED_EXPIRED: it came too late, or the device's clock is ahead by more than a lease
        60.0,  # REFUSED_OLD_EPOCH: it obeys a newer owner of the shard
        30.0,  # UNREACHABLE
        300.0,  # REFUSED_OTHER
    ],
    np.float64,
)


def apply_readings(table: FleetTable, batches: Sequence[ReadingBatch], received_mono_ns: Sequence[int]) -> int:
    """Fold the batches in their order; return how many readings were kept."""
    taken: list[ReadingBatch] = []
    sizes: list[int] = []
    gateways: list[int] = []
    known_ns: list[int] = []
    received_ns: list[int] = []
    for batch, mono_ns in zip(batches, received_mono_ns, strict=True):
        is_repeated = []
        pieces = batch.pieces()
        for gateway_no, batch_seq, n in pieces.tolist():
            gateway = table.gateway_row(gateway_no)
            table.gateways.heard_mono_ns[gateway] = mono_ns
            is_repeated.append(batch_seq != NO_SEQ and gateway > 0 and _is_repeated(table, gateway, batch_seq))
            if is_repeated[-1]:
                table.counters[gateway, _ACCEPTED] += n
                table.counters[gateway, _DUPLICATE] += n
            elif n:
                sizes.append(n)
                gateways.append(gateway)
                known_ns.append(batch.known_ns)
                received_ns.append(mono_ns)
        taken.append(batch.only(np.repeat(~np.array(is_repeated), pieces[:, 2])) if any(is_repeated) else batch)
    if not sizes:
        return 0
    return fold_readings(
        _joined(taken, sizes),
        np.array(gateways, np.int32),
        np.array(known_ns, np.int64),
        np.array(received_ns, np.int64),
        table.row_of_device,
        table.nameplate,
        table.slots,
        table.picture,
        table.leases,
        table.gateways,
        table.counters,
    )


def apply_acks(table: FleetTable, batches: Sequence[AckBatch], received_mono_ns: Sequence[int], now_ns: int) -> int:
    """Fold what devices and gateways answered, in order; return how many refusals there were."""
    pieces = np.concatenate([batch.pieces() for batch in batches])
    gateways = table.gateway_rows(pieces[:, 0].astype(np.int32))
    received_ns = np.repeat(np.array(received_mono_ns, np.int64), [len(batch.pieces()) for batch in batches])
    table.gateways.heard_mono_ns[gateways] = received_ns
    return fold_acks(
        np.repeat(np.arange(len(pieces), dtype=np.int32), pieces[:, 2]),
        np.concatenate([batch.device_no for batch in batches]),
        np.concatenate([batch.seq for batch in batches]),
        np.concatenate([batch.code for batch in batches]),
        gateways,
        received_ns,
        now_ns,
        REFUSAL_PAUSE_S,
        table.row_of_device,
        table.leases,
        table.gateways,
    )


def _is_repeated(table: FleetTable, gateway: int, seq: int) -> bool:
    """Note the sequence; True if it was noted before. Too old to tell: False, its readings are judged one by one."""
    newest = int(table.gateways.newest_seq[gateway])
    window = int(table.gateways.seq_window[gateway])
    if newest < 0 or newest - seq > RESTARTED:
        newest, window = seq, 1
    elif seq > newest:
        newest, window = seq, ((window << min(seq - newest, WINDOW)) | 1) & _WINDOW_MASK
    elif newest - seq >= WINDOW:
        return False
    elif window >> (newest - seq) & 1:
        return True
    else:
        window |= 1 << (newest - seq)
    table.gateways.newest_seq[gateway] = newest
    table.gateways.seq_window[gateway] = window
    return False


def _joined(batches: Sequence[ReadingBatch], sizes: Sequence[int]) -> Inflow:
    """Return the rows of the batches, each with the index of the piece that it came with; ``sizes`` are the pieces'."""
    columns = [np.concatenate([getattr(batch, name) for batch in batches]) for name in Inflow._fields[1:]]
    return Inflow(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), *columns)
