"""What a device is able to do, and what its owner allows: the static facts that a fleet row is made from."""

from __future__ import annotations

import msgspec


class Ratings(msgspec.Struct, frozen=True, kw_only=True):
    """Nameplate and physics of one device. Power is positive into the grid; what does not apply keeps its default.

    ``power_max_w`` >= ``power_min_w``; a pure load has ``power_max_w`` 0, a pure generator ``power_min_w`` 0.
    """

    power_max_w: float
    power_min_w: float
    energy_capacity_wh: float = 0.0
    charge_efficiency_frac: float = 1.0
    discharge_efficiency_frac: float = 1.0
    # Infinite: as good as at once, seen from a 4 s cycle.
    ramp_w_per_s: float = float("inf")
    # The least power, either way, at which the device runs when it is not at 0.
    power_step_min_w: float = 0.0
    # True: only 0 or full power.
    is_on_off: bool = False
    min_on_s: float = 0.0
    min_off_s: float = 0.0
    # Blocks of flexible load: notice before a change, longest change, and energy that comes back afterwards.
    notice_s: float = 0.0
    duration_max_s: float = float("inf")
    rebound_frac: float = 0.0


class OwnerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner allows; the platform never goes beyond it."""

    soc_reserve_frac: float = 0.0
    soc_max_frac: float = 1.0
    comfort_low_degc: float = float("nan")
    comfort_high_degc: float = float("nan")
    # An EV must hold needed_energy_wh at ready_by_ns (-1: no such wish).
    ready_by_ns: int = -1
    needed_energy_wh: float = 0.0
    events_per_season_max: int = 2**31 - 1


class OptOut(msgspec.Struct, frozen=True, kw_only=True):
    """A half-open window in which a device is not to be moved."""

    start_ns: int
    end_ns: int
    reason: str = ""
