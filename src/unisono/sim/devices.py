"""All devices of the region as the platform meets them: they take commands, keep leases, report, and are watched.

``Devices`` puts the physical ``World``, the lease kernels, the faults and the ledger together. It knows no network:
``region`` (movable clock) and ``live`` (sockets) bring messages to it and take its readings and answers away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import MISSING_NS, NS_PER_MS, NS_PER_S
from unisono.base.kernel import kernel
from unisono.sim import leases
from unisono.sim.chance import keys_of, normal
from unisono.sim.faults import Faults, plan_faults
from unisono.sim.ledger import Ledger
from unisono.sim.roster import MQTT_SINGLE, Floats, Roster
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
        # By shard, the highest epoch that each gateway has seen; and whose epoch is whose.
        self.epochs: dict[int, Whole] = {}
        self._shard_of_epoch: dict[int, int] = {}
        self._value_w: Floats = np.zeros(n)
        self._event: Whole = np.zeros((leases.N_EVENT, n), np.int64)
        self._own_clock_ns: Whole = np.zeros(n, np.int64)
        self._drift_ns: Floats = np.zeros(n)
        # By how much each device's wall clock is ahead of the truth.
        self._lead_ns: Whole = np.zeros(n, np.int64)
        order = np.argsort(self.roster.gateway_of_row, kind="stable").astype(np.int64)
        bounds = np.searchsorted(self.roster.gateway_of_row[order], np.arange(self.roster.n_gateways + 1))
        self._order, self._bounds = order, bounds.astype(np.int64)
        # A gateway that is its device has no other clock; the others' clocks are right.
        self._is_its_device = (self.roster.gateway_kind == MQTT_SINGLE) & (np.diff(bounds) > 0)
        self.rows_of_gateway = tuple(order[bounds[g] : bounds[g + 1]] for g in range(self.roster.n_gateways))
        self.ledger = Ledger(self.roster, start_ns)
        self._noise_key = keys_of(spec.seed, n, 7)
        self._frozen: NDArray[np.float32] = np.full((3, n), np.nan, np.float32)
        self._out = Reports(
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.float32),
            np.zeros(n, np.float32),
            np.zeros(n, np.float32),
            np.zeros(n, np.uint16),
        )
        self._period_ns: Whole = np.round(self.roster.telemetry_period_s * NS_PER_S).astype(np.int64)
        # A gateway reads all its devices at one instant; a cloud each for itself.
        phase = rng.random(self.roster.n_gateways)[self.roster.gateway_of_row]
        is_cloud = self.roster.cloud_of_gateway[self.roster.gateway_of_row] >= 0
        phase = np.where(is_cloud, rng.random(n), phase)
        self._due_ns: Whole = start_ns + (phase * self._period_ns).astype(np.int64)
        self._advance_clocks(mono_ns)

    def receive(self, command: Whole, command_w: Floats, mono_ns: int, shard: int = 0) -> Answers:
        """Take in a shard's commands (``leases.C_*`` columns, in order of arrival); all rows are the region's."""
        n = command.shape[1]
        code, seq = np.zeros(n, np.uint8), np.zeros(n, np.int64)
        self._advance_clocks(mono_ns)
        plate = self.roster.nameplate
        reachable = self.faults.reachable()
        leases.receive(
            self.lease,
            np.ascontiguousarray(command),
            command_w,
            self._epochs_of(shard, command[leases.C_EPOCH]),
            self._value_w,
            plate.power_min_w,
            plate.power_max_w,
            self.faults.trait,
            reachable,
            self.world.is_connected,
            self._own_clock_ns,
            self._lead_ns,
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

    def renew(self, renewal: Whole, mono_ns: int, shard: int = 0) -> NDArray[np.uint8]:
        """Take in a shard's renewals (``leases.R_*`` columns, one a gateway); return their AckCodes."""
        self._advance_clocks(mono_ns)
        code = np.zeros(renewal.shape[1], np.uint8)
        gateway_lead_ns = np.zeros(self.roster.n_gateways, np.int64)
        gateway_lead_ns[self._is_its_device] = self._lead_ns[self._order[self._bounds[:-1][self._is_its_device]]]
        leases.renew(
            self.lease,
            np.ascontiguousarray(renewal),
            self._epochs_of(shard, renewal[leases.R_EPOCH]),
            self._order,
            self._bounds,
            self.faults.reachable(),
            self._own_clock_ns,
            gateway_lead_ns,
            mono_ns,
            code,
        )
        self.ledger.n_renewals += code.size
        return code

    def _epochs_of(self, shard: int, told: Whole) -> Whole:
        """Return the highest epochs (1, gateway) of a shard's owners, and note which epochs are its."""
        self._shard_of_epoch |= dict.fromkeys(np.unique(told).tolist(), shard)
        if shard not in self.epochs:
            self.epochs[shard] = np.full((1, self.roster.n_gateways), -1, np.int64)
        return self.epochs[shard]

    def _newest_epochs(self, event: Whole) -> Whole:
        """Return for each event the highest epoch that its gateway has seen of the same shard."""
        gateways = self.roster.gateway_of_row[event[leases.E_ROW]]
        newest = np.full(gateways.size, -1, np.int64)
        for epoch in np.unique(event[leases.E_EPOCH]).tolist():
            is_its = event[leases.E_EPOCH] == epoch
            newest[is_its] = self.epochs[self._shard_of_epoch[epoch]][0, gateways[is_its]]
        return newest

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
            self._lead_ns,
            now_ns,
            self._event,
        )
        self.world.advance(now_ns)
        self.ledger.note_events(self._event[:, :n_events], self._newest_epochs(self._event[:, :n_events]))
        self.ledger.observe(now_ns, mono_ns, step_s, self.world, lease=self.lease, trait=self.faults.trait)
        if back.size:
            self.report_at_once(back, now_ns)
        return back

    def report_at_once(self, gateways: NDArray[np.intp], now_ns: int) -> None:
        """After an outage all devices of ``gateways`` report together: the reconnect storm."""
        for gateway in gateways:
            self._due_ns[self.rows_of_gateway[int(gateway)]] = now_ns

    def collect(self, now_ns: int, delay_s: Floats | None = None) -> Reports:
        """Return the readings due at ``now_ns``, stamped ``delay_s`` (by row) ago by the devices' own clocks."""
        faults, world, out = self.faults, self.world, self._out
        n = _collect(
            self._due_ns,
            self._period_ns,
            self.roster.gateway_of_row,
            faults.gateway_is_up,
            faults.is_dropped,
            self._offset_s + faults.skew_s - (0.0 if delay_s is None else delay_s),
            self._drift,
            (now_ns - self.ledger.start_ns) / NS_PER_S,
            now_ns,
            faults.trait,
            self._noise_key,
            world.power_w,
            world.soc_frac,
            world.temperature_degc,
            world.is_connected,
            self._frozen,
            out.row,
            out.measured_ns,
            out.power_w,
            out.soc_frac,
            out.temperature_degc,
            out.status,
        )
        return Reports(
            out.row[:n].copy(),
            out.measured_ns[:n].copy(),
            out.power_w[:n].copy(),
            out.soc_frac[:n].copy(),
            out.temperature_degc[:n].copy(),
            out.status[:n].copy(),
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

    def _advance_clocks(self, mono_ns: int) -> None:
        """Bring the devices' own clocks to ``mono_ns``; they drift."""
        if mono_ns == self._clocks_at_ns:
            return
        self._clocks_at_ns = mono_ns
        elapsed_ns = mono_ns - self._mono_0_ns
        np.multiply(self._drift, elapsed_ns, out=self._drift_ns)
        np.add(self._drift_ns, elapsed_ns, out=self._own_clock_ns, casting="unsafe")
        np.add(self._drift_ns, (self._offset_s + self.faults.skew_s) * NS_PER_S, out=self._lead_ns, casting="unsafe")


@kernel(
    "i8(i8[::1], i8[::1], i4[::1], b1[::1], b1[::1], f8[::1], f8[::1], f8, i8, u1[::1], u8[::1],"
    " f8[::1], f8[::1], f8[::1], b1[::1], f4[:,::1], i8[::1], i8[::1], f4[::1], f4[::1], f4[::1], u2[::1])"
)
def _collect(
    due_ns: Whole,
    period_ns: Whole,
    gateway: NDArray[np.int32],
    gateway_is_up: NDArray[np.bool_],
    is_dropped: NDArray[np.bool_],
    offset_s: Floats,
    drift_ratio: Floats,
    elapsed_s: float,
    now_ns: int,
    trait: NDArray[np.uint8],
    key: NDArray[np.uint64],
    power_w: Floats,
    soc_frac: Floats,
    temperature_degc: Floats,
    is_connected: NDArray[np.bool_],
    frozen_values: NDArray[np.float32],
    out_row: Whole,
    out_ns: Whole,
    out_w: NDArray[np.float32],
    out_soc_frac: NDArray[np.float32],
    out_degc: NDArray[np.float32],
    out_status: NDArray[np.uint16],
) -> int:
    """Fill ``out_...`` with what is due, as the devices tell it; return how many. Frozen ones repeat their first words.

    Meters have 0.25 % of reading and 1 W of noise (within ANSI C12.20 class 0.5).
    """
    n = 0
    for i in range(due_ns.size):
        if due_ns[i] > now_ns:
            continue
        due_ns[i] += ((now_ns - due_ns[i]) // period_ns[i] + 1) * period_ns[i]
        if is_dropped[i] or not gateway_is_up[gateway[i]]:
            continue
        told_w = power_w[i] + (0.0025 * abs(power_w[i]) + 1.0) * normal(key[i], now_ns // NS_PER_S)
        if trait[i] & leases.WRONG_SIGN:
            told_w = -told_w
        out_row[n], out_status[n] = i, is_connected[i]
        own_ns = now_ns + int((offset_s[i] + drift_ratio[i] * elapsed_s) * 1e9)
        out_ns[n] = own_ns - own_ns % NS_PER_MS
        out_w[n], out_soc_frac[n], out_degc[n] = round(told_w * 10.0) / 10.0, soc_frac[i], temperature_degc[i]
        if trait[i] & leases.FROZEN:
            if np.isnan(frozen_values[0, i]):
                frozen_values[0, i], frozen_values[1, i], frozen_values[2, i] = out_w[n], out_soc_frac[n], out_degc[n]
            out_w[n], out_soc_frac[n], out_degc[n] = frozen_values[0, i], frozen_values[1, i], frozen_values[2, i]
        n += 1
    return n
