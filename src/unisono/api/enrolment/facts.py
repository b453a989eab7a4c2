"""The facts of a device that are told when it is enrolled and can be changed later, and the rules that they must meet.

What is not told keeps what was there before: the technology's defaults at an enrolment, the present record at a change.
A fact told as null is taken back: it is again what it is when a device is enrolled without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar

import msgspec
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from unisono.api.schemas.types import Asked, EnergyKwh, Instant, PowerKw, TextOrEmpty
from unisono.base.errors import InvalidInput
from unisono.base.instants import MISSING_NS, format_rfc3339
from unisono.base.units import kwh_of_wh, w_of_kw, wh_of_kwh
from unisono.model.ratings import OwnerLimits, Ratings
from unisono.model.technology import CommandKind, Fallback, Lifecycle, Technology
from unisono.store.enrolment import NewDevice

A = TypeVar("A")
S = TypeVar("S", bound=msgspec.Struct)


def number(value: object) -> object:
    """Return ``value`` unless it is a text or a boolean, which pydantic would make a number of."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("number", "must be a JSON number")
    return value


Fraction = Annotated[float, BeforeValidator(number), Field(ge=0, le=1, allow_inf_nan=False)]
# An efficiency of 0 would make energy from nothing when divided by; no real device is below 30 %.
Efficiency = Annotated[float, BeforeValidator(number), Field(ge=0.3, le=1, allow_inf_nan=False)]
WeekSeconds = Annotated[float, BeforeValidator(number), Field(ge=0, le=604_800, allow_inf_nan=False)]
Temperature = Annotated[float, BeforeValidator(number), Field(ge=-40, le=100, allow_inf_nan=False)]

ControlKind = Literal[
    "power_setpoint", "import_export_limit", "mode", "temperature_offset", "shed_level", "schedule", "release"
]
MICROS_PER_USD: Final = 1_000_000
# A lease is renewed each third of its life, and a renewal takes as long as a command: below two latencies it would run
# out on its way, and four leave room for one that is lost.
LATENCY_S: Final = 1.0
TTL_S: Final = 60.0
TTL_LATENCIES: Final = 4.0
TTL_LATENCIES_MIN: Final = 2.0
# Those that can be called on for nothing else than to feed in; the others are asked to draw less.
_FEEDS_IN: Final = frozenset({Technology.PV, Technology.BESS, Technology.CHP})
_IS_CAR: Final = frozenset({Technology.EV, Technology.EVSE})


def _as_told(value: A) -> A:
    return value


def _import_w(power_kw: float) -> float:
    return 0.0 - w_of_kw(power_kw)


def _kind_codes(kinds: Sequence[str]) -> tuple[int, ...]:
    return tuple(int(CommandKind[kind.upper()]) for kind in kinds)


def _fallback_code(name: str) -> int:
    return int(Fallback[name.upper()])


def _micros(price_usd: float) -> int:
    return round(price_usd * MICROS_PER_USD)


_SAME: Final = ("vendor", "carrier", "node_path", "telemetry_period_s", "command_latency_s", "command_ttl_s")
_SAME_RATING: Final = ("charge_efficiency_frac", "discharge_efficiency_frac", "is_on_off", "min_on_s", "min_off_s")
_SAME_BLOCK: Final = ("notice_s", "duration_max_s", "rebound_frac")
_SAME_LIMIT: Final = (
    "soc_reserve_frac",
    "soc_max_frac",
    "comfort_low_degc",
    "comfort_high_degc",
    "events_per_season_max",
)
# Where each fact is kept, and how it is said there.
RATING_OF_FACT: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "max_discharge_kw": ("power_max_w", w_of_kw),
    "max_charge_kw": ("power_min_w", _import_w),
    "capacity_kwh": ("energy_capacity_wh", wh_of_kwh),
    "ramp_kw_per_s": ("ramp_w_per_s", w_of_kw),
    "min_power_kw": ("power_step_min_w", w_of_kw),
    **{name: (name, _as_told) for name in (*_SAME_RATING, *_SAME_BLOCK)},
}
LIMIT_OF_FACT: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "ready_by": ("ready_by_ns", _as_told),
    "needed_energy_kwh": ("needed_energy_wh", wh_of_kwh),
    **{name: (name, _as_told) for name in _SAME_LIMIT},
}
COLUMN_OF_FACT: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "control_kinds": ("control_kinds", _kind_codes),
    "fallback": ("fallback", _fallback_code),
    "merit_usd_per_kwh": ("merit_micros_per_kwh", _micros),
    **{name: (name, _as_told) for name in _SAME},
}
_DEFAULT_OF_COLUMN: Final = {field.name: field.default for field in msgspec.structs.fields(NewDevice)}


class DeviceFacts(Asked):
    """Nameplate, owner's limits, and how a device is reached and steered; what is null or left out is not told."""

    vendor: TextOrEmpty | None = None
    carrier: TextOrEmpty | None = None
    node_path: TextOrEmpty | None = Field(default=None, description="zone/substation/feeder/transformer")
    max_discharge_kw: PowerKw | None = Field(
        default=None,
        description="Largest power into the grid. Must be above 0 for pv, bess and chp, once not declared.",
    )
    max_charge_kw: PowerKw | None = Field(
        default=None,
        description="Largest power out of the grid; of a bess that is told the other one only: the same. "
        "Must be above 0 for all but pv, bess and chp, once not declared.",
    )
    capacity_kwh: EnergyKwh | None = Field(
        default=None, description="Usable energy. Must be above 0 for bess, and for an ev or evse that feeds in."
    )
    charge_efficiency_frac: Efficiency | None = None
    discharge_efficiency_frac: Efficiency | None = None
    ramp_kw_per_s: Annotated[float, BeforeValidator(number), Field(gt=0, le=1e7, allow_inf_nan=False)] | None = Field(
        default=None, description="When enrolled without it: as fast as asked."
    )
    is_on_off: bool | None = Field(default=None, description="Only 0 or full power; when enrolled without it: false.")
    min_power_kw: PowerKw | None = Field(
        default=None, description="Least power when it is not at 0; when enrolled without it: 0."
    )
    min_on_s: WeekSeconds | None = Field(default=None, description="When enrolled without it: 0.")
    min_off_s: WeekSeconds | None = Field(default=None, description="When enrolled without it: 0.")
    notice_s: WeekSeconds | None = Field(default=None, description="When enrolled without it: 0.")
    duration_max_s: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Longest change; when enrolled without it: without end."
    )
    rebound_frac: Annotated[float, BeforeValidator(number), Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        default=None, description="When enrolled without it: 0."
    )
    soc_reserve_frac: Fraction | None = None
    soc_max_frac: Fraction | None = Field(default=None, description="When enrolled without it: 1.")
    comfort_low_degc: Temperature | None = None
    comfort_high_degc: Temperature | None = None
    ready_by: Instant | None = Field(default=None, description="When an EV must hold needed_energy_kwh.")
    needed_energy_kwh: EnergyKwh | None = Field(default=None, description="Stored energy wanted at ready_by.")
    events_per_season_max: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None,
        description="How many dispatches may call on it in a season (a year that begins with the month `season_month`);"
        " when enrolled without it: as many as need it.",
    )
    control_kinds: Annotated[list[ControlKind], Field(min_length=1, max_length=7)] | None = Field(
        default=None,
        description="What it obeys, the preferred one first; when enrolled without it: power_setpoint alone.",
    )
    fallback: Literal["normal_operation", "zero_power", "hold"] | None = Field(
        default=None,
        description="What it does by itself when a lease has run out; when enrolled without it: normal_operation.",
    )
    telemetry_period_s: (
        Annotated[float, BeforeValidator(number), Field(ge=1, le=86_400, allow_inf_nan=False)] | None
    ) = Field(default=None, description="How often it reports; when enrolled without it: 60.")
    command_latency_s: Annotated[float, BeforeValidator(number), Field(ge=0, le=3600, allow_inf_nan=False)] | None = (
        Field(default=None, description="From our sending to its acting; when enrolled without it: 1.")
    )
    command_ttl_s: Annotated[float, BeforeValidator(number), Field(ge=10, le=86_400, allow_inf_nan=False)] | None = (
        Field(
            default=None,
            description="How long a command holds without a renewal, at least twice the latency; when enrolled "
            "without it: 60, or four latencies if that is more.",
        )
    )
    merit_usd_per_kwh: Annotated[float, BeforeValidator(number), Field(ge=0, le=1000, allow_inf_nan=False)] | None = (
        Field(default=None, description="When enrolled without it: 0.")
    )

    @property
    def cleared(self) -> frozenset[str]:
        """The facts that are told as null."""
        return frozenset(
            name for name in self.model_fields_set & DeviceFacts.model_fields.keys() if self._is_null(name)
        )

    def _is_null(self, fact: str) -> bool:
        return getattr(self, fact) is None

    def ratings_from(self, base: Ratings, technology: Technology, defaults: Ratings | None = None) -> Ratings:
        """Return the nameplate in watts, power positive into the grid: what is told, else that of ``base``.

        What is told as null is that of ``defaults`` (None: of ``base``).
        """
        ratings = self._over(base, defaults or base, RATING_OF_FACT)
        is_new = not base.power_max_w and not base.power_min_w
        is_cleared = defaults is not None and "max_charge_kw" in self.cleared
        if technology is Technology.BESS and self.max_charge_kw is None and (is_new or is_cleared):
            # A battery whose power is told one way only is as strong the other way.
            return msgspec.structs.replace(ratings, power_min_w=0.0 - ratings.power_max_w)
        return ratings

    def limits_from(self, base: OwnerLimits, defaults: OwnerLimits | None = None) -> OwnerLimits:
        """Return what the owner allows: what is told, else that of ``base``; as null, that of ``defaults``."""
        limits = self._over(base, defaults or base, LIMIT_OF_FACT)
        if defaults is not None and "soc_reserve_frac" in self.cleared:
            reserve_frac = min(limits.soc_reserve_frac, limits.soc_max_frac)
            return msgspec.structs.replace(limits, soc_reserve_frac=reserve_frac)
        return limits

    def _over(self, base: S, defaults: S, of_fact: Mapping[str, tuple[str, Callable[[Any], Any]]]) -> S:
        """Return ``base`` with the facts that are told, those that are null as in ``defaults``."""
        told = {}
        for fact in self.model_fields_set & of_fact.keys():
            column, convert = of_fact[fact]
            value = getattr(self, fact)
            told[column] = getattr(defaults, column) if value is None else convert(value)
        return msgspec.structs.replace(base, **told)

    def lease_from(self, latency_s: float, ttl_s: float | None) -> tuple[float, float]:
        """Return how long a command takes and a lease lives: what is told, else what was before.

        ``ttl_s`` None, or told as null: as long as suits the latency. Raises InvalidInput for a life too short to be
        renewed.
        """
        cleared = self.cleared
        latency_s = _or(self.command_latency_s, LATENCY_S if "command_latency_s" in cleared else latency_s)
        kept_s = None if "command_ttl_s" in cleared else ttl_s
        return lease_of(latency_s, kept_s if self.command_ttl_s is None else self.command_ttl_s)

    def columns(self) -> dict[str, Any]:
        """Return what else is told, as ``store.enrolment.NewDevice`` names and codes it; as null, what it takes."""
        told = {}
        for fact in self.model_fields_set & COLUMN_OF_FACT.keys():
            column, convert = COLUMN_OF_FACT[fact]
            value = getattr(self, fact)
            told[column] = _DEFAULT_OF_COLUMN[column] if value is None else convert(value)
        return told

    def check(self, technology: Technology, lifecycle: Lifecycle, ratings: Ratings, limits: OwnerLimits) -> None:
        """Raise as the function of that name does, for these facts."""
        check(self, technology, lifecycle, ratings, limits)


def lease_of(latency_s: float, ttl_s: float | None) -> tuple[float, float]:
    """Return both; without a life, one that suits the latency. InvalidInput for a life too short to be renewed."""
    ttl_s = _or(ttl_s, max(TTL_S, TTL_LATENCIES * latency_s))
    if ttl_s < TTL_LATENCIES_MIN * latency_s:
        rule = f"must be at least {TTL_LATENCIES_MIN:g} times command_latency_s ({latency_s:g} s)"
        raise InvalidInput("command_ttl_s", ttl_s, rule)
    return latency_s, ttl_s


class Powers(Protocol):
    """What is told of a device's power and energy; None: nothing."""

    @property
    def max_discharge_kw(self) -> float | None:
        """Into the grid."""
        ...

    @property
    def max_charge_kw(self) -> float | None:
        """Out of the grid."""
        ...

    @property
    def capacity_kwh(self) -> float | None:
        """Usable energy."""
        ...


def check(told: Powers, technology: Technology, lifecycle: Lifecycle, ratings: Ratings, limits: OwnerLimits) -> None:
    """Raise InvalidInput unless the whole of what is known of a device makes sense, with what was told of it just now.

    A device may be declared before its power is known; a store's energy is part of what is declared.
    """
    _check_essentials(told, technology, lifecycle, ratings)
    _check_order("soc_reserve_frac", limits.soc_reserve_frac, "soc_max_frac", limits.soc_max_frac)
    _check_order("comfort_low_degc", limits.comfort_low_degc, "comfort_high_degc", limits.comfort_high_degc)
    has_instant = limits.ready_by_ns != MISSING_NS
    if has_instant != (limits.needed_energy_wh > 0.0):
        value = format_rfc3339(limits.ready_by_ns) if has_instant else None
        raise InvalidInput("ready_by", value, "needs needed_energy_kwh beside it, and the other way round")
    if ratings.energy_capacity_wh:
        needed_kwh, capacity_kwh = kwh_of_wh(limits.needed_energy_wh), kwh_of_wh(ratings.energy_capacity_wh)
        _check_order("needed_energy_kwh", needed_kwh, "capacity_kwh", capacity_kwh)


def _check_essentials(told: Powers, technology: Technology, lifecycle: Lifecycle, ratings: Ratings) -> None:
    name = technology.asset_type
    # Without it nobody knows when the store is empty: a bess could do nothing, a car would be drained.
    is_store = technology is Technology.BESS or (technology in _IS_CAR and ratings.power_max_w > 0.0)
    if is_store and ratings.energy_capacity_wh <= 0.0:
        which = name if technology is Technology.BESS else f"{name} that feeds in"
        raise InvalidInput("capacity_kwh", told.capacity_kwh, f"must be given for {which}, and be above 0")
    if lifecycle is Lifecycle.DECLARED:
        return
    rule = f"must be given for {name} that is not only declared, and be above 0"
    if technology in _FEEDS_IN and ratings.power_max_w <= 0.0:
        raise InvalidInput("max_discharge_kw", told.max_discharge_kw, rule)
    if technology not in _FEEDS_IN and ratings.power_min_w >= 0.0:
        raise InvalidInput("max_charge_kw", told.max_charge_kw, rule)


def _check_order(field: str, value: float, above: str, most_value: float) -> None:
    # NaN (no comfort band) is in order with everything.
    if value > most_value:
        raise InvalidInput(field, value, f"must not be above {above}")


def _or(value: A | None, otherwise: A) -> A:
    return otherwise if value is None else value
