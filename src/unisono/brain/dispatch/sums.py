"""What a dispatch's members add up to in one cycle: one number a name, written by `weigh`, read by the loop."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Sum(IntEnum):
    """Index into the sums of a dispatch; names end in the unit, ``N_`` are counts."""

    COMMANDED_W = 0
    ACKNOWLEDGED_W = 1
    REPORTED_W = 2
    MEASURED_W = 3
    DELIVERED_W = 4
    DELIVERED_VAR_W2 = 5
    REFERENCE_W = 6
    PINNED_W = 7
    UNDER_WAY_W = 8
    COMING_W = 9
    KEPT_W = 10
    GAP_W = 11
    REACH_W = 12
    NET_W = 13
    BASE_W = 14
    N_ELIGIBLE = 15
    N_TARGETED = 16
    N_ACKNOWLEDGED = 17
    N_MOVING = 18
    N_DELIVERED = 19
    N_OPTED_OUT = 20
    N_REFUSED = 21
    N_SILENT = 22
    N_SUSPECT = 23
    N_REPORTED = 24
    N_MEASURED = 25


SUM_NAMES: Final = tuple(one.name.lower() for one in Sum)
