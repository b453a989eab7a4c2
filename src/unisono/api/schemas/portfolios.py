"""Portfolios: enrolling assets, choosing members, the status picture, the event log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from unisono.api.schemas.types import INSTANT_EXAMPLE, Asked, AssetType, EnergyKwh, PowerKw, Text, Zip, id_of

# One call declares at most this many assets; larger fleets go through bulk enrolment, which is a job.
ASSETS_MAX = 1000
PORTFOLIO_EXAMPLE = "pfo_01KK79P8RC0000000000000000"
DEVICE_EXAMPLE = "dev_01KK79P8RC0000000000000000"


class Asset(Asked):
    """A resource declared on paper: one site is made from its ZIP; enrolled, but 0 dependable until commissioned."""

    asset_type: AssetType
    zip: Zip
    capacity_kwh: EnergyKwh | None = Field(
        default=None, description="Usable energy; required for bess, and for an ev or evse with max_discharge_kw."
    )
    max_discharge_kw: PowerKw | None = Field(default=None, description="Largest power into the grid.")
    max_charge_kw: PowerKw | None = Field(
        default=None, description="Largest power out of the grid, as a positive number."
    )
    partner_reference: Text | None = Field(default=None, description="Your own id; it can be given later.")


class DeviceFilter(Asked):
    """All devices of the organisation that meet every condition given, as enrolled at the moment of the call."""

    asset_type: AssetType | None = None
    vendor: Text | None = None
    node_path_prefix: Text | None = None
    lifecycle: Literal["declared", "commissioning", "active", "suspended"] | None = None
    portfolio_id: id_of("portfolio") | None = None  # type: ignore[valid-type]
    every_nth: int | None = Field(default=None, ge=1, le=1000, description="Keep one device in n, by device_no.")


def _branch(value: object) -> str:
    return "(id)" if isinstance(value, str) else "(filter)"


# Told apart by their form, so that a mistake in one is not also told as a mistake in the other.
Member: Any = Annotated[
    Annotated[id_of("device"), Tag("(id)")] | Annotated[DeviceFilter, Tag("(filter)")], Discriminator(_branch)
]


class PortfolioAsked(Asked):
    """A portfolio to make: of new assets, of existing devices, or of both; portfolios may overlap."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Portland batteries",
                    "assets": [
                        {"asset_type": "bess", "zip": "97214", "capacity_kwh": 13.5, "max_discharge_kw": 7.6},
                        {"asset_type": "pv", "zip": "97202", "max_discharge_kw": 6.2},
                    ],
                },
                {"name": "All active EVs", "members": [{"asset_type": "ev", "lifecycle": "active"}]},
            ]
        }
    )

    name: Text
    assets: list[Asset] = Field(default=[], max_length=ASSETS_MAX)
    members: list[Member] = Field(default=[], max_length=100_000)
    purpose: Literal["trading", "programme", "view"] = "trading"
    partner_reference: Text | None = None


class PortfolioPatch(Asked):
    """Changes to a portfolio; what is left out stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"add_members": [DEVICE_EXAMPLE], "remove_members": [], "name": "Renamed"}]}
    )

    name: Text | None = None
    add_members: list[Member] = Field(default=[], max_length=100_000)
    remove_members: list[Member] = Field(default=[], max_length=100_000)


class Portfolio(BaseModel):
    """A portfolio as it is enrolled."""

    portfolio_id: str = Field(examples=[PORTFOLIO_EXAMPLE])
    portfolio_no: int = Field(examples=[1])
    name: str = Field(examples=["Portland batteries"])
    purpose: str = Field(examples=["trading"])
    partner_reference: str | None = None
    created_at: str | None = Field(default=None, examples=[INSTANT_EXAMPLE])
    n_devices: int = Field(examples=[2])
    status_url: str = Field(examples=[f"/v1/vpp/portfolios/{PORTFOLIO_EXAMPLE}/status"])


class DeclaredAsset(BaseModel):
    """What became of one of ``assets``, in the order sent."""

    device_id: str = Field(examples=[DEVICE_EXAMPLE])
    site_id: str
    partner_reference: str | None
    asset_type: str
    lifecycle: str = Field(examples=["declared"])


class PortfolioMade(Portfolio):
    """A portfolio just made, with the devices declared for its assets."""

    assets: list[DeclaredAsset] = []


class EnrolledCapacity(BaseModel):
    """What is enrolled of one technology, as rated (not what can be counted on)."""

    n_devices: int
    discharge_kw: float = Field(description="Sum of the largest powers into the grid.")
    charge_kw: float = Field(description="Sum of the largest powers out of the grid, as a positive number.")
    capacity_kwh: float


class Interconnect(BaseModel):
    """What the members' connection points may do."""

    n_connection_points: int
    n_export_allowed: int
    n_export_limited: int
    export_limit_kw: float | None = Field(description="Sum of the stated export limits; null: none is stated.")
    by_status: dict[str, int] = Field(examples=[{"permitted": 40, "none": 2}])


class PowerNow(BaseModel):
    """Best estimate of the members' power, positive into the grid; and the four levels of truth behind it."""

    power_kw: float | None
    power_sd_kw: float | None
    commanded_kw: float | None
    acknowledged_kw: float | None
    reported_kw: float | None
    measured_kw: float | None


class PortfolioStatus(BaseModel):
    """The picture of a portfolio; ``stale`` with ``stale_reason`` when realtime has not been heard."""

    portfolio_id: str = Field(examples=[PORTFOLIO_EXAMPLE])
    as_of: str | None = Field(examples=[INSTANT_EXAMPLE])
    age_s: float | None = Field(examples=[0.8])
    stale: bool
    stale_reason: str | None = None
    n_devices: int
    enrolled_by_technology: dict[str, EnrolledCapacity]
    enrolled_kw: float = Field(description="Enrolled discharge_kw of all technologies.")
    enrolled_kwh: float
    by_lifecycle: dict[str, int] = Field(examples=[{"declared": 2, "active": 40}])
    by_trust: dict[str, int] = Field(examples=[{"fresh": 38, "stale": 1, "silent": 1, "suspect": 0, "unknown": 2}])
    interconnect: Interconnect
    power: PowerNow
    dispatchable_capacity_kw: float | None = Field(
        description="What can be counted on upwards (more into the grid), for dispatchable_hold_s. Null: no picture."
    )
    dispatchable_down_kw: float | None = None
    dispatchable_hold_s: float | None = None
    dispatchable_basis: str = Field(examples=["conservative_lower_bound: fresh or leased active devices only"])
    flexibility_up_kw: float | None = Field(default=None, description="All active members, whatever their trust.")
    flexibility_down_kw: float | None = None
    energy_up_kwh: float | None = None
    energy_down_kwh: float | None = None
    completeness_frac: float | None = Field(description="Share of the active members that are fresh.")


class EventEntry(BaseModel):
    """One entry of the hash-chained event log."""

    seq: int = Field(
        description="Its place in the chain, which is the whole plant's: grows, with gaps where others' entries are."
    )
    at: str | None = Field(examples=[INSTANT_EXAMPLE])
    kind: str = Field(examples=["dispatch.accepted"])
    portfolio_id: str = ""
    subject_id: str = ""
    body: dict[str, Any] = Field(default={}, description="In kW, kWh, RFC 3339; kept and hashed in W and ns.")
    hash: str = Field(description="sha256 of the previous entry's hash and this entry as it is kept, hex.")
