"""What history says: readings, and quarter-hours of a device or a portfolio."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, Field

from unisono.api.schemas.types import INSTANT_EXAMPLE

T = TypeVar("T")

MISSING_EXAMPLE = [["history has not yet written anything newer than 2026-11-20T16:58:00.000Z"]]


class Reading(BaseModel):
    """One reading as it was kept; null is missing, never zero. Power is positive into the grid."""

    measured_at: str | None = Field(description="Of an interval's energy: its end.", examples=[INSTANT_EXAMPLE])
    known_at: str | None = Field(examples=[INSTANT_EXAMPLE])
    source: str = Field(examples=["device"])
    kind: str = Field(
        description="Which of the next fields it gives: power, interval_energy or register.", examples=["power"]
    )
    power_kw: float | None
    interval_start: str | None = Field(description="Where the interval of energy_kwh begins.", examples=[None])
    energy_kwh: float | None = Field(description="From interval_start to measured_at.")
    register_kwh: float | None = Field(description="What a meter's register stood at.")
    soc_frac: float | None
    temperature_degc: float | None
    voltage_v: float | None
    status: int


class Measured(BaseModel, Generic[T]):
    """What history has of [interval_start, interval_end), oldest first; ``missing`` says what can't be answered."""

    interval_start: str = Field(examples=[INSTANT_EXAMPLE])
    interval_end: str = Field(examples=[INSTANT_EXAMPLE])
    items: list[T]
    missing: list[str] = Field(examples=MISSING_EXAMPLE)


class Quarter(BaseModel):
    """A quarter-hour of one device and source."""

    interval_start: str | None = Field(examples=[INSTANT_EXAMPLE])
    interval_end: str | None = Field(examples=[INSTANT_EXAMPLE])
    source: str = Field(examples=["device"])
    power_mean_kw: float | None
    power_min_kw: float | None
    power_max_kw: float | None
    energy_kwh: float | None
    energy_is_metered: bool = Field(
        description="Metered intervals (of 25 h at most, shared out by time) cover the whole quarter. "
        "Of time that several tell of, the newest told one speaks."
    )
    n_readings: int
    coverage_frac: float | None = Field(
        description="Share of the quarter's minutes with a reading, or of its seconds in a metered interval."
    )


class PortfolioQuarter(BaseModel):
    """A quarter-hour of all members that have readings in it."""

    interval_start: str | None = Field(examples=[INSTANT_EXAMPLE])
    interval_end: str | None = Field(examples=[INSTANT_EXAMPLE])
    power_mean_kw: float | None
    energy_kwh: float | None
    n_devices: int = Field(description="Members with readings in this quarter.")
    coverage_frac: float | None = Field(description="Mean coverage; a member without readings counts as 0.")


class Readings(Measured[Reading]):
    """A device's readings, by the instant of measurement."""

    device_id: str


class DeviceRollup(Measured[Quarter]):
    """A device's quarter-hours that begin in the interval."""

    device_id: str


class PortfolioRollup(Measured[PortfolioQuarter]):
    """The quarter-hours of a portfolio's members as they are now."""

    portfolio_id: str
    n_members: int
