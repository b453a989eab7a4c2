"""The words of the libraries come out as rules, and values as they were sent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisono.base.rule_words import field_and_rule_of_msgspec, plain_value, rule_of_pydantic


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", min_length=2, max_length=3, pattern="^[a-z]+$")
    count: int = Field(default=0, ge=0, le=9)
    share: float = Field(default=0.0, gt=-1, allow_inf_nan=False)
    is_on: bool = False
    parts: list[Part] = Field(default=[], min_length=1, max_length=2)
    facts: dict[str, int] = {}


@pytest.mark.parametrize(
    ("sent", "rule"),
    [
        ({"name": 5}, "must be a JSON string"),
        ({"name": "a"}, "must have at least 2 characters"),
        ({"name": "abcd"}, "must have at most 3 characters"),
        ({"name": "A1"}, "must match the pattern ^[a-z]+$"),
        ({"count": "x"}, "must be a whole number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"count": []}, "must be a whole number"),
        ({"count": -1}, "must be greater than or equal to 0"),
        ({"count": 10}, "must be less than or equal to 9"),
        ({"share": "x"}, "must be a JSON number"),
        ({"share": float("nan")}, "must be a finite JSON number"),
        ({"share": -1}, "must be greater than -1"),
        ({"is_on": "perhaps"}, "must be true or false"),
        ({"is_on": {}}, "must be true or false"),
        ({"parts": []}, "must have at least 1 item"),
        ({"parts": [{}] * 3}, "must have at most 2 items"),
        ({"parts": {}}, "must be a JSON array"),
        ({"parts": [1]}, "must be a JSON object"),
        ({"facts": 1}, "must be a JSON object"),
        ({"colour": 1}, "must not be given: there is no such field"),
        ([], "must be a JSON object"),
    ],
)
def test_what_pydantic_refuses_is_told_as_a_rule(sent: Any, rule: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Part.model_validate(sent)
    assert rule_of_pydantic(refused.value.errors()[0]) == rule


@pytest.mark.parametrize(
    ("sent", "rule"),
    [
        (b"{", "must be valid JSON: it ends too early"),
        (b'{"name": nul}', "must be valid JSON: byte 13 breaks it"),
        (b"\xff", "must be valid JSON: byte 1 breaks it"),
    ],
)
def test_what_is_no_json_is_told_where_it_breaks(sent: bytes, rule: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Part.model_validate_json(sent)
    assert rule_of_pydantic(refused.value.errors()[0]) == rule


class Wired(msgspec.Struct):
    seq: int
    id: str = ""
    p: float | None = None
    rows: list[tuple[int, int]] = []


@pytest.mark.parametrize(
    ("sent", "field", "rule"),
    [
        (b'{"seq": "1"}', "seq", "must be a whole number"),
        (b'{"seq": 1, "p": "x"}', "p", "must be a JSON number or null"),
        (b'{"seq": 1, "rows": {}}', "rows", "must be a JSON array"),
        (b'{"seq": 1, "rows": [[1]]}', "rows[0]", "must be a JSON array of 2 items"),
        (b"{}", "seq", "must be given"),
        (b"[]", "", "must be a JSON object"),
        (b'{"seq": 1', "", "must be valid JSON: it ends too early"),
        (b'{"seq": 1, "p": NaN}', "", "must be valid JSON: byte 16 breaks it"),
        (b'{"seq": 1, "p": 1e999}', "p", "must be a number within 64 bits"),
        (b'{"seq": 1, "id": "\xff"}', "", "must be JSON in UTF-8"),
    ],
)
def test_what_msgspec_refuses_is_told_as_a_rule(sent: bytes, field: str, rule: str) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as refused:
        msgspec.json.decode(sent, type=Wired)
    assert field_and_rule_of_msgspec(refused.value) == (field, rule)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'{"a": 1}\xff', '{"a": 1}\ufffd'),
        ("x" * 300, "x" * 200 + "..."),
        ("\ud800", "\\ud800"),
        ({"a": [None, 1.5]}, {"a": [None, 1.5]}),
        ([float("nan")], "[nan]"),
        (["x" * 300], '["' + "x" * 198 + "..."),
        (float("-inf"), "-Infinity"),
        (10**400, "a number of too many digits"),
    ],
)
def test_a_value_is_shown_as_it_was_sent_and_cut_short(value: Any, shown: Any) -> None:
    assert plain_value(value) == shown
