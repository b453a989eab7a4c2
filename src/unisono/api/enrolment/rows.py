"""The lines of a bulk enrolment's body: where each stands, what it is about, whether it contradicts an earlier one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from unisono.api.enrolment.line import EnrolmentLine, parse_line
from unisono.base.errors import InvalidInput
from unisono.base.rule_words import plain_value


class Row(NamedTuple):
    """A line that is not blank; ``at`` is its place in the body, from 0, blank lines counted."""

    at: int
    line: bytes


def rows_of(body: bytes) -> list[Row]:
    """Return the lines of NDJSON that are not blank, each with its place."""
    return [Row(at, line) for at, line in enumerate(body.split(b"\n")) if line.strip()]


def fields_of(line: bytes) -> dict[str, Any]:
    """Return what a line says, also one that is refused (for a NaN, say); {} if it can't be read."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def reference_of(line: bytes) -> str:
    """Return the partner_reference that a line gives; "" if that can't be read."""
    reference = fields_of(line).get("partner_reference")
    return reference if isinstance(reference, str) else ""


class FirstWords:
    """What a body said first of each partner_reference, in a line that may be enrolled."""

    def __init__(self) -> None:
        self._first_of_reference: dict[str, Row] = {}

    def hold_against(self, row: Row, reference: str) -> None:
        """Keep the first word; raises InvalidInput for a later line that says something else of the same device."""
        first_row = self._first_of_reference.setdefault(reference, row)
        if first_row is row:
            return
        # Parsed again: kept, 100,000 of them would take hundreds of megabytes.
        first, said = parse_line(first_row.line), parse_line(row.line)
        differs = [name for name in EnrolmentLine.model_fields if getattr(first, name) != getattr(said, name)]
        if not differs:
            return
        field, at = differs[0], f"row {first_row.at} says for the same partner_reference"
        before = fields_of(first_row.line).get(field)
        rule = f"must be left out, as {at}" if before is None else f"must be {_json(before)}, as {at}"
        raise InvalidInput(field, plain_value(fields_of(row.line).get(field)), rule)


def spans_with(spans: Sequence[Sequence[int]], places: Sequence[int]) -> list[list[int]]:
    """Return half-open spans with ascending places besides; quick for places behind the last span.

    >>> spans_with([[0, 3]], [3, 5])
    [[0, 4], [5, 6]]
    >>> spans_with([[2, 3]], [1])
    [[1, 3]]
    """
    if spans and places and places[0] < spans[-1][1]:
        return spans_with([], sorted(places_in(spans).union(places)))
    found = [list(span) for span in spans]
    for at in places:
        if found and found[-1][1] == at:
            found[-1][1] += 1
        else:
            found.append([at, at + 1])
    return found


def places_in(spans: Iterable[Sequence[int]]) -> set[int]:
    """Return the places in half-open spans."""
    return {at for first, end in spans for at in range(first, end)}


def _json(value: object) -> str:
    return json.dumps(plain_value(value), ensure_ascii=False)
