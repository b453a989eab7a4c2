from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from unisono.base.errors import InvalidInput
from unisono.main.bench import registry
from unisono.main.bench.figures import BenchOptions, BenchResult, Figure, show

# A size for each bench at which it takes a second or two, and still checks all that it checks.
SMALL = [
    ("allocate", 3_000),
    ("cycle", 2_000),
    ("detect", 300),
    ("enrol", 2_000),
    ("fanout", 3_000),
    ("history", 400),
    ("start", 2_000),
    ("totals", 3_000),
    ("undisturbed", 2_000),
]


def figure(value: float, better: str = "lower", **bounds: float) -> Figure:
    return Figure(name="pass", value=value, unit="ms", better=better, reference=4.0, reference_name="numpy", **bounds)  # type: ignore[arg-type]


def result(*figures: Figure, holds: bool = True) -> BenchResult:
    return BenchResult(name="speed", figures=figures, checks={"right": holds}, sizes={"devices": 3})


def test_the_json_holds_what_others_read() -> None:
    line = json.loads(result(figure(2.0, target=10.0)).as_json())
    assert {"name", "figures", "met", "checks", "sizes", "details"} <= set(line)
    wanted = {
        "name",
        "value",
        "unit",
        "better",
        "target",
        "reference",
        "reference_name",
        "ratio",
        "ratio_target",
        "met",
    }
    assert wanted <= set(line["figures"][0])
    assert (line["figures"][0]["ratio"], line["figures"][0]["met"], line["met"]) == (0.5, True, True)


@pytest.mark.parametrize(
    ("one", "is_met"),
    [
        (figure(10.0, target=10.0), True),
        (figure(10.1, target=10.0), False),
        (figure(10.1, "higher", target=10.0), True),
        (figure(9.9, "higher", target=10.0), False),
        (figure(8.0, ratio_target=2.0), True),
        (figure(8.1, target=10.0, ratio_target=2.0), False),
    ],
)
def test_a_figure_is_met_when_every_bound_that_it_has_is_reached(one: Figure, is_met: bool) -> None:
    assert one.met is is_met


def test_one_missed_figure_or_one_failed_check_is_not_met() -> None:
    good, bad = figure(1.0, target=10.0), figure(11.0, target=10.0)
    assert result(good, good).met
    assert not result(good, bad).met
    assert not result(good, holds=False).met


def test_a_person_sees_a_failed_check() -> None:
    console = Console(record=True, width=160)
    show(result(figure(1.0, target=10.0), holds=False), console)
    assert "FAILS" in console.export_text()


def test_an_unknown_bench_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="must be one of"):
        registry.run("speed", BenchOptions(folder=tmp_path))


def test_an_option_that_a_bench_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--keep"):
        registry.run("allocate", BenchOptions(folder=tmp_path, keep=True))


@pytest.mark.parametrize(("name", "n_devices"), SMALL)
def test_a_small_bench_holds_its_checks(tmp_path: Path, name: str, n_devices: int) -> None:
    result = registry.run(name, BenchOptions(folder=tmp_path, n_devices=n_devices))
    assert json.loads(result.as_json())["checks"] == result.checks
    assert result.checks
    assert all(result.checks.values()), result.checks
