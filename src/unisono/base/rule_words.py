"""The words for what is wrong with a caller's input: the one place where those of the libraries are translated.

A rule is a sentence that reads on from the field and its value: "must ...", "is required". A value is shown as JSON, as
it was sent, cut short.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

# Longest text of a caller's value that is sent back; the rest says nothing new and may be huge.
VALUE_TEXT_MAX: Final = 200
MUST_BE_GIVEN: Final = "must be given"

_RULE_OF_PYDANTIC: Final = {
    "missing": "is required",
    "extra_forbidden": "must not be given: there is no such field",
    "finite_number": "must be a finite JSON number",
    "string_type": "must be a JSON string",
    "string_unicode": "must be a JSON string of whole Unicode characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "list_type": "must be a JSON array",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 4300 digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a JSON number",
    "float_parsing": "must be a JSON number",
}
_JSON_TYPE: Final = {
    "int": "a whole number",
    "float": "a JSON number",
    "str": "a JSON string",
    "bool": "true or false",
    "object": "a JSON object",
    "array": "a JSON array",
    "null": "null",
}
_SUBJECT: Final = re.compile(r"^(?:[\w ]+ )?should (?=\w)")
_PLACE: Final = re.compile(r"(?:column|byte|position) (\d+)")
_MISSING_FIELD: Final = re.compile(r"Object missing required field `(\w+)`")
_EXPECTED: Final = re.compile(r"Expected `([^`]+)`(?: of length (\d+))?")


def plain_value(value: Any) -> Any:
    """Return ``value`` as JSON, as it was sent; cut to VALUE_TEXT_MAX characters, when it is longer, as text.

    >>> plain_value(b'{"name": 1}'), plain_value([1, None]), plain_value(float("nan"))
    ('{"name": 1}', [1, None], 'NaN')
    """
    match value:
        case None | bool() | int():
            # More digits than any number that is meant.
            return value if value is None or abs(value) < 10**VALUE_TEXT_MAX else "a number of too many digits"
        case float():
            return value if math.isfinite(value) else json.dumps(value)
        case bytes():
            return _cut(value[: 4 * VALUE_TEXT_MAX + 4].decode("utf-8", "replace"))
        case str():
            return _cut(value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _cut(str(value))
    return _cut(text) if len(text) > VALUE_TEXT_MAX or not text.isprintable() else value


def rule_of_pydantic(error: Mapping[str, Any]) -> str:
    """Return the rule that one of pydantic's errors (``ValidationError.errors()``) stands for."""
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite JSON number"
    if kind == "json_invalid":
        return rule_of_bad_json(str(context.get("error", "")))
    words = str(error["msg"])
    if kind == "too_short" and context.get("min_length") == 1:
        return "must have at least 1 item"
    if kind in _RULE_OF_PYDANTIC:
        rule = _RULE_OF_PYDANTIC[kind].format(**context)
        return f"{rule}, sent with Content-Type: application/json" if isinstance(value, bytes) else rule
    return _SUBJECT.sub("must ", words)


def field_and_rule_of_msgspec(error: Exception) -> tuple[str, str]:
    """Return which field is wrong, "" for the whole, and the rule that it breaks.

    >>> field_and_rule_of_msgspec(ValueError("Expected `float | null`, got `str` - at `$.p`"))
    ('p', 'must be a JSON number or null')
    """
    words, _, place = str(error).partition(" - at `$")
    if missing := _MISSING_FIELD.match(words):
        return f"{place.strip('.`')}.{missing[1]}".strip("."), MUST_BE_GIVEN
    if expected := _EXPECTED.match(words):
        names = [_JSON_TYPE.get(name, name) for name in expected[1].split(" | ")]
        length = f" of {expected[2]} items" if expected[2] else ""
        return place.strip(".`"), f"must be {' or '.join(names)}{length}"
    if "range" in words:
        return place.strip(".`"), "must be a number within 64 bits"
    return place.strip(".`"), rule_of_bad_json(words)


def rule_of_bad_json(words: str) -> str:
    """Return the rule for a text that a JSON parser refuses with ``words``."""
    lower = words.lower()
    if "utf-8" in lower or "codec" in lower:
        return "must be JSON in UTF-8"
    if "eof" in lower or "truncated" in lower:
        return "must be valid JSON: it ends too early"
    place = _PLACE.search(lower)
    return f"must be valid JSON: byte {place[1]} breaks it" if place else "must be valid JSON"


def _cut(text: str) -> str:
    # A lone surrogate can be received in JSON but not be sent as UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= VALUE_TEXT_MAX else text[:VALUE_TEXT_MAX] + "..."
