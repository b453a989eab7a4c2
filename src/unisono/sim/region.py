"""The region on a movable clock: frames go in, batches of readings and acknowledgements come out.

    region = Region(World(WorldSpec(seed=7), start_ns))
    region.registry()                   -> RegistryBatch: its gateways and devices
    region.advance(now_ns)              -> list[ReadingBatch | AckBatch] that have reached the platform by now_ns
    region.deliver(frames, now_ns)      command frames (renewals too) leave the platform at now_ns
    region.true_deliverable_w(hold_s)   what can really be had upwards, now
    region.misbehave(now_ns)            the timeline of faults begins
    region.ledger_summary()             what really happened

The order of a cycle is advance, plan, deliver. One seed and the same calls give the same batches, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_S
from unisono.model.batches import AckBatch, CommandFrames, ReadingBatch
from unisono.model.registry import RegistryBatch
from unisono.model.technology import AckCode, SourceKind
from unisono.sim import leases, records
from unisono.sim.devices import Answers, Devices, Reports
from unisono.sim.instruments import Instruments
from unisono.sim.ledger import Ledger
from unisono.sim.network import ColumnQueue, Network, Retained
from unisono.sim.roster import MQTT_BATCH, Floats, Roster
from unisono.sim.world import World

Whole = NDArray[np.int64]


class Region:
    """A world of devices behind a network. Device numbers are roster rows + 1, gateway numbers gateways + 1."""

    def __init__(self, world: World, network: type[Network] = Network) -> None:
        spec, start_ns = world.spec, world.start_ns
        self.devices = Devices(world, 0)
        self._start_ns = start_ns
        self._network = network(spec, self.roster, start_ns)
        self._shard_of_epoch: dict[int, int] = {}
        self._retained = Retained(self.roster.n_devices)
        self._commands = ColumnQueue(leases.N_COMMAND)
        self._renewals = ColumnQueue(leases.N_RENEWAL)
        self._acks = ColumnQueue(6)
        self._late = ColumnQueue(6)
        is_cloud = self.roster.cloud_of_gateway[self.roster.gateway_of_row] >= 0
        own_kind = np.where(is_cloud, int(SourceKind.VENDOR_CLOUD), int(SourceKind.DEVICE)).astype(np.uint8)
        # Rows from ``n_devices`` on stand for the devices' separate meters.
        self._source_kind = np.concatenate([own_kind, np.full(own_kind.size, int(SourceKind.METER), np.uint8)])
        self.instruments = Instruments(world, self.devices.faults) if spec.instruments else None
        # Constant path delays of readings; a vendor cloud's values are some seconds old when it passes them on.
        rng = np.random.default_rng([spec.seed, 11])
        self._delay_s: Floats = np.where(
            is_cloud, rng.uniform(2.0, 10.0, is_cloud.size), rng.uniform(0.05, 0.4, is_cloud.size)
        )

    @property
    def roster(self) -> Roster:
        """Who is in the region."""
        return self.devices.roster

    @property
    def ledger(self) -> Ledger:
        """The truth."""
        return self.devices.ledger

    def ledger_summary(self) -> dict[str, Any]:
        """Return the truth as plain JSON values."""
        return {**self.ledger.summary(), "faults": self.devices.faults.counts()}

    def registry(self) -> RegistryBatch:
        """Return the region's gateways and devices as the platform is told of them."""
        return records.registry(self.roster)

    def true_deliverable_w(self, hold_s: float) -> float:
        """Return what reachable and willing devices could give above their twins from now on for ``hold_s``."""
        return self.devices.true_deliverable_w(hold_s)

    def misbehave(self, now_ns: int) -> None:
        """Start the timeline of faults."""
        self.devices.misbehave(now_ns)

    def deliver(self, frames: CommandFrames, now_ns: int) -> None:
        """Send commands and renewals on their way."""
        if len(frames) == 0:
            return
        self._shard_of_epoch[frames.epoch] = frames.shard
        is_renewal = frames.device_no < 0
        row = frames.device_no.astype(np.int64) - 1
        known = ~is_renewal & (row < self.roster.n_devices) & (row >= 0)
        self._send_commands(frames, np.flatnonzero(known), row, now_ns)
        self._send_renewals(frames, np.flatnonzero(is_renewal), now_ns)

    def advance(self, now_ns: int) -> list[ReadingBatch | AckBatch]:
        """Let the region run to ``now_ns``; return what has reached the platform."""
        self._outages(now_ns)
        self._bring_commands(now_ns)
        self._bring_renewals(now_ns)
        back = self.devices.advance(now_ns, now_ns - self._start_ns)
        self._bring_retained(back, now_ns)
        arrived: list[ReadingBatch | AckBatch] = []
        readings = self._readings(now_ns)
        if readings is not None:
            arrived.append(readings)
        arrived.extend(self._ack_batches(now_ns))
        return arrived

    def _send_commands(self, frames: CommandFrames, at: NDArray[np.intp], row: Whole, now_ns: int) -> None:
        if not at.size:
            return
        command = np.empty((leases.N_COMMAND, at.size), np.int64)
        command[leases.C_ROW] = row[at]
        command[leases.C_GATEWAY] = self.roster.gateway_of_row[row[at]]
        command[leases.C_EPOCH] = frames.epoch
        command[leases.C_SEQ] = frames.seq[at]
        command[leases.C_KIND] = frames.kind[at]
        command[leases.C_FALLBACK] = frames.fallback[at]
        # As the wire tells it: what is not for later begins at once, whatever the device's clock says.
        command[leases.C_START_NS] = np.where(frames.start_ns[at] > frames.issued_ns, frames.start_ns[at], 0)
        command[leases.C_EXPIRES_NS] = frames.expires_ns[at]
        command[leases.C_TTL_NS] = (frames.ttl_s[at].astype(np.float64) * NS_PER_S).astype(np.int64)
        command[leases.C_AT_NS], command[leases.C_ISSUED_NS] = now_ns, frames.issued_ns
        value = frames.value[at].astype(np.float64)
        self._retained.keep(command, value)
        arrives, due = self._network.to_gateways(command[leases.C_GATEWAY], now_ns)
        command = command[:, arrives]
        command[leases.C_AT_NS] = due
        self._commands.push(command, value[arrives], due)

    def _send_renewals(self, frames: CommandFrames, at: NDArray[np.intp], now_ns: int) -> None:
        gateway = frames.gateway_no[at].astype(np.int64) - 1
        fits = (gateway >= 0) & (gateway < self.roster.n_gateways)
        at, gateway = at[fits], gateway[fits]
        if not at.size:
            return
        renewal = np.vstack(
            [
                gateway,
                np.full(at.size, frames.epoch),
                frames.seq[at],
                frames.expires_ns[at],
                np.zeros(at.size, np.int64),
            ]
        )
        arrives, due = self._network.to_gateways(gateway, now_ns)
        self._renewals.push(renewal[:, arrives], np.zeros(arrives.size), due)

    def _bring_commands(self, now_ns: int) -> None:
        command, value, due = self._commands.pop_due(now_ns)
        gateway = command[leases.C_GATEWAY]
        is_up = self._poll_again(self._commands, (command, value, due), gateway, at_row=leases.C_AT_NS)
        if is_up.any():
            command, value = command[:, is_up], value[is_up]
            for shard, of_shard in self._by_shard(command[leases.C_EPOCH]):
                answers = self.devices.receive(command[:, of_shard], value[of_shard], now_ns - self._start_ns, shard)
                self._push_acks(answers)

    def _bring_renewals(self, now_ns: int) -> None:
        renewal, none, due = self._renewals.pop_due(now_ns)
        is_up = self._poll_again(self._renewals, (renewal, none, due), renewal[leases.R_GATEWAY], at_row=leases.R_AT_NS)
        if is_up.any():
            renewal, due = renewal[:, is_up], due[is_up]
            renewal[leases.R_AT_NS] = due
            for shard, of_shard in self._by_shard(renewal[leases.R_EPOCH]):
                code = self.devices.renew(renewal[:, of_shard], now_ns - self._start_ns, shard)
                row = np.full(code.size, -1, np.int64)
                gateway, epoch, seq = renewal[: leases.R_EXPIRES_NS, of_shard]
                self._push_acks(Answers(row, gateway, epoch, seq, code, due[of_shard]))

    def _by_shard(self, epochs: Whole) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield each shard and which of these are its."""
        different, which = np.unique(epochs, return_inverse=True)
        shards = np.array([self._shard_of_epoch[epoch] for epoch in different.tolist()], np.int64)[which]
        for shard in np.unique(shards).tolist():
            yield shard, shards == shard

    def _poll_again(
        self, queue: ColumnQueue, waiting: tuple[Whole, Floats, Whole], gateway: Whole, *, at_row: int
    ) -> NDArray[np.bool_]:
        """Return which messages find their gateway up; a dark cloud fetches them later, others' are lost."""
        columns, values, due = waiting
        is_up = self.devices.faults.gateway_is_up[gateway]
        waits = ~is_up & (self.roster.cloud_of_gateway[gateway] >= 0)
        if waits.any():
            later = self._network.next_poll_ns(gateway[waits], due[waits] + NS_PER_S)
            moved = columns[:, waits]
            moved[at_row] = later
            queue.push(moved, values[waits], later)
        return is_up

    def _push_acks(self, answers: Answers) -> None:
        """Send answers back; only a gateway of many devices says that it can't reach one."""
        says = (answers.code != int(AckCode.UNREACHABLE)) | (self.roster.gateway_kind[answers.gateway] == MQTT_BATCH)
        arrives = says & (self._network.fate_of_readings(says.size)[0] == 0)
        row, gateway = answers.row[arrives], answers.gateway[arrives]
        due = answers.at_ns[arrives] + (self._network.travel_s(row.size) * NS_PER_S).astype(np.int64)
        columns = np.vstack(
            [row, gateway, answers.epoch[arrives], answers.seq[arrives], answers.code[arrives], answers.at_ns[arrives]]
        )
        self._acks.push(columns.astype(np.int64), np.zeros(row.size), due)

    def _ack_batches(self, now_ns: int) -> list[AckBatch]:
        """Return one batch of devices' answers, and one a gateway for answers to renewals."""
        columns, _, _ = self._acks.pop_due(now_ns)
        if columns.shape[1] == 0:
            return []
        of_device = columns[0] >= 0
        batches = [_ack_batch(now_ns, columns[:, of_device])] if of_device.any() else []
        renewals = columns[:, ~of_device]
        if renewals.shape[1]:
            answers = _ack_batch(now_ns, renewals)
            batches.extend(
                AckBatch(
                    records.gateway_no_of(gateway),
                    now_ns,
                    answers.device_no[at : at + 1],
                    answers.epoch[at : at + 1],
                    answers.seq[at : at + 1],
                    answers.code[at : at + 1],
                    answers.answered_ns[at : at + 1],
                )
                for at, gateway in enumerate(renewals[1].tolist())
            )
        return batches

    def _readings(self, now_ns: int) -> ReadingBatch | None:
        """Return what has arrived: due readings less the lost and the held back, the doubled twice, and old ones."""
        reports = self.devices.collect(now_ns, self._delay_s)
        if self.instruments:
            reports = self.instruments.tell(reports, now_ns)
        lost, doubled, held = self._network.fate_of_readings(reports.row.size)
        late = self._late_now(now_ns)
        self._hold_back(reports, np.flatnonzero(held), now_ns)
        at = np.concatenate([np.flatnonzero(~(lost | held)), np.flatnonzero(doubled)])
        row = np.concatenate([reports.row[at], late.row])
        if row.size == 0:
            return None
        self.ledger.count("readings_arrived", row.size)
        columns = {
            "device_no": row % self.roster.n_devices + 1,
            "source_kind": self._source_kind[row],
            "reading_kind": np.zeros(row.size, np.uint8),
            "quality": np.zeros(row.size, np.uint8),
            "status": np.concatenate([reports.status[at], late.status]),
            "measured_ns": np.concatenate([reports.measured_ns[at], late.measured_ns]),
            "power_w": np.concatenate([reports.power_w[at], late.power_w]),
            "soc_frac": np.concatenate([reports.soc_frac[at], late.soc_frac]),
            "temperature_degc": np.concatenate([reports.temperature_degc[at], late.temperature_degc]),
        }
        return ReadingBatch.of_columns({"gateway_no": -1, "batch_seq": -1, "known_ns": now_ns}, columns)

    def _hold_back(self, reports: Reports, at: NDArray[np.intp], now_ns: int) -> None:
        """Let newer readings overtake these; numbers travel in the queue as their bits."""
        due = now_ns + (self._network.held_s(at.size) * NS_PER_S).astype(np.int64)
        bits = [column[at].view(np.int32) for column in (reports.power_w, reports.soc_frac, reports.temperature_degc)]
        columns = np.vstack([reports.row[at], reports.measured_ns[at], reports.status[at], *bits]).astype(np.int64)
        self._late.push(columns, np.zeros(at.size), due)

    def _late_now(self, now_ns: int) -> Reports:
        columns, _, _ = self._late.pop_due(now_ns)
        power_w, soc_frac, degc = (column.astype(np.int32).view(np.float32) for column in columns[3:])
        return Reports(columns[0], columns[1], power_w, soc_frac, degc, columns[2].astype(np.uint16))

    def _outages(self, now_ns: int) -> None:
        """Gateways lose their connection and come back: with a storm of readings, and with old commands."""
        gone, back = self._network.outages(now_ns)
        self.devices.faults.gateway_is_up[gone] = False
        self.devices.faults.gateway_is_up[back] = True
        if back.size:
            self.devices.report_at_once(back, now_ns)
            self._bring_retained(back, now_ns)

    def _bring_retained(self, gateways: NDArray[np.intp], now_ns: int) -> None:
        for gateway in gateways:
            command, value = self._retained.of_rows(self.devices.rows_of_gateway[int(gateway)])
            command[leases.C_AT_NS] = now_ns
            self._commands.push(command, value, np.full(value.size, now_ns))


def _ack_batch(known_ns: int, columns: Whole) -> AckBatch:
    row = columns[0]
    return AckBatch.of_columns(
        {"gateway_no": -1, "known_ns": known_ns},
        {
            "device_no": np.where(row >= 0, row + 1, -1),
            "epoch": columns[2],
            "seq": columns[3],
            "code": columns[4],
            "answered_ns": columns[5],
        },
    )
