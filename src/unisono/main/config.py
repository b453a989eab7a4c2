"""Every setting of a platform: one typed record, from ``unisono.toml`` and ``UNISONO_...`` environment variables.

The environment goes before the file, the file before the defaults. Nothing is guessed: an unknown name is an error.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from unisono.base.errors import InvalidInput, UnisonoError
from unisono.base.rule_words import rule_of_pydantic

PREFIX: Final = "UNISONO_"
FILE_NAME: Final = "unisono.toml"
# Variables with the prefix that are no settings: the file's path, a client's needs, the traces, the tests' profile.
OTHER_VARIABLES: Final = ("CONFIG", "API_KEY", "API_URL", "DATA", "HYPOTHESIS")


def _host(value: str) -> str:
    """Return the address or name of a host, if it is one (RFC 1123, section 2.1)."""
    try:
        ip_address(value)
    except ValueError:
        if not _HOST_NAME.fullmatch(value) or value.replace(".", "").isdigit():
            raise ValueError("must be an IP address or a host's name") from None
    return value


def _url(*schemes: str) -> AfterValidator:
    """Return the rule that a URL begins with one of these schemes."""

    def check(value: SecretStr | str) -> SecretStr | str:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        scheme, found, rest = text.partition("://")
        if not found or scheme not in schemes or not rest:
            raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(check)


def _history_url(value: str) -> str:
    """Return a folder as it is; a URL only if it is one of an object store that history can lie in."""
    if "://" in value and not value.startswith(("s3://", "gs://", "file://")):
        raise ValueError("must be a folder, or begin with s3://, gs:// or file://")
    return value


_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63})*")
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Days = Annotated[int, Field(ge=1, le=36_500)]


# More owners than a machine has any use for; past it the coordinator was measured, but no plant was run.
SHARDS_MAX: Final = 64


class ConfigErrors(UnisonoError):
    """Settings that break rules, all of them at once; each names its field, its value and the rule."""

    def __init__(self, errors: list[InvalidInput]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors


class Settings(BaseModel):
    """All settings; a default is what a first try on one machine needs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    data_dir: Path = Field(
        default=Path("~/.local/share/unisono"),
        description="The folder of everything that is kept: engines, history, checkpoints, logs, keys.",
    )
    nats_url: Annotated[SecretStr, _url("nats", "tls")] | None = Field(
        default=None, description="A NATS server or cluster of your own; unset: Unisono starts its own."
    )
    nats_user: str = Field(default="core", description="Who the platform is on your NATS.")
    nats_password: SecretStr = Field(default=SecretStr(""), description="Its password there.")
    nats_sys_user: str = Field(default="sys", description="A user of your NATS's system account; it ends connections.")
    nats_sys_password: SecretStr = Field(default=SecretStr(""), description="Its password there.")
    nats_account: str = Field(default="PLANT", description="The account of your NATS that gateways are placed in.")
    nats_account_seed: Path | None = Field(
        default=None, description="File with the seed that signs admissions on your NATS (auth callout)."
    )
    database_url: Annotated[SecretStr, _url("postgresql", "postgres", "postgresql+psycopg")] | None = Field(
        default=None, description="A PostgreSQL of your own; unset: Unisono starts its own."
    )
    history_url: Annotated[str, AfterValidator(_history_url)] | None = Field(
        default=None, description="Where telemetry history lies: a folder or s3://...; unset: history/ in data_dir."
    )
    http_host: Host = Field(default="127.0.0.1", description="The address that the API listens on.")
    http_port: Port = Field(default=8080, description="The port of the API; 0 takes a free one.")
    telemetry_host: Host = Field(default="127.0.0.1", description="The address that HTTP telemetry comes to.")
    telemetry_port: Port = Field(default=8081, description="The port of HTTP telemetry; 0 takes a free one.")
    mqtt_port: Port = Field(default=1883, description="The MQTT port of our own NATS; 0 takes a free one.")
    mqtt_host: Host = Field(default="127.0.0.1", description="The MQTT address of your own NATS, for gateways.")
    mqtt_client_host: Host | None = Field(
        default=None, description="An MQTT broker of yours that gateways with link mqtt_client speak to; unset: none."
    )
    mqtt_client_port: Port = Field(default=8883, description="Its port.")
    mqtt_client_user: str = Field(default="", description="Who the platform is there.")
    mqtt_client_password: SecretStr = Field(default=SecretStr(""), description="Its password there.")
    mqtt_client_version: int = Field(default=5, ge=4, le=5, description="4 is MQTT 3.1.1, 5 is MQTT 5.")
    mqtt_client_tls: bool = Field(default=True, description="Whether it is spoken to over TLS.")
    metrics_host: Host = Field(default="127.0.0.1", description="The address of health and metrics of each role.")
    metrics_port: Port = Field(
        default=9090, description="Its port for a role that runs as a unit of its own; `unisono up` chooses its own."
    )
    gateway_rate_factor: float = Field(
        default=10.0,
        ge=1,
        le=1_000_000,
        description="How many times the readings that its devices' periods declare a gateway may send for long.",
    )
    gateway_rate_floor_per_s: float = Field(
        default=100.0, ge=1, le=1_000_000_000, description="Readings a second that every gateway may send for long."
    )
    shards: int = Field(
        default=1,
        ge=1,
        le=SHARDS_MAX,
        description="How many shards the fleet is split into; settled at the first start, for sites are placed by it.",
    )
    cycle_s: float = Field(default=4.0, ge=0.5, le=10, description="Seconds between decisions.")
    hold_s: float = Field(
        default=900.0, ge=60, le=86_400, description="Seconds for which dispatchable capacity must be sustained."
    )
    season_month: int = Field(
        default=1,
        ge=1,
        le=12,
        description="Month with whose first day, local at each site, a season begins; `events_per_season_max` counts"
        " from then.",
    )
    lease_s: float = Field(
        default=30.0, ge=5, le=300, description="Seconds for which realtime goes on without PostgreSQL."
    )
    checkpoint_s: float = Field(default=20.0, ge=1, le=600, description="Seconds between checkpoints of the fleet.")
    retention_readings_days: Days = Field(default=92, description="Days for which single readings are kept.")
    retention_rollups_days: Days = Field(default=3660, description="Days for which 15-minute rollups are kept.")
    retention_commands_days: Days = Field(default=1830, description="Days for which commands and answers are kept.")
    retention_outcomes_days: Days = Field(
        default=3660, description="Days after its end for which a dispatch's outcome is kept."
    )
    stream_bytes_max: int = Field(
        default=10 * 2**30,
        ge=6 * 2**30,
        description="Most bytes that our own NATS may hold on disk; its five streams alone take 5,888 MiB.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged.")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.lease_s < 3 * self.cycle_s:
            raise InvalidSetting("lease_s", self.lease_s, f"must be at least 3 cycles ({3 * self.cycle_s:g} s)")
        for one, other in combinations(("http_port", "telemetry_port", "mqtt_port"), 2):
            if getattr(self, other) and getattr(self, one) == getattr(self, other):
                raise InvalidSetting(other, getattr(self, other), f"must be another port than {one}")
        return self

    @property
    def folder(self) -> Path:
        """The data folder as an absolute path."""
        return self.data_dir.expanduser().absolute()

    @property
    def history_folder_url(self) -> str:
        """Where history lies."""
        return self.history_url or str(self.folder / "history")


class InvalidSetting(ValueError):
    """A rule between settings; pydantic carries it out of a validator."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(rule)
        self.field = field
        self.value = value


def find_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the settings file: what ``UNISONO_CONFIG`` says, else ``unisono.toml`` here, else none."""
    if given := environ.get(PREFIX + "CONFIG"):
        return Path(given)
    here = Path(FILE_NAME)
    return here if here.is_file() else None


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of ``path`` (or of the file found) and the environment; raises ConfigErrors."""
    path = path or find_file(environ)
    values: dict[str, Any] = _read(path) if path else {}
    origin = {name: f"{path}: {name}" for name in values}
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in OTHER_VARIABLES:
            values[name.lower()] = value
            origin[name.lower()] = variable
    try:
        return Settings.model_validate(values)
    except ValidationError as wrong:
        raise ConfigErrors([_named(error, origin) for error in wrong.errors()]) from wrong


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as absent:
        raise ConfigErrors([InvalidInput("file", str(path), absent.strerror or str(absent))]) from absent
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
        raise ConfigErrors([InvalidInput("file", str(path), f"is no TOML: {wrong}")]) from wrong


def _named(error: Any, origin: Mapping[str, str]) -> InvalidInput:
    """Return pydantic's finding with the name under which the user wrote the value."""
    cause = error.get("ctx", {}).get("error")
    field = cause.field if isinstance(cause, InvalidSetting) else str(error["loc"][0])
    value = cause.value if isinstance(cause, InvalidSetting) else error["input"]
    rule = str(cause) if cause is not None else _rule(error)
    return InvalidInput(origin.get(field, field), _shown(field, value), rule)


def _rule(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][0]), Settings.model_fields, n=1)
        return "is no setting" + (f"; did you mean {near[0]}?" if near else "; see `unisono config show`")
    # Settings come as TOML or as text: what is wrong with them is not wrong with JSON.
    return rule_of_pydantic(error).replace(" JSON ", " ")


def _shown(field: str, value: object) -> object:
    is_secret = field in Settings.model_fields and "Secret" in str(Settings.model_fields[field].annotation)
    return "**********" if is_secret else value


def shown(settings: Settings) -> str:
    """Return every setting as TOML that a settings file takes; comments stand for what is unset, and for secrets."""
    return "".join(f"{_toml_line(name, getattr(settings, name))}\n" for name in Settings.model_fields)


def _toml_line(name: str, value: object) -> str:
    match value:
        case None:
            return f"# {name} is unset"
        case SecretStr() if value.get_secret_value():
            return f'# {name} = "{value}" is secret'
        case SecretStr():
            return f'{name} = ""'
        case bool():
            return f"{name} = {str(value).lower()}"
        case int() | float():
            return f"{name} = {value}"
    # A TOML string is a JSON string, but for this one character.
    return f"{name} = {json.dumps(str(value), ensure_ascii=False)}".replace("\x7f", "\\u007f")


def reference_page() -> str:
    """Return ``docs/reference/configuration.md``: one row a setting."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown_default = "" if default in (None, "") else f"`{default}`"
        cells = (f"`{name}`", f"`{PREFIX}{name.upper()}`", shown_default, _bounds(field), str(field.description))
        rows.append(f"| {' | '.join(cells)} |")
    return _PAGE.format(rows="\n".join(rows))


def _bounds(field: Any) -> str:
    found = {kind: getattr(rule, kind) for rule in field.metadata for kind in ("ge", "le") if hasattr(rule, kind)}
    if "ge" in found and "le" in found:
        return f"{found['ge']:,} to {found['le']:,}"
    if "ge" in found:
        return f"at least {found['ge']:,}"
    choices = getattr(field.annotation, "__args__", ())
    return ", ".join(choices) if choices and all(isinstance(choice, str) for choice in choices) else ""


_PAGE: Final = """# Configuration

<!-- Written by `unisono config reference`; do not edit. -->

Settings come from `unisono.toml` (in the working folder, or where `UNISONO_CONFIG` says), and from environment
variables, which go before the file. `unisono config check` names every bad field, its value and the rule;
`unisono config show` prints what holds, as TOML that `unisono.toml` takes; secrets stand in comments, masked.

| name in `unisono.toml` | variable | default | allowed | meaning |
|---|---|---|---|---|
{rows}
"""
