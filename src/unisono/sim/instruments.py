"""Instruments between the devices and their readings: scale errors, coarse steps, separate meters, and liars.

``tell`` takes what the devices report, makes of it what their instruments show, and adds the meters' readings (row +
n_devices). Who lies, how, and since when is drawn from the seed. What each lie came to is kept, to judge the platform.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import MISSING_NS, NS_PER_MS, NS_PER_S
from unisono.sim.devices import Reports
from unisono.sim.faults import Faults
from unisono.sim.roster import Floats
from unisono.sim.spec import InstrumentSpec
from unisono.sim.world import World

Rows = NDArray[np.int64]
Watts = NDArray[np.float32]


class Lie(IntEnum):
    """How an instrument lies."""

    NONE = 0
    FROZEN = 1
    JUMPS = 2
    TURNED = 3
    SCALED = 4
    OFFSET = 5


# A reading is visibly false when it is off by more than both; less is within what instruments and taper do.
VISIBLE_FRAC: Final = 0.05
VISIBLE_W: Final = 100.0
# A scale error or an offset is one beyond both sources' accuracies: off by so much of the true power besides.
VISIBLE_OF_POWER_FRAC: Final = 0.1
# Readings that have to be visibly false before a lie can be observed at all; of spikes each is one.
VISIBLE_READINGS: Final = {Lie.FROZEN: 3, Lie.JUMPS: 2, Lie.TURNED: 3, Lie.SCALED: 3, Lie.OFFSET: 3}
# One reading in five of a jumping meter is a spike, this many ratings high.
SPIKE_CHANCE: Final = 0.2
SPIKE_RATINGS: Final = (1.3, 4.0)


class Instruments:
    """All instruments of a region. Arrays of two rows are (own, meter)."""

    def __init__(self, world: World, faults: Faults) -> None:
        assert world.spec.instruments is not None, "a region without instruments has none to make"
        self._spec: InstrumentSpec = world.spec.instruments
        self._world, self._faults = world, faults
        n = self._n = world.roster.n_devices
        plate = world.roster.nameplate
        self._rating_w: Floats = np.maximum(plate.power_max_w, -plate.power_min_w)
        spec = self._spec
        rng = np.random.default_rng([world.spec.seed, 13])
        self.has_meter: NDArray[np.bool_] = rng.random(n) < spec.meter_frac
        period_s = rng.choice(np.array(spec.meter_period_s), n)
        self._period_ns: Rows = np.round(period_s * NS_PER_S).astype(np.int64)
        self._due_ns: Rows = world.start_ns + (rng.random(n) * self._period_ns).astype(np.int64)
        errors = (spec.own_error_frac, spec.meter_error_frac)
        self._gain: Floats = 1.0 + np.vstack([rng.uniform(-error, error, n) for error in errors])
        is_coarse = rng.random(n) < spec.coarse_frac
        self.step_w: Floats = np.where(is_coarse, rng.choice(np.array(spec.coarse_steps_w), n), 0.1)
        self._told_w: Watts = np.full((2, n), np.nan, np.float32)
        self._told_soc: Watts = np.full(n, np.nan, np.float32)
        self._told_degc: Watts = np.full(n, np.nan, np.float32)
        self._rng = np.random.default_rng([world.spec.seed, 14])
        self._plan_lies(world)

    def _plan_lies(self, world: World) -> None:
        """Draw kinds, instants and sizes; a scale or an offset can only be told where there are two sources."""
        spec, n = self._spec, self._n
        rng = np.random.default_rng([world.spec.seed, 15])
        self.lie: NDArray[np.uint8] = np.zeros(n, np.uint8)
        each = round(spec.lie_frac * n / (len(Lie) - 1))
        # Who reports more rarely than this is honest.
        is_slow = world.roster.telemetry_period_s > spec.lie_period_max_s
        free = rng.permutation(n)
        free = free[self.has_meter[free] | ~is_slow[free]]
        for lie in (Lie.SCALED, Lie.OFFSET, Lie.FROZEN, Lie.JUMPS, Lie.TURNED):
            fits = self.has_meter[free] if lie in (Lie.SCALED, Lie.OFFSET) else np.ones(free.size, bool)
            chosen = free[fits][:each]
            self.lie[chosen] = lie
            free = free[~np.isin(free, chosen)]
        self.is_meter_lying: NDArray[np.bool_] = self.has_meter & (is_slow | (rng.random(n) < 0.7))
        begins_s = rng.uniform(spec.lie_from_s, max(spec.lie_from_s, spec.lie_to_s), n)
        self.begins_ns: Rows = world.start_ns + (begins_s * NS_PER_S).astype(np.int64)
        self._scale: Floats = np.where(rng.random(n) < 0.5, rng.uniform(0.5, 0.75, n), rng.uniform(1.3, 1.45, n))
        self._offset_w: Floats = rng.choice([-1.0, 1.0], n) * np.maximum(
            rng.uniform(0.15, 0.35, n) * self._rating_w, 250.0
        )
        # When each liar's first visibly false reading was told, and how many there were.
        self.visible_ns: Rows = np.full(n, MISSING_NS)
        self.n_visible: Rows = np.zeros(n, np.int64)

    def is_observable(self) -> NDArray[np.bool_]:
        """Return for each device whether its lie came to anything that could be seen."""
        needed = np.array([VISIBLE_READINGS.get(lie, 1) for lie in Lie])[self.lie]
        observable: NDArray[np.bool_] = (self.lie != Lie.NONE) & (self.n_visible >= needed)
        return observable

    def tell(self, reports: Reports, now_ns: int) -> Reports:
        """Return the devices' and the meters' readings as their instruments show them."""
        own = reports.row
        told_w = self._shown(0, own, reports.power_w.astype(np.float64), now_ns)
        soc, degc = reports.soc_frac, reports.temperature_degc
        frozen = self._is_lying(0, own, now_ns) & (self.lie[own] == Lie.FROZEN)
        soc = np.where(frozen, self._told_soc[own], soc)
        degc = np.where(frozen, self._told_degc[own], degc)
        self._told_soc[own], self._told_degc[own] = soc, degc
        metered = self._metered(now_ns)
        true_w = self._world.power_w[metered]
        noise_w = (0.0025 * np.abs(true_w) + 1.0) * self._rng.standard_normal(metered.size)
        metered_w = self._shown(1, metered, true_w + noise_w, now_ns)
        none = np.full(metered.size, np.nan, np.float32)
        # A meter's own way takes a tenth of a second or two, and its clock is right.
        stamped_ns = now_ns - (self._rng.uniform(0.05, 0.3, metered.size) * NS_PER_S).astype(np.int64)
        return Reports(
            np.concatenate([own, metered + self._n]),
            np.concatenate([reports.measured_ns, stamped_ns - stamped_ns % NS_PER_MS]),
            np.concatenate([told_w, metered_w]),
            np.concatenate([soc, none]),
            np.concatenate([degc, none]),
            np.concatenate([reports.status, np.zeros(metered.size, np.uint16)]),
        )

    def _metered(self, now_ns: int) -> Rows:
        """Return the devices whose meters are read now, through their gateways."""
        due = np.flatnonzero(self.has_meter & (self._due_ns <= now_ns))
        self._due_ns[due] += ((now_ns - self._due_ns[due]) // self._period_ns[due] + 1) * self._period_ns[due]
        is_up = self._faults.gateway_is_up[self._world.roster.gateway_of_row[due]]
        return due[is_up & self._faults.reachable()[due]]

    def _is_lying(self, of: int, row: Rows, now_ns: int) -> NDArray[np.bool_]:
        has_begun = (self.lie[row] != Lie.NONE) & (self.begins_ns[row] <= now_ns)
        lying: NDArray[np.bool_] = has_begun & (self.is_meter_lying[row] == bool(of))
        return lying

    def _shown(self, of: int, row: Rows, power_w: Floats, now_ns: int) -> Watts:
        """Return what the instruments show of ``power_w``; keep which lies could be seen."""
        step_w = self.step_w[row]
        honest_w = np.round(power_w * self._gain[of, row] / step_w) * step_w + 0.0
        shown_w = honest_w.copy()
        at = np.flatnonzero(self._is_lying(of, row, now_ns))
        lying = row[at]
        shown_w[at] = self._lied(of, lying, honest_w[at])
        off_w = np.abs(shown_w[at] - honest_w[at])
        rating_w = self._rating_w[lying]
        least_w = np.maximum(VISIBLE_FRAC * rating_w, VISIBLE_W)
        is_scale = np.isin(self.lie[lying], (Lie.SCALED, Lie.OFFSET))
        least_w += np.where(is_scale, VISIBLE_OF_POWER_FRAC * np.abs(honest_w[at]), 0.0)
        seen = lying[off_w > least_w]
        self.n_visible[seen] += 1
        first = seen[self.visible_ns[seen] == MISSING_NS]
        self.visible_ns[first] = now_ns
        told_w: Watts = shown_w.astype(np.float32)
        self._told_w[of, row] = told_w
        return told_w

    def _lied(self, of: int, row: Rows, honest_w: Floats) -> Floats:
        """Return what liars show in place of ``honest_w``; one entry a liar."""
        lie, step_w = self.lie[row], self.step_w[row]
        before_w = self._told_w[of, row].astype(np.float64)
        rng = self._rng
        height_w = rng.uniform(*SPIKE_RATINGS, row.size) * self._rating_w[row] + VISIBLE_W
        spikes = rng.random(row.size) < SPIKE_CHANCE
        shown_w = np.select(
            [lie == Lie.FROZEN, (lie == Lie.JUMPS) & spikes, lie == Lie.TURNED, lie == Lie.SCALED, lie == Lie.OFFSET],
            [
                np.where(np.isnan(before_w), honest_w, before_w),
                rng.choice([-1.0, 1.0], row.size) * height_w,
                -honest_w,
                honest_w * self._scale[row],
                honest_w + self._offset_w[row],
            ],
            honest_w,
        )
        is_steps = lie != Lie.FROZEN
        shown_w[is_steps] = np.round(shown_w[is_steps] / step_w[is_steps]) * step_w[is_steps] + 0.0
        return shown_w
