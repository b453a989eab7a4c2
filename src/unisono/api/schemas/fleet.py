"""Sites, gateways and devices, as enrolled and as realtime sees them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unisono.api.enrolment.facts import DeviceFacts
from unisono.api.schemas.portfolios import DEVICE_EXAMPLE
from unisono.api.schemas.types import INSTANT_EXAMPLE, Asked, Instant, LinkName, Text

SITE_EXAMPLE = "sit_01KK79P8RC0000000000000000"
GATEWAY_EXAMPLE = "gwy_01KK79P8RC0000000000000000"


class Site(BaseModel):
    """A place with a connection point."""

    site_id: str = Field(examples=[SITE_EXAMPLE])
    site_no: int
    partner_reference: str | None = None
    zip: str | None = Field(examples=["97214"])
    time_zone: str = Field(examples=["America/Los_Angeles"])
    latitude_deg: float | None
    longitude_deg: float | None
    n_devices: int


class Gateway(BaseModel):
    """What a device's messages pass through; its secret is shown once only, when it is made or rotated."""

    gateway_id: str = Field(examples=[GATEWAY_EXAMPLE])
    gateway_no: int
    partner_reference: str | None = None
    link: str = Field(examples=["mqtt"])
    vendor: str = ""
    is_revoked: bool
    n_devices: int


class GatewaySecret(BaseModel):
    """A new secret; what was valid before is so no longer."""

    gateway_id: str = Field(examples=[GATEWAY_EXAMPLE])
    gateway_secret: str | None = Field(
        description="Shown now and never again (null in a repeated answer).", examples=["(43 characters of base 64)"]
    )


class FourLevels(BaseModel):
    """Commanded, acknowledged, reported, measured: null is unknown, never zero."""

    commanded_kw: float | None
    acknowledged_kw: float | None
    reported_kw: float | None
    measured_kw: float | None


class DeviceNow(BaseModel):
    """The present picture of a device."""

    as_of: str | None = Field(examples=[INSTANT_EXAMPLE])
    age_s: float | None = Field(description="Since its newest reading was received.")
    trust: str = Field(examples=["fresh"])
    suspect_reason: str = ""
    truth: FourLevels
    power_kw: float | None
    power_sd_kw: float | None
    expected_kw: float | None = Field(
        description="Where it is taken to be: as read, or on its way to what it accepted while no reading can show it."
    )
    reference_kw: float | None
    reference_method: str
    soc_frac: float | None
    temperature_degc: float | None
    up_kw: float | None
    down_kw: float | None
    hold_up_s: float | None
    hold_down_s: float | None
    lease_expires_at: str | None
    last_answer: str | None = Field(description="Its newest answer to a command.", examples=["accepted"])
    dispatch_no: int | None
    clock_skew_s: float | None


class Device(BaseModel):
    """A device as enrolled."""

    device_id: str = Field(examples=[DEVICE_EXAMPLE])
    device_no: int
    partner_reference: str | None
    asset_type: str = Field(examples=["bess"])
    lifecycle: str = Field(examples=["active"])
    site_id: str
    gateway_id: str | None
    vendor: str
    max_discharge_kw: float | None
    max_charge_kw: float | None
    capacity_kwh: float | None


class DeviceDetail(Device):
    """A device with its ratings and limits, and its picture when realtime answers."""

    ratings: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    portfolios: list[str] = []
    now: DeviceNow | None = None
    now_missing_reason: str | None = None


class DevicePatch(DeviceFacts):
    """What is to be known of a device from now on; what is left out stays, a fact that is null is taken back.

    gateway_reference and link are no facts of the device: null is as good as left out.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"gateway_reference": "home-17", "link": "mqtt", "max_charge_kw": 5.0, "telemetry_period_s": 10}
            ]
        }
    )

    partner_reference: Text | None = Field(default=None, description="Your own id, for a device that has none yet.")
    gateway_id: Text | None = Field(default=None, description="A gateway that is there.", examples=[GATEWAY_EXAMPLE])
    gateway_reference: Text | None = Field(
        default=None, description="A gateway by your own id; it is made if it is not there, and its secret shown once."
    )
    link: LinkName | None = Field(
        default=None, description="How the gateway of that reference is reached; of a new one mqtt when left out."
    )


class DeviceChanged(Device):
    """A device as it is enrolled now."""

    gateway_secret: str | None = Field(
        default=None,
        description="Of a gateway that this request made: shown now and never again (null in a repeated answer).",
        examples=["(43 characters of base 64)"],
    )


class LifecycleAsked(Asked):
    """The next state of a device's life: commissioning and active need a gateway and the power of its direction."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lifecycle": "suspended", "reason": "owner moved out"}]})

    lifecycle: Literal["commissioning", "active", "suspended", "retired"]
    reason: Text | None = None


class OptOutAsked(Asked):
    """A half-open window [start, end) in which the device is not to be moved."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"start": "2026-11-20T17:00:00Z", "end": "2026-11-20T21:00:00Z", "reason": "guests"}]
        }
    )

    start: Instant
    end: Instant
    reason: Text | None = None


class OptOut(BaseModel):
    """An owner's word, kept."""

    opt_out_id: str = Field(examples=["opt_01KK79P8RC0000000000000000"])
    device_id: str
    interval_start: str
    interval_end: str
    reason: str = ""


class CommandLogEntry(BaseModel):
    """One command to a device and what became of it."""

    at: str | None
    epoch: int
    seq: int
    kind: str
    power_kw: float | None
    interval_start: str | None
    expires_at: str | None
    dispatch_id: str | None = None
    answer: str | None = Field(default=None, description="Its first answer; null while there is none.")
    answered_at: str | None = None


class CommandLog(BaseModel):
    """Commands from history; ``missing`` says which part of the asked interval can't be answered."""

    device_id: str
    interval_start: str
    interval_end: str
    items: list[CommandLogEntry]
    missing: list[str] = Field(examples=[["history has not yet written anything newer than 2026-11-20T16:58:00.000Z"]])


class Connectivity(BaseModel):
    """How reliably a device has been heard over an interval."""

    device_id: str
    interval_start: str
    interval_end: str
    n_readings: int | None
    expected_readings: int | None
    completeness_frac: float | None
    last_heard_at: str | None
    trust_now: str | None
    missing: list[str]
