"""What a link is: a manifest that tells its units, sign, limits and promises, and the few calls that services make.

Made to fit also what is slow and asynchronous (vendor clouds with a budget of calls), fetched (HTTP, IEEE 2030.5,
OpenADR), polled (SunSpec Modbus) or session-bound (OCPP, SCADA): ``deliver`` says only what became of the handing
over; what a device answered comes back later through ``Intake.keep`` as an AckBatch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from unisono.links.identity import GatewayEntry
from unisono.model.batches import AckBatch, ReadingBatch
from unisono.wire.frames import Outgoing


class Sign(StrEnum):
    """What a positive power means on the wire; everything behind the codec is positive into the grid."""

    INTO_GRID = "into_grid"
    OUT_OF_GRID = "out_of_grid"


class Quality(StrEnum):
    """How good the link's numbers are at best."""

    REVENUE_METER = "revenue_meter"
    DEVICE = "device"
    VENDOR_CLOUD = "vendor_cloud"
    ESTIMATE = "estimate"


class Promise(StrEnum):
    """When the sender may forget what it sent."""

    NONE = "none"
    # The protocol's own acknowledgement (PUBACK, 2xx) comes only when it is kept.
    ACKNOWLEDGED_IS_KEPT = "acknowledged_is_kept"
    # An application receipt for each batch comes when it is kept; the protocol's acknowledgement means nothing.
    RECEIPT_IS_KEPT = "receipt_is_kept"


class CommandWay(StrEnum):
    """How commands reach a gateway."""

    NONE = "none"
    PUSHED = "pushed"
    FETCHED = "fetched"
    # We call a service that answers when the device did, maybe minutes later.
    ASYNCHRONOUS = "asynchronous"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``calls`` in any ``period_s``, counted per gateway (or per link when ``is_shared``)."""

    calls: int
    period_s: float
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the platform, the docs and the operator know of a link without reading its code.

    ``unit_of_field`` names each field on the wire with its unit; ``promise_of_way`` each way in with its promise.
    Latencies are from our handing over to the device's acting: typical and worst without a fault.
    """

    name: str
    title: str
    protocol: str
    unit_of_field: Mapping[str, str]
    sign: Sign
    quality: Quality
    promise_of_way: Mapping[str, Promise]
    command_way: CommandWay
    telemetry_period_min_s: float
    command_latency_s: float
    command_latency_worst_s: float
    telemetry_rate: Rate | None = None
    command_rate: Rate | None = None
    body_bytes_max: int | None = None


Addressed = tuple[GatewayEntry, Outgoing]


class Handed(StrEnum):
    """What became of handing a message over."""

    SENT = "sent"
    # It waits here until the gateway fetches it, or the budget allows it.
    HELD = "held"
    RATE_LIMITED = "rate_limited"
    UNREACHABLE = "unreachable"


class Intake(Protocol):
    """Where links put what they decoded."""

    async def keep(self, batch: ReadingBatch | AckBatch) -> None:
        """Return when the batch is on the stream; only then may its sender be told. Raises Unavailable."""
        ...

    def offer(self, batch: ReadingBatch) -> None:
        """Take a batch without a promise: when the stream is away for long, the oldest are dropped and counted."""
        ...


class Link(Protocol):
    """One connection; services run it in a task group and hand it what goes out."""

    @property
    def manifest(self) -> Manifest:
        """What the link says of itself."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether it can receive at this moment."""
        ...

    async def run(self) -> None:
        """Work until cancelled; losing the other side is no reason to return."""
        ...

    async def deliver(self, messages: Sequence[Addressed], cursor: int) -> list[Handed]:
        """Hand messages over, each gateway's in this order, and say what became of each. Never raises for one gateway.

        ``cursor`` is their place in the stream of commands; there may be as many as there are gateways.
        """
        ...


# The fields of our own JSON and packed forms, for the manifests of all links that speak them.
UNIT_OF_FIELD: Mapping[str, str] = {
    "ts": "ms since 1970 UTC",
    "p": "W",
    "energy_kwh": "kWh",
    "interval_start_ms": "ms since 1970 UTC",
    "register_kwh": "kWh",
    "soc": "fraction",
    "tc": "degC",
    "v": "V",
    "st": "device's own code",
}
