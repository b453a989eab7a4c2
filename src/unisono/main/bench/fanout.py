"""A million changed setpoints from the stream to a thousand gateways through the default broker; then their renewal.

The outbound code writes the frames to the stream; the delivery service reads, encodes and sends them; raw sockets at
the broker's MQTT port are the gateways. Rows of a gateway are scattered over the whole cycle. The reference is a raw
socket that writes the same messages, ready made, to the same gateways through the same broker, with no stream and no
encoding. Checked with a decoder of the gateways' own: each device once and at its gateway, with its setpoint, sequence,
expiry, ttl and epoch; the sum of the setpoints; each gateway renewed once.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import uvloop
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_MS, NS_PER_S
from unisono.bus import subjects
from unisono.bus.connection import Bus, connect
from unisono.engines.nats import NatsEndpoints, NatsEngine
from unisono.links.mqtt_broker.link import MqttBrokerSettings
from unisono.links.mqtt_broker.socket import NatsLogin
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure
from unisono.main.bench.gateway_ears import Ears, Heard
from unisono.main.clock import SystemClock
from unisono.model.batches import CommandFrames
from unisono.model.registry import GatewayRecord, RegistryBatch
from unisono.model.technology import CommandKind, Fallback
from unisono.services.delivery import Delivery
from unisono.services.front import Front, FrontSettings
from unisono.services.outbound import Outbound, Worth, command_messages
from unisono.wire.frames import Outgoing, messages_of

N_DEVICES: Final = 1_000_000
DEVICES_PER_GATEWAY: Final = 1_000
ROUNDS: Final = 3
RENEWAL_ROUNDS: Final = 7
# Reading, encoding and telling apart may cost twice what the broker and its gateways cost by themselves.
RATIO_MAX: Final = 3.0
RENEWAL_MS: Final = 200.0
TTL_S: Final = 900
EPOCH: Final = 3
SEED: Final = 11


@dataclass(slots=True)
class _Seen:
    """What the rounds took, in seconds, and what was found wrong."""

    fan_out_s: list[float] = field(default_factory=list)
    raw_s: list[float] = field(default_factory=list)
    renewal_s: list[float] = field(default_factory=list)
    raw_renewal_s: list[float] = field(default_factory=list)
    delivery_cpu_s: list[float] = field(default_factory=list)
    broker_cpu_s: list[float] = field(default_factory=list)
    raw_broker_cpu_s: list[float] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)
    details: dict[str, float | int | str] = field(default_factory=dict)

    def check(self, name: str, holds: bool) -> None:
        """Note a check, which must hold in every round."""
        self.checks[name] = self.checks.get(name, True) and bool(holds)


def bench(options: BenchOptions) -> BenchResult:
    """Start the broker and the gateways, and run the rounds."""
    n_devices = options.n_devices or N_DEVICES
    n_gateways = max(2, n_devices // DEVICES_PER_GATEWAY)
    shutil.rmtree(options.folder, ignore_errors=True)
    engine = NatsEngine(options.folder / "nats")
    endpoints = engine.start()
    try:
        login = (endpoints.core_user, endpoints.core_password)
        ears = Ears(endpoints.mqtt_host, endpoints.mqtt_port, login, [_gateway_id(k + 1) for k in range(n_gateways)])
        try:
            assert engine.pid is not None
            plant = _Plant(endpoints, engine.pid, ears, n_devices, n_gateways)
            seen = uvloop.run(plant.run())
        finally:
            ears.close()
    finally:
        engine.stop()
        shutil.rmtree(options.folder, ignore_errors=True)
    return _result(seen, n_devices, n_gateways)


class _Plant:
    """Realtime's way out and a front's delivery, with everything between them and the gateways."""

    def __init__(self, endpoints: NatsEndpoints, broker_pid: int, ears: Ears, n_devices: int, n_gateways: int) -> None:
        self._endpoints, self._broker_pid, self._ears = endpoints, broker_pid, ears
        self._n_devices, self._n_gateways = n_devices, n_gateways
        self._clock = SystemClock()
        self._gateway_no = np.random.default_rng(SEED).permutation(n_devices) % n_gateways + 1
        self._seen = _Seen()
        self._cycle = 0

    async def run(self) -> _Seen:
        """Run the rounds, the reference after each."""
        with _raw_socket(self._endpoints) as raw:
            for _ in range(ROUNDS):
                await self._fan_out(raw)
            await self._renew(raw)
        return self._seen

    async def _fan_out(self, raw: socket.socket) -> None:
        seen, frames = self._seen, self._setpoints()
        messages = self._measured_codec(frames)
        n_bytes = sum(map(_mqtt_bytes, messages))
        async with self._bus() as bus:
            await bus.client.jetstream().purge_stream("COMMANDS")
            await _put_out(bus, frames)
            cpu_s, broker_s = time.process_time(), _cpu_s(self._broker_pid)
            seen.fan_out_s.append(await self._timed(n_bytes, self._delivery(bus).run()))
            seen.delivery_cpu_s.append(time.process_time() - cpu_s)
            seen.broker_cpu_s.append(_cpu_s(self._broker_pid) - broker_s)
        self._check_setpoints(frames, await asyncio.to_thread(self._ears.heard))
        broker_s = _cpu_s(self._broker_pid)
        seen.raw_s.append(await self._timed(n_bytes, asyncio.to_thread(raw.sendall, _nats_text(messages))))
        seen.raw_broker_cpu_s.append(_cpu_s(self._broker_pid) - broker_s)
        seen.details["messages_to_gateways"] = len(messages)
        seen.details["json_bytes_per_setpoint"] = sum(len(one.payload) for one in messages) / self._n_devices

    async def _renew(self, raw: socket.socket) -> None:
        async with self._bus() as bus:
            await bus.client.jetstream().purge_stream("COMMANDS")
            working = asyncio.ensure_future(self._delivery(bus).run())
            try:
                for _ in range(RENEWAL_ROUNDS):
                    frames = self._renewals()
                    messages = messages_of(frames, self._clock.wall_ns())
                    n_bytes = sum(map(_mqtt_bytes, messages))
                    outbound = _outbound(bus, frames)
                    # Writing them to the stream is counted too.
                    self._seen.renewal_s.append(await self._timed(n_bytes, outbound.send()))
                    self._check_renewals(frames, await asyncio.to_thread(self._ears.heard))
                    text = _nats_text(messages)
                    self._seen.raw_renewal_s.append(await self._timed(n_bytes, asyncio.to_thread(raw.sendall, text)))
            finally:
                await _cancelled(working)

    async def _timed(self, n_bytes: int, work: Coroutine[Any, Any, object]) -> float:
        """Return the seconds from the work's beginning until the gateways have so many bytes; then it is ended."""
        await asyncio.to_thread(self._ears.expect, n_bytes)
        begun_ns = time.monotonic_ns()
        working = asyncio.ensure_future(work)
        ended_ns = await asyncio.to_thread(self._ears.ended_ns)
        await _cancelled(working)
        return (ended_ns - begun_ns) / NS_PER_S

    @asynccontextmanager
    async def _bus(self) -> AsyncIterator[Bus]:
        """Give a connection of its own: what stood open for a delivery that was ended goes with it."""
        endpoints = self._endpoints
        bus = await connect(endpoints.nats_url, endpoints.core_user, endpoints.core_password, "bench")
        try:
            await bus.ensure_streams()
            yield bus
        finally:
            await bus.close()

    def _delivery(self, bus: Bus) -> Delivery:
        endpoints = self._endpoints
        login = NatsLogin(endpoints.nats_url, endpoints.core_user, endpoints.core_password)
        settings = MqttBrokerSettings(login, endpoints.mqtt_host, endpoints.mqtt_port)
        front = Front(bus, self._clock, FrontSettings("bench", settings))
        front.identity.fold(RegistryBatch(tuple(_gateway(k + 1) for k in range(self._n_gateways))))
        front.identity.is_complete.set()
        return Delivery(bus, self._clock, front.identity, front.links, front.held)

    def _setpoints(self) -> CommandFrames:
        """Return a cycle of setpoints, each device's of its own and others in each cycle."""
        n, k = self._n_devices, np.arange(self._n_devices, dtype=np.int64)
        header, now_ns = self._header()
        columns = {
            "device_no": k + 1,
            "gateway_no": self._gateway_no,
            "dispatch_no": np.ones(n),
            "seq": (EPOCH << 32) + self._cycle * n + k,
            "kind": np.full(n, CommandKind.POWER_SETPOINT),
            "fallback": np.full(n, Fallback.ZERO_POWER),
            "value": k - n // 2 + self._cycle,
            "start_ns": np.full(n, now_ns),
            # Neither the same for all: a mixed-up row shows.
            "expires_ns": now_ns + (TTL_S + k % 60) * NS_PER_S,
            "ttl_s": TTL_S + k % 60,
        }
        return CommandFrames.of_columns(header, columns)

    def _renewals(self) -> CommandFrames:
        n, k = self._n_gateways, np.arange(self._n_gateways, dtype=np.int64)
        header, now_ns = self._header()
        columns = {
            "device_no": np.full(n, -1),
            "gateway_no": k + 1,
            "seq": (EPOCH << 32) + self._cycle * self._n_devices + k,
            "kind": np.zeros(n),
            "fallback": np.zeros(n),
            "start_ns": np.full(n, now_ns),
            "expires_ns": now_ns + (TTL_S + k % 60) * NS_PER_S,
            "ttl_s": TTL_S + k % 60,
        }
        return CommandFrames.of_columns(header, columns)

    def _header(self) -> tuple[dict[str, int], int]:
        self._cycle += 1
        now_ns = self._clock.wall_ns()
        return {"shard": 0, "epoch": EPOCH, "cycle": self._cycle, "issued_ns": now_ns}, now_ns

    def _measured_codec(self, frames: CommandFrames) -> list[Outgoing]:
        """Return what gateways are to get; note what each step of the codec costs by itself."""
        details = self._seen.details
        begun_s = time.process_time()
        kept = command_messages(frames)
        encoded_s = time.process_time()
        decoded = [CommandFrames.decode(one.payload) for one in kept]
        columns_s = time.process_time()
        now_ns = self._clock.wall_ns()
        messages = [outgoing for part in decoded for outgoing in messages_of(part, now_ns)]
        json_s = time.process_time()
        _keep_least(details, "columns_encode_ms", 1e3 * (encoded_s - begun_s))
        _keep_least(details, "columns_decode_ms", 1e3 * (columns_s - encoded_s))
        _keep_least(details, "json_encode_ns_per_setpoint", 1e9 * (json_s - columns_s) / self._n_devices)
        details["stream_messages"] = len(kept)
        details["stream_bytes_per_setpoint"] = sum(len(one.payload) for one in kept) / self._n_devices
        details["stream_message_mb_max"] = max(len(one.payload) for one in kept) / 1e6
        return messages

    def _check_setpoints(self, frames: CommandFrames, heard: Heard) -> None:
        check, got = self._seen.check, heard.commands
        by_device = got[np.argsort(got[:, 0], kind="stable")]
        is_whole = len(got) == self._n_devices and np.array_equal(by_device[:, 0], frames.device_no)
        check("each device's setpoint came exactly once", is_whole)
        check("the setpoints add up", int(got[:, 3].sum()) == sum(range(self._n_devices)) + self._shift_w())
        check("nothing but setpoints with this fallback, on each gateway's own topic", heard.n_odd == 0)
        check("every epoch right", bool(np.all(got[:, 6] == EPOCH)))
        wanted: dict[str, NDArray[Any]] = {
            "gateway": frames.gateway_no - 1,
            "sequence": frames.seq,
            "setpoint": frames.value,
            "expiry": frames.expires_ns // NS_PER_MS,
            "ttl": frames.ttl_s,
        }
        for column, (name, values) in enumerate(wanted.items(), 1):
            check(f"every {name} right", is_whole and np.array_equal(by_device[:, column], values))

    def _shift_w(self) -> int:
        """Return what the setpoints 0, 1, 2 ... of a cycle are moved by, in sum."""
        return self._n_devices * (self._cycle - self._n_devices // 2)

    def _check_renewals(self, frames: CommandFrames, heard: Heard) -> None:
        got = heard.renewals[np.argsort(heard.renewals[:, 0], kind="stable")]
        gateways = np.arange(self._n_gateways)
        epochs = np.full(self._n_gateways, EPOCH)
        wanted = np.column_stack((gateways, epochs, frames.seq, frames.expires_ns // NS_PER_MS))
        self._seen.check("each gateway renewed exactly once, as was sent", np.array_equal(got, wanted))
        self._seen.check("renewals come alone", len(heard.commands) == 0 and heard.n_odd == 0)


def _result(seen: _Seen, n_devices: int, n_gateways: int) -> BenchResult:
    fan_out_s, best = min(seen.fan_out_s), int(np.argmin(seen.fan_out_s))
    seen.details |= {
        "ns_per_setpoint": 1e9 * fan_out_s / n_devices,
        "delivery_cpu_ns_per_setpoint": 1e9 * seen.delivery_cpu_s[best] / n_devices,
        "delivery_cpu_s": seen.delivery_cpu_s[best],
        "broker_cpu_s": seen.broker_cpu_s[best],
        "raw_broker_cpu_s": min(seen.raw_broker_cpu_s),
        "all_fan_outs_s": " ".join(f"{one:.3f}" for one in seen.fan_out_s),
        "all_raw_s": " ".join(f"{one:.3f}" for one in seen.raw_s),
        "all_renewals_ms": " ".join(f"{1e3 * one:.1f}" for one in seen.renewal_s),
        "load_average": os.getloadavg()[0],
    }
    return BenchResult(
        name="fanout",
        figures=(
            Figure(
                name="fan-out",
                value=fan_out_s,
                unit="s",
                reference=min(seen.raw_s),
                reference_name="a raw socket writing the same messages, ready made",
                ratio_target=RATIO_MAX,
            ),
            Figure(
                name="renewal round",
                value=1e3 * min(seen.renewal_s),
                unit="ms",
                target=RENEWAL_MS,
                reference=1e3 * min(seen.raw_renewal_s),
                reference_name="a raw socket writing the same messages, ready made",
            ),
        ),
        checks=seen.checks,
        sizes={"setpoints": n_devices, "gateways": n_gateways, "leases renewed": n_devices},
        details=seen.details,
    )


def _outbound(bus: Bus, frames: CommandFrames) -> Outbound:
    """Return the outbound queue with these frames in it."""
    outbound = Outbound(bus)
    for message in command_messages(frames):
        outbound.put(message, Worth.COMMANDS)
    return outbound


async def _put_out(bus: Bus, frames: CommandFrames) -> None:
    """Have the outbound code send frames; return when all of them are on the stream."""
    reader = bus.reader("COMMANDS", subjects.all_commands(0), await bus.last_seq("COMMANDS") + 1)
    n_missing = len(list(frames.parts()))
    sending = asyncio.ensure_future(_outbound(bus, frames).send())
    while n_missing > 0:
        n_missing -= len(await reader.take(n_missing, 1.0))
    await reader.close()
    await _cancelled(sending)


async def _cancelled(working: asyncio.Future[Any]) -> None:
    """End the work; what it failed with is raised."""
    working.cancel()
    for outcome in await asyncio.gather(working, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


def _raw_socket(endpoints: NatsEndpoints) -> socket.socket:
    address = urlsplit(endpoints.nats_url)
    raw = socket.create_connection((address.hostname, address.port))
    options = {"verbose": False, "user": endpoints.core_user, "pass": endpoints.core_password, "name": "raw"}
    raw.sendall(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
    said = b""
    while b"PONG" not in said:
        said += raw.recv(65_536)
    return raw


def _nats_text(messages: Sequence[Outgoing]) -> bytes:
    """Return the messages as the broker is sent them, in one piece."""
    lines = (b"PUB c.%b.%b %d\r\n%b\r\n" % (*_names(one), len(one.payload), one.payload) for one in messages)
    return b"".join(lines)


def _names(message: Outgoing) -> tuple[bytes, bytes]:
    return _gateway_id(message.gateway_no).encode(), message.what.encode()


def _mqtt_bytes(message: Outgoing) -> int:
    """Return how long the gateway's packet of a message is (MQTT 3.1.1, 3.3: QoS 0 has no packet id)."""
    n_bytes = 2 + len(f"c/{_gateway_id(message.gateway_no)}/{message.what}") + len(message.payload)
    return 1 + sum(n_bytes >= limit for limit in (1, 128, 16_384, 2_097_152)) + n_bytes


def _gateway_id(no: int) -> str:
    return f"gwy_{no:026d}"


def _gateway(no: int) -> GatewayRecord:
    return GatewayRecord(
        revision=1,
        organisation_id="org_1",
        gateway_id=_gateway_id(no),
        gateway_no=no,
        link="mqtt",
        secret_sha256=f"{no:064d}",
        is_revoked=False,
    )


def _cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used (man 5 proc: utime and stime, in ticks)."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _keep_least(details: dict[str, float | int | str], name: str, value: float) -> None:
    """Note a cost: the least of the rounds, the others measure what else the machine does."""
    details[name] = min(value, float(details.get(name, value)))
