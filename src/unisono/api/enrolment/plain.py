"""The short way of a plain line to what the store enrols: most lines are right and say ordinary things.

What is not plain (a mistake, text beyond ASCII, a fact of the wrong kind, a rule between fields that is broken) is left
to ``line``, which has the last word and the words for it. A plain line gives exactly what ``line`` would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from unisono.api.enrolment.facts import COLUMN_OF_FACT, LATENCY_S, LIMIT_OF_FACT, RATING_OF_FACT, lease_of
from unisono.api.enrolment.line import default_limits, default_ratings
from unisono.api.schemas.types import ENERGY_KWH_MAX, POWER_KW_MAX, TEXT_CHARS_MAX
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.technology import TECHNOLOGY_OF_ASSET_TYPE, Technology

_Kind = Literal[
    "power_setpoint", "import_export_limit", "mode", "temperature_offset", "shed_level", "schedule", "release"
]
# Printable ASCII that is not blank; others may be right as well, but are looked at more closely.
_Name = Annotated[str, Meta(min_length=1, max_length=TEXT_CHARS_MAX, pattern=r"^[!-~]([ -~]*[!-~])?\Z")]
_Label = _Name | None
_Power = Annotated[float, Meta(ge=0, le=POWER_KW_MAX)] | None
_Energy = Annotated[float, Meta(ge=0, le=ENERGY_KWH_MAX)] | None
_Fraction = Annotated[float, Meta(ge=0, le=1)] | None
_Efficiency = Annotated[float, Meta(ge=0.3, le=1)] | None
_WeekSeconds = Annotated[float, Meta(ge=0, le=604_800)] | None
_Temperature = Annotated[float, Meta(ge=-40, le=100)] | None


class PlainLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The fields of an EnrolmentLine within the bounds of each; instants are left to ``line``."""

    partner_reference: _Name
    asset_type: Literal["pv", "bess", "ev", "evse", "water_heater", "thermostat", "flex_load", "chp"]
    zip: Annotated[str, Meta(pattern=r"^[0-9]{5}(-[0-9]{4})?\Z", max_length=10)]
    site_reference: _Label = None
    gateway_reference: _Label = None
    latitude_deg: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude_deg: Annotated[float, Meta(ge=-180, le=180)] | None = None
    site_export_limit_kw: _Power = None
    site_import_limit_kw: _Power = None
    interconnection_status: Literal["none", "applied", "approved", "permitted", "suspended"] = "none"
    lifecycle: Literal["declared", "commissioning", "active"] = "declared"
    link: Literal["mqtt", "http", "mqtt_client"] = "mqtt"
    vendor: _Label = None
    carrier: _Label = None
    node_path: _Label = None
    max_discharge_kw: _Power = None
    max_charge_kw: _Power = None
    capacity_kwh: _Energy = None
    charge_efficiency_frac: _Efficiency = None
    discharge_efficiency_frac: _Efficiency = None
    ramp_kw_per_s: Annotated[float, Meta(gt=0, le=1e7)] | None = None
    is_on_off: bool | None = None
    min_power_kw: _Power = None
    min_on_s: _WeekSeconds = None
    min_off_s: _WeekSeconds = None
    notice_s: _WeekSeconds = None
    duration_max_s: Annotated[float, Meta(gt=0, le=1e300)] | None = None
    rebound_frac: Annotated[float, Meta(ge=0, le=2)] | None = None
    soc_reserve_frac: _Fraction = None
    soc_max_frac: _Fraction = None
    comfort_low_degc: _Temperature = None
    comfort_high_degc: _Temperature = None
    events_per_season_max: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    control_kinds: Annotated[tuple[_Kind, ...], Meta(min_length=1, max_length=7)] | None = None
    fallback: Literal["normal_operation", "zero_power", "hold"] | None = None
    telemetry_period_s: Annotated[float, Meta(ge=1, le=86_400)] | None = None
    command_latency_s: Annotated[float, Meta(ge=0, le=3600)] | None = None
    command_ttl_s: Annotated[float, Meta(ge=10, le=86_400)] | None = None
    merit_usd_per_kwh: Annotated[float, Meta(ge=0, le=1000)] | None = None
    ready_by: None = None
    needed_energy_kwh: None = None

    @property
    def technology(self) -> Technology:
        """The technology of ``asset_type``."""
        return TECHNOLOGY_OF_ASSET_TYPE[self.asset_type]

    def lease(self) -> tuple[float, float]:
        """Return how long a command takes and a lease lives, in seconds."""
        return lease_of(LATENCY_S if self.command_latency_s is None else self.command_latency_s, self.command_ttl_s)

    def ratings(self) -> Ratings:
        """Return the nameplate in watts, power positive into the grid."""
        told = self._told(RATING_OF_FACT)
        if self.technology is Technology.BESS and self.max_charge_kw is None:
            told["power_min_w"] = 0.0 - told.get("power_max_w", 0.0)
        return msgspec.structs.replace(_RATINGS[self.technology], **told)

    def limits(self) -> OwnerLimits:
        """Return what the owner allows."""
        base, told = _LIMITS[self.technology], self._told(LIMIT_OF_FACT)
        if self.soc_max_frac is not None:
            told.setdefault("soc_reserve_frac", min(base.soc_reserve_frac, self.soc_max_frac))
        return msgspec.structs.replace(base, **told) if told else base

    def columns(self) -> dict[str, Any]:
        """Return what else is told, as ``store.enrolment.NewDevice`` names and codes it."""
        return self._told(COLUMN_OF_FACT)

    def _told(self, of_fact: Mapping[str, tuple[str, Callable[[Any], Any]]]) -> dict[str, Any]:
        return {
            column: convert(value)
            for fact, (column, convert) in of_fact.items()
            if (value := getattr(self, fact)) is not None
        }


_RATINGS: Final = {technology: default_ratings(technology) for technology in Technology}
_LIMITS: Final = {technology: default_limits(technology) for technology in Technology}
_DECODER: Final = msgspec.json.Decoder(PlainLine)


def plain_line(text: bytes) -> PlainLine | None:
    """Return the line if each of its fields is plain, else None."""
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
