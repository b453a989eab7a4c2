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
    LEAVING_W = 9
    COMING_W = 10
    KEPT_W = 11
    GAP_W = 12
    REACH_W = 13
    NET_W = 14
    BASE_W = 15
    N_ELIGIBLE = 16
    N_TARGETED = 17
    N_ACKNOWLEDGED = 18
    N_MOVING = 19
    N_DELIVERED = 20
    N_OPTED_OUT = 21
    N_REFUSED = 22
    N_SILENT = 23
    N_SUSPECT = 24
    N_REPORTED = 25
    N_MEASURED = 26


SUM_NAMES: Final = tuple(one.name.lower() for one in Sum)
