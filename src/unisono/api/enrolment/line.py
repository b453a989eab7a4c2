"""One line of a bulk enrolment (NDJSON), checked, and turned into the watts that everything inside speaks.

Only ``partner_reference``, ``asset_type`` and ``zip`` are always required; what is left out takes the default of its
technology, written in ``LineDefaults`` below. The rules between fields stand in ``facts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

import msgspec
from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from unisono.api.enrolment.facts import LATENCY_S, DeviceFacts, number
from unisono.api.problems import broken_of
from unisono.api.schemas.portfolios import Asset
from unisono.api.schemas.types import AssetType, LinkName, PowerKw, Text, Zip
from unisono.base.errors import InvalidInput
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.technology import Lifecycle, Technology

LINE_EXAMPLE: Final[dict[str, JsonValue]] = {
    "partner_reference": "home-17/battery",
    "asset_type": "bess",
    "zip": "97214",
    "site_reference": "home-17",
    "gateway_reference": "gw-3",
    "vendor": "acme",
    "carrier": "cellco",
    "node_path": "pdx/sub-2/feeder-7/t-41",
    "max_discharge_kw": 7.6,
    "max_charge_kw": 5.0,
    "capacity_kwh": 13.5,
    "telemetry_period_s": 10,
    "lifecycle": "active",
    "link": "mqtt",
}


@dataclass(frozen=True, slots=True)
class LineDefaults:
    """What a technology takes for what is left out; the same figures stand in the API's reference page."""

    # Round trip 0.9, the middle of residential datasheets (LFP, AC-coupled), split evenly.
    charge_efficiency_frac: float = 1.0
    discharge_efficiency_frac: float = 1.0
    # None: the device is never asked to keep back energy.
    soc_reserve_frac: float = 0.0
    comfort_low_degc: float = float("nan")
    comfort_high_degc: float = float("nan")


DEFAULTS_OF_TECHNOLOGY: Final = {
    Technology.BESS: LineDefaults(0.95, 0.95, soc_reserve_frac=0.1),
    Technology.EV: LineDefaults(0.92, 0.92, soc_reserve_frac=0.3),
    Technology.EVSE: LineDefaults(0.92),
    # ASHRAE 55 comfort for rooms; 49 degC is the lowest tank temperature that water heater programmes allow (120 degF).
    Technology.THERMOSTAT: LineDefaults(comfort_low_degc=18.0, comfort_high_degc=27.0),
    Technology.WATER_HEATER: LineDefaults(comfort_low_degc=49.0, comfort_high_degc=65.0),
}


class EnrolmentLine(DeviceFacts):
    """One device to enrol; repeated with the same partner_reference it changes nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [LINE_EXAMPLE]})

    partner_reference: Text
    asset_type: AssetType
    zip: Zip
    site_reference: Text | None = Field(default=None, description="Devices with the same one share a site.")
    gateway_reference: Text | None = Field(default=None, description="Devices with the same one share a gateway.")
    latitude_deg: Annotated[float, BeforeValidator(number), Field(ge=-90, le=90, allow_inf_nan=False)] | None = None
    longitude_deg: Annotated[float, BeforeValidator(number), Field(ge=-180, le=180, allow_inf_nan=False)] | None = None
    site_export_limit_kw: PowerKw | None = None
    site_import_limit_kw: PowerKw | None = None
    interconnection_status: Literal["none", "applied", "approved", "permitted", "suspended"] = "none"
    lifecycle: Literal["declared", "commissioning", "active"] = "declared"
    link: LinkName = Field(
        default="mqtt", description="How its gateway is reached; mqtt_client: through a broker of the operator's."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        # Its InvalidInput is none of pydantic's errors and passes through: it names one field already.
        self.check(self.technology, Lifecycle[self.lifecycle.upper()], self.ratings(), self.limits())
        self.lease()
        return self

    def lease(self) -> tuple[float, float]:
        """Return how long a command takes and a lease lives, in seconds."""
        return self.lease_from(LATENCY_S, None)

    @property
    def technology(self) -> Technology:
        """The technology of ``asset_type``."""
        return Technology[self.asset_type.upper()]

    def ratings(self) -> Ratings:
        """Return the nameplate in watts, power positive into the grid."""
        return self.ratings_from(default_ratings(self.technology), self.technology)

    def limits(self) -> OwnerLimits:
        """Return what the owner allows."""
        base = default_limits(self.technology)
        if self.soc_max_frac is not None:
            reserve_frac = min(base.soc_reserve_frac, self.soc_max_frac)
            base = msgspec.structs.replace(base, soc_reserve_frac=reserve_frac)
        return self.limits_from(base)


def default_ratings(technology: Technology) -> Ratings:
    """Return the nameplate of a device that nothing is told of: no power, no energy."""
    defaults = DEFAULTS_OF_TECHNOLOGY.get(technology, LineDefaults())
    return Ratings(
        power_max_w=0.0,
        power_min_w=0.0,
        charge_efficiency_frac=defaults.charge_efficiency_frac,
        discharge_efficiency_frac=defaults.discharge_efficiency_frac,
    )


def default_limits(technology: Technology) -> OwnerLimits:
    """Return what the owner of a device allows who says nothing."""
    defaults = DEFAULTS_OF_TECHNOLOGY.get(technology, LineDefaults())
    return OwnerLimits(
        soc_reserve_frac=defaults.soc_reserve_frac,
        comfort_low_degc=defaults.comfort_low_degc,
        comfort_high_degc=defaults.comfort_high_degc,
    )


def parse_line(text: bytes) -> EnrolmentLine:
    """Return the checked line; raises InvalidInput for the first that breaks a rule."""
    try:
        return EnrolmentLine.model_validate_json(text)
    except ValidationError as wrong:
        first = broken_of(wrong.errors(include_url=False)[0])
        raise InvalidInput(first.field or "line", first.value, first.rule) from wrong


def line_of_asset(asset: Asset) -> EnrolmentLine:
    """Return an asset of a new portfolio as a line: declared, with a site of its own, without a gateway."""
    return EnrolmentLine(
        partner_reference=asset.partner_reference or "(none)",
        asset_type=asset.asset_type,
        zip=asset.zip,
        max_discharge_kw=asset.max_discharge_kw,
        max_charge_kw=asset.max_charge_kw,
        capacity_kwh=asset.capacity_kwh,
    )
