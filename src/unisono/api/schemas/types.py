"""Field types that every schema shares: text, instants, power and energy, cursors."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from unisono.base.errors import InvalidInput
from unisono.base.ids import check_id
from unisono.base.instants import format_rfc3339, parse_rfc3339
from unisono.base.units import kw_of_w, kwh_of_wh
from unisono.model.technology import TECHNOLOGY_OF_ASSET_TYPE

# A single thing of 10 GW or 100 GWh is a slip of the keyboard: the largest plant on earth has 22.5 GW.
POWER_KW_MAX: Final = 10_000_000.0
ENERGY_KWH_MAX: Final = 100_000_000.0
# Enough for any name or reference of a partner; keeps rows and log entries small.
TEXT_CHARS_MAX: Final = 200

_ZIP: Final = re.compile(r"[0-9]{5}(-[0-9]{4})?")
INSTANT_EXAMPLE: Final = "2026-11-20T17:00:00.000Z"

T = TypeVar("T")


def _instant(value: Any) -> int:
    if not isinstance(value, str):
        raise PydanticCustomError("rfc3339", "must be RFC 3339 text with an offset, like 2026-11-20T17:00:00Z")
    try:
        return parse_rfc3339(value)
    except InvalidInput as wrong:
        raise PydanticCustomError("rfc3339", "{rule}", {"rule": wrong.rule}) from wrong


def _text(value: str) -> str:
    if any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise PydanticCustomError("text", "must hold no control characters and no lone surrogates")
    if not value.strip():
        raise PydanticCustomError("text", "must not be blank")
    return value


def _text_or_empty(value: str) -> str:
    return _text(value) if value else value


def _zip(value: Any) -> str:
    if not isinstance(value, str) or not _ZIP.fullmatch(value):
        raise PydanticCustomError("zip", "must be text of five digits, like 97214, or of nine, like 97214-1234")
    return value


def _asset_type(value: str) -> str:
    if value not in TECHNOLOGY_OF_ASSET_TYPE:
        raise PydanticCustomError(
            "asset_type", "must be one of {known}", {"known": ", ".join(TECHNOLOGY_OF_ASSET_TYPE)}
        )
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticCustomError("number", "must be a JSON number")
    return value


def id_of(kind: str) -> Any:
    """Return the field type of an id of that kind."""

    def check(value: str) -> str:
        try:
            return check_id(kind, value, kind)
        except InvalidInput as wrong:
            raise PydanticCustomError("id", "{rule}", {"rule": wrong.rule}) from wrong

    return Annotated[str, AfterValidator(check)]


Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX), AfterValidator(_text)]
TextOrEmpty = Annotated[str, Field(max_length=TEXT_CHARS_MAX), AfterValidator(_text_or_empty)]
Instant = Annotated[
    int,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": [INSTANT_EXAMPLE]}),
]
AssetType = Annotated[
    str,
    AfterValidator(_asset_type),
    WithJsonSchema({"type": "string", "enum": list(TECHNOLOGY_OF_ASSET_TYPE), "examples": ["bess"]}),
]
PowerKw = Annotated[float, BeforeValidator(_number), Field(ge=0, le=POWER_KW_MAX, allow_inf_nan=False)]
SignedPowerKw = Annotated[
    float, BeforeValidator(_number), Field(ge=-POWER_KW_MAX, le=POWER_KW_MAX, allow_inf_nan=False)
]
EnergyKwh = Annotated[float, BeforeValidator(_number), Field(ge=0, le=ENERGY_KWH_MAX, allow_inf_nan=False)]
LinkName = Literal["mqtt", "http", "mqtt_client"]
Zip = Annotated[
    str,
    BeforeValidator(_zip),
    WithJsonSchema({"type": "string", "pattern": f"^{_ZIP.pattern}$", "examples": ["97214"]}),
]


class Asked(BaseModel):
    """A body sent by a caller: an unknown field is a mistake, not noise."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[T]):
    """One page of a list; ``next_cursor`` (also the Link header, rel="next") leads to the next one, null at the end."""

    items: list[T]
    next_cursor: str | None = Field(default=None, examples=["MTAw"])


def instant_text(at_ns: int | None) -> str | None:
    """Return RFC 3339 UTC, or None for a missing instant."""
    return None if at_ns is None or at_ns < 0 else format_rfc3339(at_ns)


# Every number of an answer passes one of these: what is kept in 32 bits comes out as 7.599999904632568 otherwise.


def kw(power_w: float | None) -> float | None:
    """Return kW to the watt, or None when unknown or unbounded (JSON knows neither NaN nor infinity)."""
    return kw_of_w(power_w) if power_w is not None and math.isfinite(power_w) else None


def kwh(energy_wh: float | None) -> float | None:
    """Return kWh to the watt-hour, or None when unknown or unbounded."""
    return kwh_of_wh(energy_wh) if energy_wh is not None and math.isfinite(energy_wh) else None


def frac(value: float | None) -> float | None:
    """Return a fraction to a millionth, or None when unknown."""
    return _rounded(value, 6)


def milli(value: float | None) -> float | None:
    """Return seconds, degC or volts to a thousandth, or None when unknown or unbounded."""
    return _rounded(value, 3)


def finite(value: float | None) -> float | None:
    """Return ``value`` as it is, or None when it is NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: float | None, digits: int) -> float | None:
    return round(float(value), digits) + 0.0 if value is not None and math.isfinite(value) else None
