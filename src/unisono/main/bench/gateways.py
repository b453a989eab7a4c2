"""Gateways of a fleet of batteries that obey: half on MQTT at QoS 1, half over HTTP, packed batches at a fixed pace.

Each remembers which of its batches were acknowledged, by PUBACK or 202, and sends again what was not.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.instants import NS_PER_MS
from unisono.model.batches import ReadingBatch
from unisono.model.ratings import Ratings
from unisono.model.registry import DeviceRecord, GatewayRecord, PortfolioRecord, RegistryBatch, RegistryRecord
from unisono.model.technology import Lifecycle, SourceKind, Technology
from unisono.sim.live.gateway import MqttGateway
from unisono.sim.live.messages import Frame, Renewal, decode_downlink, decode_fetched
from unisono.wire.packed import encode_packed

PERIOD_S: Final = 10.0
TICK_S: Final = 0.1
POLL_S: Final = 4.0
RETRY_S: Final = 0.25
CONNECTING_AT_A_TIME: Final = 32
PACKED: Final = {"Content-Type": "application/vnd.unisono.packed"}
RECORDS_PER_MESSAGE: Final = 2000
RATINGS: Final = Ratings(
    power_max_w=5000.0,
    power_min_w=-5000.0,
    energy_capacity_wh=13_500.0,
    charge_efficiency_frac=0.95,
    discharge_efficiency_frac=0.95,
)


@dataclass(slots=True)
class Gateway:
    """One gateway and what it has sent: sequence -> when that was acknowledged (monotonic; 0: not yet)."""

    no: int
    rows: NDArray[np.intp]
    link: str
    next_seq: int
    sent: dict[int, float] = field(default_factory=dict)
    mqtt: MqttGateway | None = None
    outbox: deque[tuple[int, bytes]] = field(default_factory=deque)
    cursor: int = 0

    @property
    def id(self) -> str:
        """Its name, which is its login."""
        return f"gwy_{self.no:026d}"

    @property
    def secret(self) -> str:
        """What it proves itself with."""
        return f"secret-of-{self.no}"


@dataclass(slots=True)
class Acknowledged(MqttGateway):
    """An MQTT gateway that notes which batch a PUBACK was for: the sequence stands in the packed header."""

    sent: dict[int, float] = field(default_factory=dict)

    def take_acknowledgement(self, packet_id: int) -> None:
        """Note it, and forget the message."""
        stored = self._stored.get(packet_id)
        if stored is not None and stored.n_readings:
            self.sent[int.from_bytes(stored.payload[8:16], "little")] = time.monotonic()
        # By its name: a slotted dataclass is another class than the one that `super()` means here.
        MqttGateway.take_acknowledgement(self, packet_id)


class Fleet:
    """``n_devices`` batteries in one portfolio behind gateways of equal size; device numbers are rows + 1."""

    def __init__(self, n_devices: int, n_gateways: int, seed: int) -> None:
        chance = np.random.default_rng(seed)
        self.n_devices = n_devices
        self.base_w = chance.integers(-2000, 2000, n_devices).astype(np.float32)
        self.told_w = np.full(n_devices, np.nan, np.float32)
        self.soc_frac = chance.uniform(0.4, 0.9, n_devices).astype(np.float32)
        first_seq = time.time_ns() // NS_PER_MS
        parts = np.array_split(np.arange(n_devices), n_gateways)
        self.gateways = [
            Gateway(at + 1, rows, "http" if at % 2 else "mqtt", first_seq) for at, rows in enumerate(parts)
        ]
        self.phase_s = chance.uniform(0.0, PERIOD_S, n_gateways)
        self.is_sending = True
        self._seed = seed

    def registry(self, organisation_id: str, portfolio: tuple[str, int]) -> list[RegistryBatch]:
        """Return all records, in messages that NATS takes."""
        gateways = [
            GatewayRecord(
                revision=1,
                organisation_id=organisation_id,
                gateway_id=one.id,
                gateway_no=one.no,
                link=one.link,
                secret_sha256=hashlib.sha256(one.secret.encode()).hexdigest(),
            )
            for one in self.gateways
        ]
        devices = [_device(organisation_id, int(row), one) for one in self.gateways for row in one.rows]
        everyone = PortfolioRecord(
            # Newer than what the API has announced of it.
            revision=1000,
            organisation_id=organisation_id,
            portfolio_id=portfolio[0],
            portfolio_no=portfolio[1],
            device_nos=tuple(range(1, self.n_devices + 1)),
        )
        records: list[RegistryRecord] = [*gateways, *devices]
        cuts = range(0, len(records), RECORDS_PER_MESSAGE)
        return [
            *(RegistryBatch(tuple(records[at : at + RECORDS_PER_MESSAGE])) for at in cuts),
            RegistryBatch((everyone,)),
        ]

    @asynccontextmanager
    async def live(self, facts: dict[str, Any]) -> AsyncIterator[None]:
        """Connect, report and obey until the block ends."""
        slots = asyncio.Semaphore(CONNECTING_AT_A_TIME)
        limits = httpx.Limits(max_connections=64)
        async with (
            httpx.AsyncClient(base_url=facts["telemetry_url"], timeout=10.0, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            work = [tasks.create_task(self._report())]
            for one in self.gateways:
                if one.link == "mqtt":
                    one.mqtt = Acknowledged(
                        one.id,
                        one.secret,
                        facts["mqtt_host"],
                        facts["mqtt_port"],
                        heard=partial(self._heard, one),
                        kept=_ignore,
                        chance=random.Random(self._seed + one.no),  # noqa: S311  # pauses between attempts
                        sent=one.sent,
                    )
                    work.append(tasks.create_task(one.mqtt.run(slots)))
                else:
                    work += [tasks.create_task(self._post(client, one)), tasks.create_task(self._fetch(client, one))]
            try:
                yield
            finally:
                for task in work:
                    task.cancel()

    def n_unacknowledged(self) -> int:
        """Return how many batches wait for their acknowledgement."""
        return sum(not at_s for one in self.gateways for at_s in one.sent.values())

    def acknowledged(self) -> dict[tuple[int, int], float]:
        """Return (gateway, sequence) of every batch that was acknowledged, and when."""
        return {(one.no, seq): at_s for one in self.gateways for seq, at_s in one.sent.items() if at_s}

    async def _report(self) -> None:
        due_s = time.monotonic() + self.phase_s
        while True:
            now_s = time.monotonic()
            for at in np.flatnonzero(due_s <= now_s).tolist():
                due_s[at] += PERIOD_S
                if self.is_sending:
                    self._send(self.gateways[at])
            await asyncio.sleep(TICK_S)

    def _send(self, gateway: Gateway) -> None:
        rows, seq = gateway.rows, gateway.next_seq
        gateway.next_seq += 1
        told_w = self.told_w[rows]
        now_ms = time.time_ns() // NS_PER_MS
        columns = {
            "device_no": rows + 1,
            "source_kind": np.full(rows.size, int(SourceKind.DEVICE)),
            "reading_kind": np.zeros(rows.size),
            "quality": np.zeros(rows.size),
            "measured_ns": np.full(rows.size, now_ms * NS_PER_MS),
            "power_w": np.where(np.isnan(told_w), self.base_w[rows], told_w) + seq % 7,
            "soc_frac": self.soc_frac[rows],
        }
        batch = ReadingBatch.of_columns({"gateway_no": gateway.no, "batch_seq": seq, "known_ns": 0}, columns)
        payload = encode_packed(seq, batch)
        gateway.sent[seq] = 0.0
        if gateway.mqtt is not None:
            gateway.mqtt.publish(f"u/{gateway.id}/p", payload, rows.size)
        else:
            gateway.outbox.append((seq, payload))

    async def _post(self, client: httpx.AsyncClient, gateway: Gateway) -> None:
        while True:
            if not gateway.outbox:
                await asyncio.sleep(TICK_S)
            elif await _is_taken(client, "/v1/telemetry", gateway.outbox[0][1], gateway):
                gateway.sent[gateway.outbox.popleft()[0]] = time.monotonic()
            else:
                await asyncio.sleep(RETRY_S)

    async def _fetch(self, client: httpx.AsyncClient, gateway: Gateway) -> None:
        # So that they do not come all at once.
        await asyncio.sleep(POLL_S * (gateway.no % 16) / 16)
        while True:
            try:
                answer = await client.get("/v1/commands", params={"after": gateway.cursor}, headers=_login(gateway))
            except httpx.HTTPError:
                await asyncio.sleep(RETRY_S)
                continue
            if answer.status_code == httpx.codes.OK:
                fetched = decode_fetched(answer.content)
                gateway.cursor = fetched.next
                acks = [row for message in fetched.frames for row in self._obey(message)]
                if acks:
                    await _is_taken(client, "/v1/acks", _encoded(acks), gateway)
            await asyncio.sleep(POLL_S)

    def _heard(self, gateway: Gateway, what: str, payload: bytes) -> None:
        message = decode_downlink(what, payload)
        assert gateway.mqtt is not None, "who hears is on MQTT"
        if isinstance(message, Frame | Renewal):
            gateway.mqtt.publish(f"u/{gateway.id}/a", _encoded(self._obey(message)))

    def _obey(self, message: Frame | Renewal) -> list[tuple[int, int, int, int, int]]:
        """Do what is said and return the answers; leases last as long as the bench."""
        at_ms = time.time_ns() // NS_PER_MS
        if isinstance(message, Renewal):
            return [(-1, message.epoch, message.through_seq, 0, at_ms)]
        for item in message.commands:
            self.told_w[item.no - 1] = np.nan if item.kind == "release" else item.value
        return [(item.no, message.epoch, item.seq, 0, at_ms) for item in message.commands]


def _device(organisation_id: str, row: int, gateway: Gateway) -> DeviceRecord:
    no = row + 1
    return DeviceRecord(
        revision=1,
        organisation_id=organisation_id,
        device_id=f"dev_{no:026d}",
        device_no=no,
        site_id=f"sit_{no:026d}",
        site_no=no,
        gateway_id=gateway.id,
        gateway_no=gateway.no,
        technology=int(Technology.BESS),
        lifecycle=int(Lifecycle.ACTIVE),
        ratings=RATINGS,
        telemetry_period_s=PERIOD_S,
        command_latency_s=POLL_S if gateway.link == "http" else 0.5,
        merit_micros_per_kwh=row % 200,
    )


def _login(gateway: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.id}.{gateway.secret}"}


async def _is_taken(client: httpx.AsyncClient, path: str, payload: bytes, gateway: Gateway) -> bool:
    """Say whether it was answered with 202; whatever else is the world's, and is tried again.

    A row that is refused on the way is lost: every one is good.
    """
    try:
        answer = await client.post(path, content=payload, headers=_login(gateway) | PACKED)
    except httpx.HTTPError:
        return False
    if answer.status_code != httpx.codes.ACCEPTED:
        return False
    assert not answer.json()["rejected"], f"{gateway.id} was refused rows: {answer.text[:300]}"
    return True


def _encoded(acks: list[tuple[int, int, int, int, int]]) -> bytes:
    return msgspec.json.encode({"acks": acks})


def _ignore(n_readings: int) -> None:
    """Sequences are counted instead."""
