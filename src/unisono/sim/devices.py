"""All devices of the region as the platform meets them: they take commands, keep leases, report, and are watched.

``Devices`` puts the physical ``World``, the lease kernels, the faults and the ledger together. It knows no network:
``region`` (movable clock) and ``live`` (sockets) bring messages to it and take its readings and answers away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import MISSING_NS, NS_PER_S
from unisono.base.kernel import kernel
from unisono.sim import leases
from unisono.sim.chance import keys_of, normal
from unisono.sim.faults import Faults, plan_faults
from unisono.sim.ledger import Ledger
from unisono.sim.roster import Floats, Roster
from unisono.sim.world import World

Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Answers:
    """What devices answered; ``code`` is an AckCode, one entry an answered command."""

    row: Whole
    gateway: Whole
    epoch: Whole
    seq: Whole
    code: NDArray[np.uint8]
    at_ns: Whole


@dataclass(frozen=True, slots=True)
class Reports:
    """Readings that are due: what the devices say, which need not be true."""

    row: Whole
    measured_ns: Whole
    power_w: NDArray[np.float32]
    soc_frac: NDArray[np.float32]
    temperature_degc: NDArray[np.float32]
    status: NDArray[np.uint16]


class Devices:
    """The region's devices behind their wire; ``wall_ns`` is true time, ``mono_ns`` true monotonic time."""

    def __init__(self, world: World, mono_ns: int) -> None:
        self.world = world
        self.roster: Roster = world.roster
        spec, start_ns = world.spec, world.start_ns
        self.faults: Faults = plan_faults(spec, self.roster)
        n = self.roster.n_devices
        rng = np.random.default_rng([spec.seed, 6])
        net = spec.network
        self._drift = rng.uniform(-net.drift_max_ppm, net.drift_max_ppm, n) * 1e-6
        self._offset_s = rng.uniform(-net.clock_offset_max_s, net.clock_offset_max_s, n)
        self._mono_0_ns = mono_ns
        self._clocks_at_ns = MISSING_NS
        self.lease: Whole = np.zeros((leases.N_LEASE, n), np.int64)
        self.lease[leases.NEWEST_SEQ : leases.NEWEST_EPOCH + 1] = -1
        self.epochs: Whole = np.full((1, self.roster.n_gateways), -1, np.int64)
        self._value_w: Floats = np.zeros(n)
        self._event: Whole = np.zeros((leases.N_EVENT, n), np.int64)
        self._own_clock_ns: Whole = np.zeros(n, np.int64)
        self._drift_ns: Floats = np.zeros(n)
        order = np.argsort(self.roster.gateway_of_row, kind="stable").astype(np.int64)
        bounds = np.searchsorted(self.roster.gateway_of_row[order], np.arange(self.roster.n_gateways + 1))
        self.rows_of_gateway = tuple(order[bounds[g] : bounds[g + 1]] for g in range(self.roster.n_gateways))
        self.ledger = Ledger(self.roster, start_ns)
        self._noise_key = keys_of(spec.seed, n, 7)
        self._frozen: NDArray[np.float32] = np.full((3, n), np.nan, np.float32)
        self._period_ns: Whole = np.round(self.roster.telemetry_period_s * NS_PER_S).astype(np.int64)
        # A gateway reads all its devices at one instant; a cloud each for itself.
        phase = rng.random(self.roster.n_gateways)[self.roster.gateway_of_row]
        is_cloud = self.roster.cloud_of_gateway[self.roster.gateway_of_row] >= 0
        phase = np.where(is_cloud, rng.random(n), phase)
        self._due_ns: Whole = start_ns + (phase * self._period_ns).astype(np.int64)
        self._advance_clocks(mono_ns)

    def receive(self, command: Whole, command_w: Floats, mono_ns: int) -> Answers:
        """Take in commands (``leases.C_*`` columns, in order of arrival); all rows are the region's."""
        n = command.shape[1]
        code, seq = np.zeros(n, np.uint8), np.zeros(n, np.int64)
        self._advance_clocks(mono_ns)
        plate = self.roster.nameplate
        reachable = self.faults.reachable()
        leases.receive(
            self.lease,
            np.ascontiguousarray(command),
            command_w,
            self.epochs,
            self._value_w,
            plate.power_min_w,
            plate.power_max_w,
            self.faults.trait,
            reachable,
            self.world.is_connected,
            self._own_clock_ns,
            mono_ns,
            code,
            seq,
        )
        self.ledger.note_commands(command, code)
        kept = code != leases.NO_ANSWER
        return Answers(
            command[leases.C_ROW][kept],
            command[leases.C_GATEWAY][kept],
            command[leases.C_EPOCH][kept],
            seq[kept],
            code[kept],
            command[leases.C_AT_NS][kept],
        )

    def renew(self, gateway: int, epoch: int, through_seq: int, *, is_expired: bool, mono_ns: int) -> int:
        """Take in a renewal at one gateway; return its AckCode."""
        self._advance_clocks(mono_ns)
        rows, reachable = self.rows_of_gateway[gateway], self.faults.reachable()
        return leases.renew(
            self.lease,
            self.epochs,
            rows,
            reachable,
            self._own_clock_ns,
            gateway,
            epoch,
            through_seq,
            is_expired,
            mono_ns,
        )

    def advance(self, now_ns: int, mono_ns: int) -> NDArray[np.intp]:
        """Move leases, faults, physics and the ledger to now; return the gateways that have just come back."""
        step_s = (now_ns - self.world.now_ns) / NS_PER_S
        back = self.faults.advance(now_ns)
        self._advance_clocks(mono_ns)
        plate = self.roster.nameplate
        n_events = leases.settle(
            self.lease,
            self._value_w,
            self.world.commanded_w,
            self.world.twin_w,
            plate.power_min_w,
            plate.power_max_w,
            self.faults.trait,
            self._own_clock_ns,
            now_ns,
            self._event,
        )
        self.world.advance(now_ns)
        self.ledger.note_events(self._event[:, :n_events], self.epochs[0])
        self.ledger.observe(now_ns, mono_ns, step_s, self.world, lease=self.lease, trait=self.faults.trait)
        if back.size:
            self.report_at_once(back, now_ns)
        return back

    def report_at_once(self, gateways: NDArray[np.intp], now_ns: int) -> None:
        """After an outage all devices of ``gateways`` report together: the reconnect storm."""
        for gateway in gateways:
            self._due_ns[self.rows_of_gateway[int(gateway)]] = now_ns

    def collect(self, now_ns: int, delay_s: Floats | float = 0.0) -> Reports:
        """Return the readings that are due at ``now_ns``, stamped ``delay_s`` ago by the devices' own clocks."""
        is_due = self._due_ns <= now_ns
        missed = (now_ns - self._due_ns[is_due]) // self._period_ns[is_due] + 1
        self._due_ns[is_due] += missed * self._period_ns[is_due]
        is_due &= self.faults.gateway_is_up[self.roster.gateway_of_row] & ~self.faults.is_dropped
        row = np.flatnonzero(is_due)
        delay = delay_s if isinstance(delay_s, float) else delay_s[row]
        elapsed_s = (now_ns - self.ledger.start_ns) / NS_PER_S
        off_s = self._offset_s[row] + self._drift[row] * elapsed_s + self.faults.skew_s[row] - delay
        power = np.empty(row.size, np.float32)
        _measure(row, self._noise_key, now_ns // NS_PER_S, self.world.power_w, power)
        trait = self.faults.trait[row]
        wrong = (trait & leases.WRONG_SIGN) > 0
        power[wrong] = -power[wrong]
        soc = self.world.soc_frac[row].astype(np.float32)
        temperature = self.world.temperature_degc[row].astype(np.float32)
        is_frozen = (trait & leases.FROZEN) > 0
        self._freeze(is_frozen, row[is_frozen], (power, soc, temperature))
        return Reports(
            row=row,
            measured_ns=(now_ns + (off_s * NS_PER_S).astype(np.int64)) // 1_000_000 * 1_000_000,
            power_w=power,
            soc_frac=soc,
            temperature_degc=temperature,
            status=self.world.is_connected[row].astype(np.uint16),
        )

    def misbehave(self, now_ns: int) -> None:
        """Start the timeline of faults."""
        self.faults.begin(now_ns)
        self.ledger.misbehaves_from_ns = now_ns

    @property
    def is_misbehaving(self) -> bool:
        """Say whether the timeline of faults has begun."""
        return self.faults.begun_ns != MISSING_NS

    def true_deliverable_w(self, hold_s: float, watched: NDArray[np.bool_] | None = None) -> float:
        """Return what can be had upwards now for ``hold_s`` from (watched) devices that are reachable and willing."""
        willing = (self.faults.trait & (leases.REFUSES | leases.OPTS_OUT | leases.DOES_NOTHING)) == 0
        willing &= (
            self.faults.reachable() & self.faults.gateway_is_up[self.roster.gateway_of_row] & ~self.roster.is_opted_out
        )
        if watched is not None:
            willing &= watched
        return float(self.world.deliverable_up_w(hold_s)[willing].sum())

    def _freeze(
        self,
        at: NDArray[np.bool_],
        rows: Whole,
        columns: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        """Replace what frozen devices (``rows``, at ``at`` in the columns) say by what they said first."""
        if not rows.size:
            return
        new = np.isnan(self._frozen[0, rows])
        self._frozen[:, rows[new]] = np.vstack([column[at] for column in columns])[:, new]
        for column, first in zip(columns, self._frozen[:, rows], strict=True):
            column[at] = first

    def _advance_clocks(self, mono_ns: int) -> None:
        """Bring the devices' own monotonic clocks to ``mono_ns``; they drift."""
        if mono_ns == self._clocks_at_ns:
            return
        self._clocks_at_ns = mono_ns
        elapsed_ns = mono_ns - self._mono_0_ns
        np.multiply(self._drift, elapsed_ns, out=self._drift_ns)
        np.add(self._drift_ns, elapsed_ns, out=self._own_clock_ns, casting="unsafe")


@kernel("void(i8[::1], u8[::1], i8, f8[::1], f4[::1])")
def _measure(row: Whole, key: NDArray[np.uint64], counter: int, power_w: Floats, told_w: NDArray[np.float32]) -> None:
    """What the devices' meters show: 0.5 % of reading and 2 W of noise (ANSI C12.20 class 0.5 for the meter)."""
    for at in range(row.size):
        true = power_w[row[at]]
        told_w[at] = round(true + (0.0025 * abs(true) + 1.0) * normal(key[row[at]], counter), 1)
