from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from unisono.bus.subjects import MIB, STREAMS
from unisono.main import reference_pages

DOCS = Path(__file__).parents[2] / "docs"
LIMITS = DOCS / "explanation" / "limits.md"
# Factor of the unit to that of the constant, which is told by its own name.
FACTOR_OF_UNIT = {"": 1, "MiB": MIB, "GiB": 1 << 30, "min": 60, "h": 3600, "%": 0.01}
DAY_S = 86_400
CELL = re.compile(r"^([\d,.]+) ?(\S*)$")


@pytest.mark.parametrize("name", ["columns.md", "api.md"])
def test_a_generated_page_is_current(name: str) -> None:
    found = (DOCS / "reference" / name).read_text("utf-8")
    assert found == reference_pages.pages()[name], (
        "write it anew: python -m unisono.main.reference_pages docs/reference"
    )


def test_pages_are_written_into_the_folder_that_is_named(tmp_path: Path) -> None:
    assert reference_pages.main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(reference_pages.pages())
    assert reference_pages.main([str(tmp_path / "absent")]) == 2
    assert reference_pages.main([]) == 2


def limits() -> list[tuple[str, str]]:
    """Return (value as the page says it, place of definition) of each row that names one."""
    rows = [line.strip("| ").split(" | ") for line in LIMITS.read_text("utf-8").splitlines() if line.startswith("|")]
    return [(row[1], row[-1].strip("`")) for row in rows if row[-1].startswith("`")]


@pytest.mark.parametrize(("told", "place"), limits())
def test_a_limit_is_what_the_page_says(told: str, place: str) -> None:
    match = CELL.match(told)
    assert match, f"{told!r} is no number with a unit"
    value, unit = float(match[1].replace(",", "")), match[2]
    if unit == "days":
        value *= DAY_S if place.endswith("_S") else 1
    else:
        value *= FACTOR_OF_UNIT.get(unit, 1)
    assert value == pytest.approx(defined(place)), place


def test_the_limits_page_is_checked_at_all() -> None:
    assert len(limits()) > 40


def test_the_streams_bounds_are_what_the_page_says() -> None:
    text = LIMITS.read_text("utf-8")
    for stream in STREAMS:
        ages = {0: "none", 24 * 3600: "24 h", 7 * DAY_S: "7 days"}
        row = f"| `{stream.name}` | {stream.bytes_max // MIB:,} MiB | {ages[stream.age_max_s]} |"
        assert row in text, row
    assert f"({sum(stream.bytes_max for stream in STREAMS) // MIB:,} MiB)" in text


def test_links_between_pages_lead_somewhere() -> None:
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    broken = [
        f"{page.relative_to(DOCS.parent)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if "://" not in target and target.endswith(".md") and not (page.parent / target).exists()
    ]
    assert not broken


def defined(place: str) -> float:
    """Return the value at ``place``: a module's constant, or the default of a field of one of its classes."""
    parts = place.split(".")
    for at in range(len(parts) - 1, 0, -1):
        name = ".".join(["unisono", *parts[:at]])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        for part in parts[at:]:
            found = default(found, part)
        return float(found)
    raise AssertionError(f"no module at {place}")


def default(owner: Any, name: str) -> Any:
    if isinstance(owner, type) and issubclass(owner, BaseModel):
        return owner.model_fields[name].default
    if isinstance(owner, type) and issubclass(owner, msgspec.Struct):
        return {field.name: field.default for field in msgspec.structs.fields(owner)}[name]
    if isinstance(owner, type) and dataclasses.is_dataclass(owner):
        return {field.name: field.default for field in dataclasses.fields(owner)}[name]
    return getattr(owner, name)
