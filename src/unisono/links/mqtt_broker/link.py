"""The default link: gateways speak MQTT 3.1.1 to the embedded nats-server, which knows them by their own login."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unisono.base.clock import Clock
from unisono.base.errors import Unavailable
from unisono.links.contract import (
    UNIT_OF_FIELD,
    Addressed,
    CommandWay,
    Handed,
    Intake,
    Manifest,
    Promise,
    Quality,
    Sign,
)
from unisono.links.mqtt_broker.forbidden import ForbiddenPublishes
from unisono.links.mqtt_broker.greeting import greet
from unisono.links.mqtt_broker.kept import KeptReader, Streams
from unisono.links.mqtt_broker.socket import NatsLogin, RawSubscriber
from unisono.links.reception import Arrived, Reception
from unisono.links.waiting import Waiting, WaitingBatches
from unisono.model.batches import AckBatch, ReadingBatch
from unisono.wire.natsbuffer import Scanned
from unisono.wire.receipts import encode_receipt
from unisono.wire.topics import Down, down_topic

log = logging.getLogger(__name__)

MANIFEST: Final = Manifest(
    name="mqtt",
    title="MQTT to the embedded broker",
    protocol="MQTT 3.1.1 (nats-server)",
    unit_of_field=UNIT_OF_FIELD,
    sign=Sign.INTO_GRID,
    quality=Quality.DEVICE,
    promise_of_way={
        "QoS 0 single": Promise.NONE,
        "QoS 1 single": Promise.ACKNOWLEDGED_IS_KEPT,
        "QoS 0 batch": Promise.RECEIPT_IS_KEPT,
        "QoS 1 batch": Promise.ACKNOWLEDGED_IS_KEPT,
    },
    command_way=CommandWay.PUSHED,
    telemetry_period_min_s=1.0,
    # 100,000 setpoints to 50 gateways reach the last one within 0.9 s (measured).
    command_latency_s=0.05,
    command_latency_worst_s=1.0,
    body_bytes_max=8 << 20,
)

RETRY_S: Final = 0.5
LOG_PERIOD_S: Final = 0.25
# Batches, and singles that surprise the kernel, at QoS 0 while our stream is away; beyond it the oldest go.
SPILLED_MAX: Final = 20_000
Send = Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class MqttBrokerSettings:
    """Where the nats-server is and as whom we use it; ``takes_kept``: one front of several reads the QoS 1 stream."""

    nats: NatsLogin
    mqtt_host: str
    mqtt_port: int
    takes_kept: bool = True
    # Several fronts share the QoS 0 readings by this queue group.
    group: str = "fronts"
    # The server's log, when it is on this machine: the front that takes what is kept counts forbidden publishes there.
    server_log: Path | None = None


class MqttBrokerLink:
    """Runs the raw subscriber and the reader of kept messages; ``send`` publishes (subject, payload) to NATS."""

    manifest = MANIFEST

    def __init__(
        self,
        settings: MqttBrokerSettings,
        reception: Reception,
        intake: Intake,
        *,
        streams: Streams,
        send: Send,
        clock: Clock,
        spilled_max: int = SPILLED_MAX,
    ) -> None:
        self._settings = settings
        self._reception = reception
        self._intake = intake
        self._send = send
        self._clock = clock
        self._raw = RawSubscriber(settings.nats, reception.identity, self._on_scan, subject="u.>", group=settings.group)
        self._kept = KeptReader(streams, self._take, reception.named)
        self._spilled = Waiting(reception, spilled_max)
        self._batches = WaitingBatches(reception)
        # Set once acknowledged messages are kept for us: from then on gateways may be let in.
        self.may_admit = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether both ways in are open."""
        return self._raw.is_up and (self._kept.is_up or not self._settings.takes_kept)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._raw.run(), name="qos0")
            tasks.create_task(self._run_spilled(), name="qos0 slow path")
            tasks.create_task(self._run_batches(), name="qos0 batches")
            await self._open_kept()
            self.may_admit.set()
            if self._settings.takes_kept:
                tasks.create_task(self._kept.run(), name="qos1")
                if self._settings.server_log is not None:
                    tasks.create_task(self._count_forbidden(self._settings.server_log), name="forbidden publishes")

    async def deliver(self, messages: Sequence[Addressed], cursor: int) -> list[Handed]:
        """Publish them (NATS hands them to MQTT at QoS 0: acknowledgement and repetition are the command's own)."""
        try:
            await self._send([(_subject(to.gateway_id, message.what), message.payload) for to, message in messages])
        except Unavailable:
            return [Handed.UNREACHABLE] * len(messages)
        return [Handed.SENT] * len(messages)

    async def _open_kept(self) -> None:
        if not self._settings.takes_kept:
            return
        settings = self._settings
        was_refused = False
        while True:
            try:
                await greet(settings.mqtt_host, settings.mqtt_port, settings.nats.user, settings.nats.password)
                await self._kept.open()
            except Unavailable as wrong:
                if not was_refused:
                    log.warning("MQTT is not open yet: %s", wrong)
                was_refused = True
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _on_scan(self, scanned: Scanned) -> None:
        known_ns = self._clock.wall_ns()
        batch = self._reception.scanned(scanned, known_ns)
        if len(batch):
            self._intake.offer(batch)
        received = self._reception.scanned_batches(scanned, known_ns)
        if received is not None:
            self._batches.put(received)
        for spill in scanned.spills:
            name = self._reception.named(spill.subject, ".")
            if name is not None:
                self._spilled.put((name, spill.payload))

    async def _run_batches(self) -> None:
        while True:
            received = await self._batches.take()
            await self._kept_at_last(received.batch)
            self._raw.publish(self._receipts(received.parts))

    async def _kept_at_last(self, batch: ReadingBatch | AckBatch) -> None:
        while len(batch):
            try:
                await self._intake.keep(batch)
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _receipts(self, parts: NDArray[np.int64]) -> bytes:
        """Return a command to the server for each batch's receipt: one write for all of them."""
        commands = []
        for gateway_no, seq, _ in parts.tolist():
            entry = self._reception.identity.gateway_of_no(gateway_no)
            if entry is not None:
                receipt = encode_receipt(seq)
                subject = _subject(entry.gateway_id, Down.RECEIPT)
                commands.append(b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(receipt), receipt))
        return b"".join(commands)

    async def _run_spilled(self) -> None:
        while True:
            await self._take(await self._spilled.take())

    async def _count_forbidden(self, server_log: Path) -> None:
        publishes = ForbiddenPublishes(server_log)
        try:
            while True:
                for gateway_id in publishes.read():
                    self._reception.lose(gateway_id, "forbidden")
                await asyncio.sleep(LOG_PERIOD_S)
        finally:
            publishes.close()

    async def _take(self, arrived: list[Arrived]) -> None:
        """Return when all of it is kept and receipted, however long the stream is away."""
        for received in self._reception.receive(arrived, self._clock.wall_ns()):
            await self._kept_at_last(received.batch)
            while received.receipt_seq >= 0:
                try:
                    subject = _subject(received.gateway_id, Down.RECEIPT)
                    await self._send([(subject, encode_receipt(received.receipt_seq))])
                except Unavailable:
                    await asyncio.sleep(RETRY_S)
                else:
                    break


def _subject(gateway_id: str, what: Down) -> str:
    return down_topic(gateway_id, what).replace("/", ".")
