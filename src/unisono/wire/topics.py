"""Names on the gateway side: MQTT topics ``u/<gateway>/...`` (up) and ``c/<gateway>/...`` (commands), also as subjects.

NATS shows an MQTT topic with dots for slashes, so a gateway id holds neither (our ids do not).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Up(StrEnum):
    """The last level of what gateways publish."""

    TELEMETRY = "t"
    BATCH = "b"
    PACKED = "p"
    ACKS = "a"


class Down(StrEnum):
    """The last level of what gateways are sent."""

    FRAME = "f"
    RENEWAL = "r"
    RECEIPT = "s"


@dataclass(frozen=True, slots=True)
class UpName:
    """Who publishes what: ``device_id`` only for single readings."""

    gateway_id: str
    device_id: str
    what: Up


def telemetry_topic(gateway_id: str, device_id: str) -> str:
    """Return the topic of one device's single readings."""
    return f"u/{gateway_id}/{device_id}/{Up.TELEMETRY}"


def up_topic(gateway_id: str, what: Up) -> str:
    """Return the topic of a gateway's batches or acknowledgements."""
    return f"u/{gateway_id}/{what}"


def down_topic(gateway_id: str, what: Down) -> str:
    """Return the topic that a gateway is sent frames, renewals or receipts on."""
    return f"c/{gateway_id}/{what}"


def gateway_id_of(name: str, separator: str) -> str:
    """Return the gateway of any topic or subject under ``u``, also of one that says nothing; "" without one."""
    levels = name.split(separator)
    return levels[1] if len(levels) > 1 else ""


def parse_up(name: str, separator: str) -> UpName | None:
    """Return what a topic (separator ``/``) or subject (``.``) under ``u`` says; None when it is none of ours.

    >>> parse_up("u/gwy_1/dev_2/t", "/")
    UpName(gateway_id='gwy_1', device_id='dev_2', what=<Up.TELEMETRY: 't'>)
    """
    levels = name.split(separator)
    if levels[0] != "u" or not all(levels):
        return None
    if len(levels) == 4 and levels[3] == Up.TELEMETRY:
        return UpName(levels[1], levels[2], Up.TELEMETRY)
    if len(levels) == 3 and levels[2] in (Up.BATCH, Up.PACKED, Up.ACKS):
        return UpName(levels[1], "", Up(levels[2]))
    return None
