"""A client of a foreign MQTT 3.1.1 or 5 broker; what it acknowledges to gateways binds the broker, not us.

So batches carry the gateway's sequence and are answered by ``{"through_seq": n}`` when they are kept; single readings
carry no promise on this link. Who may publish as which gateway is for the broker's access rules to hold.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError

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
from unisono.links.reception import Arrived, Reception
from unisono.links.waiting import Waiting
from unisono.wire.receipts import encode_receipt
from unisono.wire.topics import Down, Up, down_topic

log = logging.getLogger(__name__)

MANIFEST: Final = Manifest(
    name="mqtt_client",
    title="MQTT through a foreign broker",
    protocol="MQTT 3.1.1 or 5",
    unit_of_field=UNIT_OF_FIELD,
    sign=Sign.INTO_GRID,
    quality=Quality.DEVICE,
    promise_of_way={"single": Promise.NONE, "batch": Promise.RECEIPT_IS_KEPT},
    command_way=CommandWay.PUSHED,
    telemetry_period_min_s=1.0,
    command_latency_s=0.1,
    command_latency_worst_s=2.0,
)

TOPICS: Final = (f"u/+/+/{Up.TELEMETRY}", f"u/+/{Up.BATCH}", f"u/+/{Up.PACKED}", f"u/+/{Up.ACKS}")
# Some 100 s of 1,000 messages/s while our stream is away; beyond it the oldest go, which gateways repeat unreceipted.
WAITING_MAX: Final = 100_000
TICK_S: Final = 0.1
RETRY_S: Final = 0.5
RECONNECT_S: Final = 1.0
CONNECT_TIMEOUT_S: Final = 10.0
KEEP_ALIVE_S: Final = 10
# For so long an MQTT 5 broker keeps what comes while we are away; unsaid, it would keep nothing.
SESSION_S: Final = 3600
# A broker acknowledges in milliseconds; one that takes longer holds up the commands for everybody else.
PUBLISH_WAIT_S: Final = 2.0
PUBLISH_RETRY_S: Final = 0.01
# gmqtt's -1 is for ever and 0 is once: it reconnects never, because after some refusals it would give up for good.
_NO_RECONNECTS: Final = -2


@dataclass(frozen=True, slots=True)
class MqttClientSettings:
    """The broker and our login there; ``version`` 4 is MQTT 3.1.1, 5 is MQTT 5."""

    host: str
    port: int
    client_id: str
    user: str = ""
    password: str = ""
    version: int = 5
    is_tls: bool = False


class MqttClientLink:
    """One connection to the broker; only one front runs it (two would each bring every reading)."""

    def __init__(
        self,
        settings: MqttClientSettings,
        reception: Reception,
        intake: Intake,
        *,
        clock: Clock,
        name: str = "mqtt_client",
        waiting_max: int = WAITING_MAX,
        publish_wait_s: float = PUBLISH_WAIT_S,
    ) -> None:
        self.manifest = replace(MANIFEST, name=name)
        self._settings = settings
        self._reception = reception
        self._intake = intake
        self._clock = clock
        self._waiting = Waiting(reception, waiting_max)
        self._publish_wait_s = publish_wait_s
        # Whether a wait for the broker was in vain: then nobody waits until it takes something again.
        self._is_stuck = False
        # Commands and receipts that the broker did not take; the plant and gateways repeat what they miss.
        self.n_unsent = 0
        self._lost = asyncio.Event()
        self._has_us = False
        # Set when the broker has confirmed our subscriptions for the first time.
        self.has_subscribed = asyncio.Event()
        self._client = self._new_client()

    @property
    def is_up(self) -> bool:
        """Whether the broker has us."""
        return bool(self._client.is_connected)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._stay_connected(), name="connection")
                tasks.create_task(self._drain(), name="drain")
        finally:
            if self._client.is_connected:
                await self._client.disconnect()

    async def deliver(self, messages: Sequence[Addressed], cursor: int) -> list[Handed]:
        """Publish them at QoS 1, not retained: nobody may find an old command there."""
        handed = []
        for gateway, message in messages:
            is_sent = await self._publish(gateway.gateway_id, message.what, message.payload)
            handed.append(Handed.SENT if is_sent else Handed.UNREACHABLE)
        return handed

    def _new_client(self) -> gmqtt.Client:
        settings = self._settings
        client = gmqtt.Client(settings.client_id, clean_session=False, session_expiry_interval=SESSION_S)
        if settings.user:
            client.set_auth_credentials(settings.user, settings.password)
        client.set_config({"reconnect_retries": _NO_RECONNECTS})
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        return client

    async def _stay_connected(self) -> None:
        settings = self._settings
        version = MQTTv50 if settings.version == 5 else MQTTv311
        tls: ssl.SSLContext | bool = ssl.create_default_context() if settings.is_tls else False
        was_refused = False
        while True:
            self._lost.clear()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._client.connect(
                        settings.host, settings.port, ssl=tls, keepalive=KEEP_ALIVE_S, version=version
                    )
                was_refused = False
                await self._lost.wait()
            except (OSError, MQTTConnectError, TimeoutError) as wrong:
                if not was_refused:
                    why = str(wrong) or "no answer; if it does not speak MQTT 5, set mqtt_client_version = 4"
                    log.warning("broker %s:%d: %s", settings.host, settings.port, why)
                was_refused = True
            await asyncio.sleep(RECONNECT_S)
            # A new client for each connection. What the old one had under way is repeated by who misses it.
            old, self._client = self._client, self._new_client()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await old.disconnect()

    def _on_connect(self, client: gmqtt.Client, flags: int, code: int, properties: Any) -> None:
        log.info("broker %s:%d has us", self._settings.host, self._settings.port)
        self._has_us = True
        client.subscribe([gmqtt.Subscription(topic, qos=1) for topic in TOPICS])

    def _on_subscribe(self, client: gmqtt.Client, mid: int, qos: tuple[int, ...], properties: Any) -> None:
        refused = [code for code in qos if code >= 128]
        if refused:
            host, port = self._settings.host, self._settings.port
            log.error("broker %s:%d refuses %d of our subscriptions", host, port, len(refused))
        self.has_subscribed.set()

    def _on_disconnect(self, client: gmqtt.Client, packet: Any, exc: Exception | None = None) -> None:
        if client is self._client and not self._lost.is_set():
            self._lost.set()
            # After a refusal this is called too; that was told already.
            if self._has_us:
                log.warning("broker %s:%d lost: %s", self._settings.host, self._settings.port, exc)
            self._has_us = False

    def _on_message(self, client: gmqtt.Client, topic: str, payload: bytes, qos: int, properties: Any) -> int:
        name = self._reception.named(topic, "/")
        if name is not None:
            self._waiting.put((name, bytes(payload)))
        return 0

    async def _drain(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self._take(await self._waiting.take())

    async def _take(self, arrived: list[Arrived]) -> None:
        for received in self._reception.receive(arrived, self._clock.wall_ns()):
            while len(received.batch):
                try:
                    await self._intake.keep(received.batch)
                except Unavailable:
                    await asyncio.sleep(RETRY_S)
                else:
                    break
            if received.receipt_seq >= 0:
                await self._publish(received.gateway_id, Down.RECEIPT, encode_receipt(received.receipt_seq))

    async def _publish(self, gateway_id: str, what: Down, payload: bytes) -> bool:
        """Return whether the broker was given it; wait while it has as many unacknowledged as it allows."""
        is_sent = await self._publish_in_time(down_topic(gateway_id, what), payload)
        self._is_stuck = not is_sent
        self.n_unsent += not is_sent
        return is_sent

    async def _publish_in_time(self, topic: str, payload: bytes) -> bool:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._publish_wait_s
        while self._client.is_connected:
            try:
                self._client.publish(topic, payload, qos=1)
            except OverflowError:
                # The broker's receive maximum: 20 at mosquitto.
                if self._is_stuck or loop.time() > until_s:
                    return False
                await asyncio.sleep(PUBLISH_RETRY_S)
            else:
                return True
        return False
