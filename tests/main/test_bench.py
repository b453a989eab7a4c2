from __future__ import annotations

import json

import pytest
from rich.console import Console

from unisono.base.errors import InvalidInput
from unisono.main.bench import registry
from unisono.main.bench.figures import BenchResult, show


def result(figure: float, better: str = "lower", *, holds: bool = True) -> BenchResult:
    return BenchResult(
        name="speed", figure=figure, unit="ms", reference=4.0, reference_name="numpy", better=better,  # type: ignore[arg-type]
        target=10.0, checks={"right": holds}, sizes={"devices": 3},
    )  # fmt: skip


def test_the_json_holds_what_others_read() -> None:
    line = json.loads(result(2.0).as_json())
    wanted = {"name", "figure", "unit", "reference", "ratio", "better", "target", "met", "sizes", "details"}
    assert wanted <= set(line)
    assert (line["ratio"], line["met"]) == (0.5, True)


@pytest.mark.parametrize(
    ("one", "is_met"),
    [(result(10.0), True), (result(10.1), False), (result(10.1, "higher"), True), (result(1.0, holds=False), False)],
)
def test_a_missed_target_or_a_failed_check_is_not_met(one: BenchResult, is_met: bool) -> None:
    assert one.met is is_met


def test_a_person_sees_a_failed_check() -> None:
    console = Console(record=True, width=100)
    show(result(1.0, holds=False), console)
    assert "FAILS" in console.export_text()


def test_an_unknown_bench_is_named() -> None:
    with pytest.raises(InvalidInput, match="must be one of"):
        registry.run("speed")


def test_the_allocation_bench_holds_its_checks_on_a_small_fleet() -> None:
    checks = registry.run("allocate", 3_000).checks
    assert checks
    assert all(checks.values()), checks
