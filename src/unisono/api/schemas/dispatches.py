"""Dispatches: asking for power, revising, cancelling, following."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from unisono.api.schemas.portfolios import PORTFOLIO_EXAMPLE
from unisono.api.schemas.types import INSTANT_EXAMPLE, Asked, Instant, SignedPowerKw, Text

DISPATCH_EXAMPLE = "dsp_01KK79P8RC0000000000000000"
# A day of 4 s steps would be 21,600 points; a market's 5 min intervals over 24 h are 288.
TARGETS_MAX = 1440

DispatchKind = Literal["change_kw", "net_kw", "limit_kw"]


class TargetAsked(Asked):
    """From ``start`` on, aim for ``power_kw``; the last point holds to the end."""

    start: Instant
    power_kw: SignedPowerKw


def _seconds(value: object) -> object:
    if isinstance(value, bool | str):
        raise PydanticCustomError("number", "must be a JSON number")
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86_400, allow_inf_nan=False)]


class DispatchAsked(Asked):
    """A dispatch: what kind of power, how much, from when to when; power is positive into the grid."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "change_kw",
                    "target_kw": 5000.0,
                    "start": "2026-11-20T17:00:00Z",
                    "end": "2026-11-20T17:30:00Z",
                    "ramp_s": 60,
                    "policy": "merit_order",
                    "reason": "peak shaving",
                }
            ]
        }
    )

    kind: DispatchKind = Field(
        description="change_kw: against what the members would do without it; net_kw: absolute; limit_kw: a cap."
    )
    start: Instant = Field(description="First instant of the half-open interval [start, end).")
    end: Instant
    target_kw: SignedPowerKw | None = Field(default=None, description="One target throughout; or give targets.")
    targets: list[TargetAsked] | None = Field(default=None, min_length=1, max_length=TARGETS_MAX)
    limit_side: Literal["export", "import"] = Field(default="export", description="Which side limit_kw caps.")
    ramp_s: Seconds = 0.0
    policy: Literal["merit_order", "pro_rata", "soc_fair"] = "merit_order"
    priority: int = Field(default=100, ge=0, le=1000, description="Lower is more urgent.")
    test: bool = False
    reason: Text | None = None
    partner_reference: Text | None = None

    @model_validator(mode="after")
    def _one_way_to_say_the_target(self) -> Self:
        if (self.target_kw is None) == (self.targets is None):
            raise PydanticCustomError("target", "needs either target_kw or targets, and not both")
        return self


class DispatchRevision(DispatchAsked):
    """The whole dispatch again, as it shall be from now on; ``revision`` is the one it replaces plus 1."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "revision": 2,
                    "kind": "change_kw",
                    "target_kw": 4000.0,
                    "start": "2026-11-20T17:00:00Z",
                    "end": "2026-11-20T17:45:00Z",
                    "ramp_s": 60,
                    "reason": "market re-dispatch",
                }
            ]
        }
    )

    revision: int = Field(ge=2, le=1_000_000)


class CancelAsked(Asked):
    """Why a dispatch is called off."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "grid operator called it off"}]})

    reason: Text | None = None


class Target(BaseModel):
    """A step of the target profile, with both bounds."""

    interval_start: str = Field(examples=[INSTANT_EXAMPLE])
    interval_end: str
    power_kw: float


class Funnel(BaseModel):
    """Devices, from those that may be called to those that deliver."""

    eligible: int
    targeted: int
    sent: int
    acknowledged: int
    moving: int
    delivered: int
    opted_out: int
    refused: int
    silent: int
    suspect: int
    refilled: int
    released: int


class Powers(BaseModel):
    """What a cycle knows of a dispatch's power. A level of truth at which none of its devices is known is null."""

    target_kw: float
    delivered_kw: float
    delivered_sd_kw: float
    shortfall_kw: float
    commanded_kw: float | None
    acknowledged_kw: float | None
    reported_kw: float | None
    measured_kw: float | None


class Progress(Powers):
    """What the newest cycle knows of a dispatch."""

    as_of: str | None
    age_s: float | None
    shard: int
    epoch: int
    cycle: int
    state: str
    reference_kw: float
    funnel: Funnel


class Dispatch(BaseModel):
    """A dispatch in its newest revision."""

    dispatch_id: str = Field(examples=[DISPATCH_EXAMPLE])
    portfolio_id: str = Field(examples=[PORTFOLIO_EXAMPLE])
    revision: int = Field(examples=[1])
    state: str = Field(description="scheduled, active, completed or cancelled", examples=["scheduled"])
    kind: str = Field(examples=["change_kw"])
    start: str = Field(examples=[INSTANT_EXAMPLE])
    end: str
    targets: list[Target]
    limit_side: str | None = None
    ramp_s: float = 0.0
    policy: str
    priority: int
    test: bool
    reason: str = ""
    partner_reference: str | None = None
    requested_at: str | None = None
    status_url: str = Field(examples=[f"/v1/vpp/dispatches/{DISPATCH_EXAMPLE}"])


class DispatchAccepted(Dispatch):
    """A dispatch just accepted: kept for good, though perhaps more than the fleet can give."""

    expected_shortfall_kw: float | None = Field(
        description="Largest part of the target beyond what can be counted on now; null when that is not known."
    )
    expected_shortfall_basis: str
    warnings: list[str] = []


class DispatchWithProgress(Dispatch):
    """A dispatch with its live progress, one entry a shard; empty until a cycle has seen it."""

    progress: list[Progress] = []


class DispatchPreview(BaseModel):
    """What today's members would give to such a dispatch; nothing is sent."""

    as_of: str | None
    target_kw: float
    deliverable_kw: float
    shortfall_kw: float
    eligible: int
    targeted: int
    opted_out: int
    silent: int
    suspect: int
    claimed: int = Field(
        description="Members left out because other dispatches, as urgent or more so, may take them in that time."
    )


class OutcomeCycle(Powers):
    """One cycle of a dispatch on one shard, as recorded."""

    at: str | None
    shard: int
    epoch: int
    cycle: int
    revision: int
    state: str
    funnel: Funnel
    frames_digest: str = Field(
        description="sha256 of the cycle's command frames, hex, one for each 100,000 of them; empty when none was sent."
    )
