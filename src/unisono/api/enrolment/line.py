"""One line of a bulk enrolment (NDJSON), checked, and turned into the watts that everything inside speaks.

Only ``partner_reference``, ``asset_type`` and ``zip`` are required; what is left out takes the default of its
technology, written in ``LineDefaults`` below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from unisono.api.problems import field_path, plain_rule, plain_value
from unisono.api.schemas.portfolios import Asset
from unisono.api.schemas.types import Asked, AssetType, EnergyKwh, Instant, PowerKw, Text, Zip
from unisono.base.errors import InvalidInput
from unisono.base.instants import MISSING_NS
from unisono.base.units import w_of_kw, wh_of_kwh
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.technology import Technology


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise PydanticCustomError("number", "must be a JSON number")
    return value


Fraction = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1, allow_inf_nan=False)]
# An efficiency of 0 would make energy from nothing when divided by; no real device is below 30 %.
Efficiency = Annotated[float, BeforeValidator(_number), Field(ge=0.3, le=1, allow_inf_nan=False)]
LineSeconds = Annotated[float, BeforeValidator(_number), Field(ge=0, le=604_800, allow_inf_nan=False)]
Temperature = Annotated[float, BeforeValidator(_number), Field(ge=-40, le=100, allow_inf_nan=False)]

ControlKind = Literal[
    "power_setpoint", "import_export_limit", "mode", "temperature_offset", "shed_level", "schedule", "release"
]
# No limit at all, as the column of the fleet says it.
EVENTS_WITHOUT_LIMIT: Final = 2**31 - 1

# Type of the error that names a field of its own.
_ORDER: Final = "order"

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


class EnrolmentLine(Asked):
    """One device to enrol; repeated with the same partner_reference it changes nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [LINE_EXAMPLE]})

    partner_reference: Text
    asset_type: AssetType
    zip: Zip
    site_reference: Text | None = Field(default=None, description="Devices with the same one share a site.")
    gateway_reference: Text | None = Field(default=None, description="Devices with the same one share a gateway.")
    vendor: Text | Literal[""] = ""
    carrier: Text | Literal[""] = ""
    node_path: Text | Literal[""] = Field(default="", description="zone/substation/feeder/transformer")
    latitude_deg: Annotated[float, BeforeValidator(_number), Field(ge=-90, le=90, allow_inf_nan=False)] | None = None
    longitude_deg: Annotated[float, BeforeValidator(_number), Field(ge=-180, le=180, allow_inf_nan=False)] | None = None
    max_discharge_kw: PowerKw | None = Field(default=None, description="Largest power into the grid; default 0.")
    max_charge_kw: PowerKw | None = Field(
        default=None, description="Largest power out of the grid; default max_discharge_kw for bess, else 0."
    )
    capacity_kwh: EnergyKwh | None = None
    charge_efficiency_frac: Efficiency | None = None
    discharge_efficiency_frac: Efficiency | None = None
    ramp_kw_per_s: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1e7, allow_inf_nan=False)] | None = None
    is_on_off: bool = False
    min_power_kw: PowerKw | None = None
    min_on_s: LineSeconds = 0.0
    min_off_s: LineSeconds = 0.0
    notice_s: LineSeconds = 0.0
    duration_max_s: Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)] | None = None
    rebound_frac: Annotated[float, BeforeValidator(_number), Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    soc_reserve_frac: Fraction | None = None
    soc_max_frac: Fraction = 1.0
    comfort_low_degc: Temperature | None = None
    comfort_high_degc: Temperature | None = None
    ready_by: Instant | None = Field(default=None, description="When an EV must hold needed_energy_kwh.")
    needed_energy_kwh: EnergyKwh | None = Field(default=None, description="Stored energy wanted at ready_by.")
    events_per_season_max: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="How often the owner lets it be called; left out: as often as needed."
    )
    control_kinds: list[ControlKind] = Field(
        default=["power_setpoint"], min_length=1, max_length=7, description="What it obeys, the preferred one first."
    )
    fallback: Literal["normal_operation", "zero_power", "hold"] = Field(
        default="normal_operation", description="What it does by itself when a lease has run out."
    )
    telemetry_period_s: Annotated[float, BeforeValidator(_number), Field(ge=1, le=86_400, allow_inf_nan=False)] = 60.0
    command_latency_s: Annotated[float, BeforeValidator(_number), Field(ge=0, le=3600, allow_inf_nan=False)] = 1.0
    command_ttl_s: Annotated[float, BeforeValidator(_number), Field(ge=10, le=86_400, allow_inf_nan=False)] = 60.0
    merit_usd_per_kwh: Annotated[float, BeforeValidator(_number), Field(ge=0, le=1000, allow_inf_nan=False)] = 0.0
    site_export_limit_kw: PowerKw | None = None
    site_import_limit_kw: PowerKw | None = None
    interconnection_status: Literal["none", "applied", "approved", "permitted", "suspended"] = "none"
    lifecycle: Literal["declared", "commissioning", "active"] = "declared"
    link: Literal["mqtt", "http", "mqtt_client"] = Field(
        default="mqtt", description="How its gateway is reached; mqtt_client: through a broker of the operator's."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        limits = self.limits()
        if limits.soc_reserve_frac > limits.soc_max_frac:
            raise _out_of_order("soc_reserve_frac", limits.soc_reserve_frac, "soc_max_frac")
        if limits.comfort_low_degc > limits.comfort_high_degc:
            raise _out_of_order("comfort_low_degc", limits.comfort_low_degc, "comfort_high_degc")
        if (self.ready_by is None) != (self.needed_energy_kwh is None):
            raise _incomplete("ready_by", self.ready_by, "needed_energy_kwh")
        if self.capacity_kwh is not None and (self.needed_energy_kwh or 0.0) > self.capacity_kwh:
            raise _out_of_order("needed_energy_kwh", self.needed_energy_kwh or 0.0, "capacity_kwh")
        return self

    @property
    def technology(self) -> Technology:
        """The technology of ``asset_type``."""
        return Technology[self.asset_type.upper()]

    def ratings(self) -> Ratings:
        """Return the nameplate in watts, power positive into the grid."""
        defaults = DEFAULTS_OF_TECHNOLOGY.get(self.technology, LineDefaults())
        discharge_kw = self.max_discharge_kw or 0.0
        charge_kw = self.max_charge_kw
        if charge_kw is None:
            charge_kw = discharge_kw if self.technology is Technology.BESS else 0.0
        return Ratings(
            power_max_w=w_of_kw(discharge_kw),
            power_min_w=0.0 - w_of_kw(charge_kw),
            energy_capacity_wh=wh_of_kwh(self.capacity_kwh or 0.0),
            charge_efficiency_frac=_or(self.charge_efficiency_frac, defaults.charge_efficiency_frac),
            discharge_efficiency_frac=_or(self.discharge_efficiency_frac, defaults.discharge_efficiency_frac),
            ramp_w_per_s=float("inf") if self.ramp_kw_per_s is None else w_of_kw(self.ramp_kw_per_s),
            power_step_min_w=w_of_kw(self.min_power_kw or 0.0),
            is_on_off=self.is_on_off,
            min_on_s=self.min_on_s,
            min_off_s=self.min_off_s,
            notice_s=self.notice_s,
            duration_max_s=_or(self.duration_max_s, float("inf")),
            rebound_frac=self.rebound_frac,
        )

    def limits(self) -> OwnerLimits:
        """Return what the owner allows."""
        defaults = DEFAULTS_OF_TECHNOLOGY.get(self.technology, LineDefaults())
        return OwnerLimits(
            soc_reserve_frac=_or(self.soc_reserve_frac, min(defaults.soc_reserve_frac, self.soc_max_frac)),
            soc_max_frac=self.soc_max_frac,
            comfort_low_degc=_or(self.comfort_low_degc, defaults.comfort_low_degc),
            comfort_high_degc=_or(self.comfort_high_degc, defaults.comfort_high_degc),
            ready_by_ns=MISSING_NS if self.ready_by is None else self.ready_by,
            needed_energy_wh=wh_of_kwh(self.needed_energy_kwh or 0.0),
            events_per_season_max=EVENTS_WITHOUT_LIMIT
            if self.events_per_season_max is None
            else self.events_per_season_max,
        )


def parse_line(text: bytes) -> EnrolmentLine:
    """Return the checked line; raises InvalidInput for the first field that breaks a rule."""
    try:
        return EnrolmentLine.model_validate_json(text)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        if first["type"] == _ORDER:
            raise InvalidInput(first["ctx"]["field"], first["ctx"]["value"], first["msg"]) from wrong
        value = None if first["type"] == "missing" else plain_value(first.get("input"))
        raise InvalidInput(field_path(first["loc"]) or "line", value, plain_rule(first["msg"])) from wrong


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


def _out_of_order(field: str, value: float, above: str) -> PydanticCustomError:
    return PydanticCustomError(_ORDER, "must not be above {above}", {"field": field, "value": value, "above": above})


def _incomplete(field: str, value: object, other: str) -> PydanticCustomError:
    return PydanticCustomError(
        _ORDER, "needs {other} beside it, and the other way round", {"field": field, "value": value, "other": other}
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
