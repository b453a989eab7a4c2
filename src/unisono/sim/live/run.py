"""The live region's loop: once a second it moves the devices, sends what is due, and says how things stand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.clock import Clock
from unisono.base.errors import DamagedRecord
from unisono.base.instants import NS_PER_MS
from unisono.model.technology import AckCode
from unisono.sim.devices import Answers, Devices, Reports
from unisono.sim.live.cloud import VendorCloud
from unisono.sim.live.enrolment import Enrolled, enrol
from unisono.sim.live.gateway import MqttGateway
from unisono.sim.live.messages import (
    Fetched,
    Frame,
    Receipt,
    Renewal,
    command_columns,
    decode_downlink,
    encode_acks,
    encode_batch,
    encode_single,
    readings_of,
)
from unisono.sim.live.settings import LiveSettings
from unisono.sim.roster import HTTP_CLOUD, MQTT_SINGLE, Roster
from unisono.sim.traces import trace_drivers
from unisono.sim.world import World

STEP_S: Final = 1.0
CONNECTING_AT_A_TIME: Final = 64
HTTP_TIMEOUT_S: Final = 30.0
# Some gateway is always just reconnecting.
RUNNING_FRAC: Final = 0.995
Say = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class LiveRegion:
    """Devices, their gateways and clouds. Wall time is the start's plus monotonic time, so it never steps."""

    settings: LiveSettings
    clock: Clock
    say: Say
    devices: Devices
    start_wall_ns: int
    start_mono_ns: int
    phase: str = "starting"
    n_enrolled: int = 0
    no_of_row: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    device_id: list[str] = field(default_factory=list)
    row_of_no: dict[int, int] = field(default_factory=dict)
    watched: NDArray[np.bool_] | None = None
    gateways: dict[int, MqttGateway] = field(default_factory=dict)
    clouds: dict[int, VendorCloud] = field(default_factory=dict)
    _batch_seq: dict[int, int] = field(default_factory=dict)

    @property
    def roster(self) -> Roster:
        """Who is in the region."""
        return self.devices.roster

    def now(self) -> tuple[int, int]:
        """Return (wall instant, monotonic instant)."""
        mono = self.clock.monotonic_ns()
        return self.start_wall_ns + mono - self.start_mono_ns, mono

    async def run(self, orders: AsyncIterator[bytes]) -> None:
        """Enrol, connect, and live until told to stop or nobody gives orders any more."""
        settings = self.settings
        async with (
            httpx.AsyncClient(base_url=settings.api_url, timeout=HTTP_TIMEOUT_S) as api,
            httpx.AsyncClient(base_url=settings.telemetry_url or settings.api_url, timeout=HTTP_TIMEOUT_S) as telemetry,
        ):
            self.phase = "enrolling"
            name = f"sim-{settings.seed}-{self.start_wall_ns}"
            enrolled = await enrol(
                api,
                settings.api_key,
                self.roster,
                run_name=name,
                lines_per_job=settings.lines_per_job,
                progress=self._enrolling,
            )
            self._introduce(enrolled, telemetry)
            # A cloud begins with what it has of every device; gateways on MQTT report at their devices' own pace.
            self.devices.report_at_once(np.array(sorted(self.clouds), np.intp), self.now()[0])
            self.phase = "connecting"
            slots = asyncio.Semaphore(CONNECTING_AT_A_TIME)
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(gateway.run(slots)) for gateway in self.gateways.values()]
                running += [tasks.create_task(cloud.run()) for cloud in self.clouds.values()]
                running.append(tasks.create_task(self._step_for_ever()))
                await self._obey(orders)
                self.phase = "stopping"
                for task in running:
                    task.cancel()
        self.say(self.status())

    def status(self) -> dict[str, Any]:
        """Return the status line: truth in watts, positive into the grid."""
        world, ledger = self.devices.world, self.devices.ledger
        delta = world.power_w - world.twin_w
        return {
            "phase": self.phase,
            "at_ns": self.now()[0],
            "true_power_w": round(float(world.power_w.sum()), 1),
            "true_delivered_w": round(float(delta.sum() if self.watched is None else delta[self.watched].sum()), 1),
            "true_deliverable_up_w": round(
                self.devices.true_deliverable_w(self.settings.deliverable_hold_s, self.watched), 1
            ),
            "n_connected": sum(g.is_connected for g in self.gateways.values())
            + sum(c.is_connected for c in self.clouds.values()),
            "n_gateways": len(self.gateways) + len(self.clouds),
            "n_enrolled": self.n_enrolled,
            "n_devices": self.roster.n_devices,
            "n_called": int(ledger.was_called.sum()),
            "is_misbehaving": self.devices.is_misbehaving,
            "counters": dict(ledger.counters),
        }

    def _enrolling(self, n_done: int, n_total: int) -> None:
        self.n_enrolled = n_done
        self.say({"phase": self.phase, "n_enrolled": n_done, "n_devices": n_total})

    def _introduce(self, enrolled: Enrolled, telemetry: httpx.AsyncClient) -> None:
        """Make a client of every gateway that was given a secret."""
        self.no_of_row, self.device_id = enrolled.device_no, enrolled.device_id
        self.row_of_no = {int(no): row for row, no in enumerate(enrolled.device_no) if no >= 0}
        self.n_enrolled = len(self.row_of_no)
        self.devices.ledger.count("enrolment_errors", enrolled.n_errors)
        net = self.devices.world.spec.network
        # Grows over restarts, so that a sequence is never used twice.
        first_seq = self.start_wall_ns // NS_PER_MS
        for g in range(self.roster.n_gateways):
            gateway_id, secret = enrolled.gateway_id[g], enrolled.gateway_secret[g]
            if not gateway_id or not secret:
                continue
            self._batch_seq[g] = first_seq
            if self.roster.gateway_kind[g] == HTTP_CLOUD:
                self.clouds[g] = VendorCloud(
                    telemetry,
                    gateway_id,
                    secret,
                    poll_s=net.cloud_poll_s[int(self.roster.cloud_of_gateway[g]) % len(net.cloud_poll_s)],
                    fetched=partial(self._fetched, g),
                    kept=self._kept,
                    first_seq=first_seq,
                )
            else:
                self.gateways[g] = MqttGateway(
                    gateway_id,
                    secret,
                    self.settings.mqtt_host,
                    self.settings.mqtt_port,
                    heard=partial(self._heard, g),
                    kept=self._kept,
                    chance=random.Random(self.settings.seed * 1_000_003 + g),
                )

    async def _step_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            wall_ns, mono_ns = self.now()
            self.devices.advance(wall_ns, mono_ns)
            self._follow_faults()
            self._send(self.devices.collect(wall_ns))
            n_connected = sum(gateway.is_connected for gateway in self.gateways.values())
            if self.phase == "connecting" and n_connected >= RUNNING_FRAC * len(self.gateways):
                self.phase = "running"
            self.say(self.status())
            # A late step is not made up for: the next one is longer.
            due = max(due + STEP_S, loop.time())
            await asyncio.sleep(due - loop.time())

    def _follow_faults(self) -> None:
        """Let dark clouds and dropped single-device gateways really be away."""
        faults = self.devices.faults
        for g, cloud in self.clouds.items():
            cloud.is_dark = not faults.gateway_is_up[g]
        for g, gateway in self.gateways.items():
            if self.roster.gateway_kind[g] == MQTT_SINGLE:
                is_away = bool(faults.is_dropped[self.devices.rows_of_gateway[g]].all())
                if is_away and not gateway.is_held_off:
                    gateway.drop()
                gateway.is_held_off = is_away

    def _send(self, reports: Reports) -> None:
        """Send due readings: a batch a gateway; gateways of one device send singles, every other one at QoS 0."""
        if not reports.row.size:
            return
        gateway_of = self.roster.gateway_of_row[reports.row]
        order = np.argsort(gateway_of, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(gateway_of[order])) + 1):
            g = int(gateway_of[at[0]])
            known = at[self.no_of_row[reports.row[at]] >= 0]
            rows = reports.row[known]
            readings = readings_of(reports, known)
            self.devices.ledger.count("readings_sent", len(readings))
            if g in self.clouds:
                self.clouds[g].add(
                    [{**reading, "no": int(self.no_of_row[row])} for reading, row in zip(readings, rows, strict=True)]
                )
            elif g in self.gateways and self.roster.gateway_kind[g] == MQTT_SINGLE:
                self._send_singles(self.gateways[g], g, readings, [int(row) for row in rows])
            elif g in self.gateways and readings:
                self._batch_seq[g] += 1
                named = [{"id": self.device_id[row], **reading} for reading, row in zip(readings, rows, strict=True)]
                body = encode_batch(self._batch_seq[g], named)
                self.gateways[g].publish(f"u/{self.gateways[g].gateway_id}/b", body, len(readings))

    def _send_singles(self, gateway: MqttGateway, g: int, readings: list[dict[str, Any]], rows: list[int]) -> None:
        for reading, row in zip(readings, rows, strict=True):
            topic = f"u/{gateway.gateway_id}/{self.device_id[row]}/t"
            if g % 2:
                gateway.publish(topic, encode_single(reading), 1)
            elif gateway.publish_once(topic, encode_single(reading)):
                self.devices.ledger.count("readings_at_qos_0")

    def _heard(self, g: int, what: str, payload: bytes) -> None:
        """Take in what a gateway heard, answer at once."""
        try:
            message = decode_downlink(what, payload)
        except DamagedRecord:
            self.devices.ledger.count("malformed_downlink")
            return
        if isinstance(message, Receipt):
            self.devices.ledger.count("receipts")
            return
        acks = self._take(g, message)
        if acks:
            self.gateways[g].publish(f"u/{self.gateways[g].gateway_id}/a", acks)

    def _fetched(self, g: int, fetched: Fetched) -> bytes:
        """Take in what a cloud fetched; return all its acknowledgements."""
        parts = [self._answers(g, message) for message in fetched.frames]
        parts = [part for part in parts if part.row.size]
        if not parts:
            return b""
        return encode_acks(_joined(parts), self.no_of_row, self.now()[0])

    def _take(self, g: int, message: Frame | Renewal) -> bytes:
        answers = self._answers(g, message)
        return encode_acks(answers, self.no_of_row, self.now()[0]) if answers.row.size else b""

    def _answers(self, g: int, message: Frame | Renewal) -> Answers:
        wall_ns, mono_ns = self.now()
        if isinstance(message, Frame):
            command, values = command_columns(message, g, self.row_of_no, wall_ns)
            answers = self.devices.receive(command, values, mono_ns, message.shard)
            if self.roster.gateway_kind[g] == MQTT_SINGLE:
                answers = _without_unreachable(answers)
            return answers
        expires_ns = message.expires_ms * NS_PER_MS
        renewal = np.array([[g], [message.epoch], [message.through_seq], [expires_ns], [wall_ns]], np.int64)
        code = self.devices.renew(renewal, mono_ns, message.shard)
        return Answers(np.array([-1]), renewal[0], renewal[1], renewal[2], code, renewal[4])

    def _kept(self, n_readings: int) -> None:
        self.devices.ledger.count("readings_acknowledged", n_readings)

    async def _obey(self, orders: AsyncIterator[bytes]) -> None:
        async for line in orders:
            try:
                order: dict[str, Any] = msgspec.json.decode(line)
                do = order["do"]
            except (msgspec.DecodeError, TypeError, KeyError):
                self.say({"error": "an order is a JSON object with a field do", "order": line.decode(errors="replace")})
                continue
            if do == "stop":
                return
            if do == "misbehave":
                self.devices.misbehave(self.now()[0])
            elif do == "truth":
                self.say({"phase": self.phase, "truth": self.truth()})
            elif do == "watch":
                self._watch([int(no) for no in order.get("device_nos", [])])
            else:
                self.say({"error": f"unknown order {do!r}: misbehave, truth, watch or stop"})

    def _watch(self, device_nos: list[int]) -> None:
        """Count only these devices in the status line's delivered and deliverable power (none: all)."""
        rows = [self.row_of_no[no] for no in device_nos if no in self.row_of_no]
        self.watched = None
        if rows:
            self.watched = np.zeros(self.roster.n_devices, bool)
            self.watched[rows] = True

    def truth(self) -> dict[str, Any]:
        """Return the ledger's summary, with the platform's device numbers beside rows."""
        lost = sum(g.n_stored_lost for g in self.gateways.values()) + sum(c.n_stored_lost for c in self.clouds.values())
        summary = self.devices.ledger.summary()
        for violation in summary["violations"]:
            row = int(violation["row"])
            violation["device_no"] = int(self.no_of_row[row]) if self.no_of_row.size else -1
        return {**summary, "faults": self.devices.faults.counts(), "n_readings_lost_at_gateways": lost}

    def dump(self) -> None:
        """Write the truth to the dump path, if there is one."""
        if self.settings.dump_path:
            Path(self.settings.dump_path).write_bytes(msgspec.json.encode(self.truth()))


def make_region(settings: LiveSettings, clock: Clock, say: Say) -> LiveRegion:
    """Build the region's devices as of now."""
    wall_ns, mono_ns = clock.wall_ns(), clock.monotonic_ns()
    # Bulk enrolment knows no opt-outs: owners who object here do so at the device, once the region misbehaves.
    spec = msgspec.structs.replace(settings.world_spec(), declared_opt_out_frac=0.0)
    say({"phase": "starting", "n_devices": spec.n_devices})
    if settings.trace_path:
        world = World(spec, wall_ns, trace_drivers(Path(settings.trace_path)))
    else:
        world = World(spec, wall_ns)
    return LiveRegion(settings, clock, say, Devices(world, mono_ns), wall_ns, mono_ns)


def _without_unreachable(answers: Answers) -> Answers:
    """A gateway that is its device can't say that it is away."""
    keep = answers.code != int(AckCode.UNREACHABLE)
    return Answers(
        answers.row[keep],
        answers.gateway[keep],
        answers.epoch[keep],
        answers.seq[keep],
        answers.code[keep],
        answers.at_ns[keep],
    )


def _joined(parts: list[Answers]) -> Answers:
    return Answers(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.gateway for part in parts]),
        np.concatenate([part.epoch for part in parts]),
        np.concatenate([part.seq for part in parts]),
        np.concatenate([part.code for part in parts]),
        np.concatenate([part.at_ns for part in parts]),
    )
