"""The state of one shard: its fleet, its dispatches, its sequences. It changes only inside `step` and `fold`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from unisono.brain.dispatch.controller import ActiveDispatch, SteeringConfig
from unisono.fleet.table import FleetTable
from unisono.model.ingest import Telling
from unisono.model.totals import LogEntry
from unisono.plant.leases import SEQ_BITS

# Thirty years: receipts of before the machine's own clock began are then still after this one's.
MONO_BEGINS_NS: Final = 10**18


class PlantConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a shard is run; the reasons stand with the parts that use them."""

    cycle_s: float = 4.0
    # Into how many shards the plant is split: until told otherwise, each takes as much of a target as the others.
    n_shards: int = 1
    # What `dispatchable_*` is promised for.
    dispatchable_hold_s: float = 900.0
    dead_band_w: float = 50.0
    dead_band_frac: float = 0.01
    # What is sent now shows so much later.
    lead_s: float = 5.0
    gap_gain: float = 0.5
    gap_max_frac: float = 0.3
    plant_ramp_w_per_s: float = float("inf")
    # A reference is frozen at acceptance; if the event begins later than this, again when it begins.
    reference_age_max_s: float = 900.0
    # The month with whose first local day a season begins, in which owners' events are counted.
    season_month: int = 1
    # The sun's irradiance and the ingest counters are taken anew so often.
    clear_sky_every_s: float = 60.0
    counters_every_s: float = 4.0


@dataclass(slots=True)
class PlantState:
    """All that a shard remembers. ``dispatches`` are scheduled or active; ``ended`` keeps revisions of the others."""

    shard: int
    epoch: int
    config: PlantConfig
    fleet: FleetTable
    next_seq: int
    # The state's own monotonic clock is so far ahead of the process's; it goes on over restarts and is never negative.
    mono_shift_ns: int = MONO_BEGINS_NS
    next_dispatch_no: int = 1
    cycle: int = 0
    # When this epoch's owner first ran; -1: not yet.
    epoch_mono_ns: int = -1
    clear_sky_mono_ns: int = -1
    counters_mono_ns: int = -1
    indexed_version: int = -1
    # Up to when the picture reaches.
    folded_mono_ns: int = -1
    # Epoch and cycle of an earlier owner up to which the leases hold what was told.
    told: tuple[int, int] = (-1, -1)
    dispatches: dict[str, ActiveDispatch] = field(default_factory=dict)
    ended: dict[str, tuple[int, str]] = field(default_factory=dict)
    pending_log: list[LogEntry] = field(default_factory=list)
    # By dispatch and reason: how many of its setpoints the gates trimmed in the newest cycle.
    trimmed: dict[str, dict[str, int]] = field(default_factory=dict)
    # Which gateways' counters were told under this owner; not in the checkpoint, for each owner tells all of them.
    telling: Telling = field(default_factory=Telling)
    # What is constant in the totals of a portfolio while the fleet's version is.
    static_totals: dict[int, dict[str, object]] = field(default_factory=dict)

    @property
    def n_devices(self) -> int:
        """Devices in this shard's registry."""
        return self.fleet.n_devices

    @property
    def steering(self) -> SteeringConfig:
        """The dispatch loop's settings."""
        config = self.config
        return SteeringConfig(
            cycle_s=config.cycle_s,
            dead_band_w=config.dead_band_w,
            dead_band_frac=config.dead_band_frac,
            lead_s=config.lead_s,
            gap_gain=config.gap_gain,
            gap_max_frac=config.gap_max_frac,
            plant_ramp_w_per_s=config.plant_ramp_w_per_s,
        )


def new_state(shard: int, epoch: int, config: PlantConfig | None = None) -> PlantState:
    """Return the empty state of a shard under an owner's epoch."""
    return PlantState(
        shard=shard, epoch=epoch, config=config or PlantConfig(), fleet=FleetTable(), next_seq=first_seq(epoch)
    )


def first_seq(epoch: int) -> int:
    """Return the first command sequence of an epoch; above every one of the epochs before."""
    return (epoch << SEQ_BITS) + 1
