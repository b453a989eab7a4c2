"""The lines of a bulk enrolment's body: where each stands, what it is about, whether it contradicts an earlier one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from unisono.api.enrolment.line import EnrolmentLine
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
        self._first_of_reference: dict[str, tuple[Row, EnrolmentLine]] = {}

    def hold_against(self, row: Row, said: EnrolmentLine) -> None:
        """Keep the first word; raises InvalidInput for a later line that says something else of the same device."""
        row_of_first, first = self._first_of_reference.setdefault(said.partner_reference, (row, said))
        differs = [name for name in EnrolmentLine.model_fields if getattr(first, name) != getattr(said, name)]
        if not differs:
            return
        field, at = differs[0], f"row {row_of_first.at} says for the same partner_reference"
        before = fields_of(row_of_first.line).get(field)
        rule = f"must be left out, as {at}" if before is None else f"must be {_json(before)}, as {at}"
        raise InvalidInput(field, plain_value(fields_of(row.line).get(field)), rule)


def spans_of(places: Iterable[int]) -> list[list[int]]:
    """Return ascending places as half-open spans.

    >>> spans_of([0, 1, 2, 5])
    [[0, 3], [5, 6]]
    """
    spans: list[list[int]] = []
    for at in places:
        if spans and spans[-1][1] == at:
            spans[-1][1] += 1
        else:
            spans.append([at, at + 1])
    return spans


def places_in(spans: Iterable[Iterable[int]]) -> set[int]:
    """Return the places in half-open spans."""
    return {at for first, end in spans for at in range(first, end)}


def _json(value: object) -> str:
    return json.dumps(plain_value(value), ensure_ascii=False)
