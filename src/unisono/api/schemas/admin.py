"""Keys, organisations, jobs, alarms and the state of the service."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unisono.api.schemas.types import INSTANT_EXAMPLE, Asked, Instant, Text, id_of

KEY_EXAMPLE = "key_01KK79P8RC0000000000000000"
JOB_EXAMPLE = "job_01KK79P8RC0000000000000000"
Scope = Literal["read", "enrol", "dispatch", "admin"]


class KeyAsked(Asked):
    """A key to make; it can hold no scope that the caller's own key lacks."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "trading desk", "scopes": ["read", "dispatch"]}]}
    )

    name: Text
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    expires_at: Instant | None = None
    organisation_id: id_of("organisation") | None = None  # type: ignore[valid-type]


class Key(BaseModel):
    """A key without its secret, of which only a hash is kept."""

    key_id: str = Field(examples=[KEY_EXAMPLE])
    organisation_id: str
    name: str
    scopes: list[str] = Field(examples=[["read", "dispatch"]])
    created_at: str | None = Field(default=None, examples=[INSTANT_EXAMPLE])
    expires_at: str | None = None
    revoked_at: str | None = None


class KeyMade(Key):
    """A new key with its secret."""

    secret: str | None = Field(
        description="The bearer token; shown now and never again (null in a repeated answer).",
        examples=["uni_(43 characters)"],
    )


class OrganisationAsked(Asked):
    """A tenant to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Rose City Power"}]})

    name: Text


class Organisation(BaseModel):
    """A tenant: whatever carries its id is seen by its keys only."""

    organisation_id: str = Field(examples=["org_01KK79P8RC0000000000000000"])
    name: str
    created_at: str | None = None


class Job(BaseModel):
    """Work that outlives its request."""

    job_id: str = Field(examples=[JOB_EXAMPLE])
    kind: str = Field(examples=["enrolment"])
    state: str = Field(description="queued, running, completed or failed", examples=["running"])
    n_total: int = Field(description="Rows of the body, blank lines left out: n_done + n_remaining.", examples=[100])
    n_done: int = Field(description="Rows worked through, refused ones too: n_enrolled + n_errors.", examples=[80])
    n_enrolled: int = Field(
        description="Rows whose device is enrolled now, made by this job or there before (result: is_new).",
        examples=[77],
    )
    n_errors: int = Field(description="Rows refused; see errors_url.", examples=[3])
    n_remaining: int = Field(description="Rows that are not worked through yet.", examples=[20])
    progress_frac: float
    created_at: str | None = None
    finished_at: str | None = None
    reason: str | None = None
    status_url: str = Field(examples=[f"/v1/jobs/{JOB_EXAMPLE}"])
    errors_url: str
    result_url: str


class RowError(BaseModel):
    """Why one row was refused."""

    row: int = Field(description="The line's place in the body, from 0; blank lines count.")
    partner_reference: str | None = None
    field: str
    value: Any = None
    rule: str


class Alarm(BaseModel):
    """Something an operator should know: raised, perhaps acknowledged, cleared by itself when it is over."""

    alarm_id: str
    kind: str = Field(examples=["coverage_below_floor"])
    severity: str = Field(examples=["warning"])
    subject_id: str
    detail: str = Field(
        description="What is wrong: while it is open as of a minute ago at most, then what it said last.",
        examples=["71.4% of 14 active devices are fresh; the floor is 80%"],
    )
    state: str = Field(description="raised, acknowledged or cleared", examples=["raised"])
    raised_at: str | None
    acknowledged_at: str | None = None
    acknowledged_by: str | None = None
    note: str | None = None
    n_raised: int = Field(default=1, description="How often it was seen again while it was open.")
    cleared_at: str | None = None


class AckAsked(Asked):
    """Who has seen the alarm, and what they make of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "crew informed"}]})

    note: Text | None = None


class LogVerification(BaseModel):
    """Whether the event log's hash chain is whole, and its head, to be kept elsewhere."""

    is_whole: bool
    n_entries: int
    head: str = Field(description="Hash of the newest entry, hex.")
    problem: str | None = Field(default=None, description="The first entry that does not fit.")


class IngestSource(BaseModel):
    """Readings that one process has seen, by what became of them; a front in all the runs that web has heard of."""

    role: str = Field(examples=["front"])
    instance: str
    counts: dict[str, int] = Field(examples=[{"accepted": 1000, "kept": 990, "duplicate": 10}])


class IngestCounts(BaseModel):
    """Every reading is accepted or refused, and every accepted one ends in one of the other counts."""

    totals: dict[str, int] = Field(examples=[{"accepted": 1000, "kept": 990, "duplicate": 10}])
    sources: list[IngestSource]
    missing: list[str] = Field(
        default=[],
        description="What this process has not been told yet since it began to listen.",
        examples=[["front front-0 has not told of all gateways yet"]],
    )


class GatewayIngest(BaseModel):
    """A gateway's readings by what became of them; null: not known (yet), never zero."""

    gateway_id: str = Field(examples=["gwy_01KK79P8RC0000000000000000"])
    gateway_no: int
    partner_reference: str | None = None
    counts: dict[str, int] | None = Field(examples=[{"accepted": 1000, "kept": 990, "duplicate": 10}])


class Health(BaseModel):
    """The process answers."""

    status: str = Field(examples=["ok"])
    version: str


class Readiness(BaseModel):
    """What the API depends on, each with ok or the reason why not."""

    status: str = Field(examples=["ready"])
    checks: dict[str, str] = Field(examples=[{"database": "ok", "bus": "ok", "realtime": "ok"}])
