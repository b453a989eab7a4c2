"""What every bench returns, and how it is printed: one JSON object as the last line, or a table."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table

# The best of so many runs: the others measure what else the machine does.
RUNS: Final = 7


class BenchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a bench is to be run; what is None or False is as its target is stated for."""

    folder: Path
    n_devices: int | None = None
    keep: bool = False


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number, beside what it is to be and what a reference took in the same run, in the same unit."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"] = "lower"
    # For a quiet machine; None: only the ratio is bound.
    target: float | None = None
    # The plain twin, or one pass over the same memory; None: there is nothing to compare with.
    reference: float | None = None
    reference_name: str = ""
    # Bound of the ratio, which holds on a noisy machine too; None: only the value is bound.
    ratio_target: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value over reference."""
        return None if self.reference is None else self.value / self.reference

    @property
    def met(self) -> bool:
        """Whether every bound that the figure has is reached."""
        return self._reaches(self.value, self.target) and self._reaches(self.ratio, self.ratio_target)

    def _reaches(self, value: float | None, bound: float | None) -> bool:
        if bound is None:
            return True
        assert value is not None, "a ratio is bound only where there is a reference"
        return value <= bound if self.better == "lower" else value >= bound


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run; ``met`` is False when a target is missed or any check of ``checks`` failed."""

    name: str
    figures: tuple[Figure, ...]
    # What was checked independently of the code that was measured.
    checks: dict[str, bool]
    sizes: dict[str, int]
    details: dict[str, float | int | str] = {}

    @property
    def met(self) -> bool:
        """Whether all targets are reached and every independent check holds."""
        return all(figure.met for figure in self.figures) and all(self.checks.values())

    def as_json(self) -> str:
        """Return the one line."""
        figures = [msgspec.to_builtins(one) | {"ratio": one.ratio, "met": one.met} for one in self.figures]
        plain = msgspec.to_builtins(self) | {"figures": figures, "met": self.met}
        return msgspec.json.encode(plain).decode()


def best_s(run: Callable[[], object], runs: int = RUNS) -> float:
    """Return the shortest of several runs, in seconds, after one that is not counted."""
    run()
    shortest_s = float("inf")
    for _ in range(runs):
        begun_s = time.perf_counter()
        run()
        shortest_s = min(shortest_s, time.perf_counter() - begun_s)
    return shortest_s


def show(result: BenchResult, console: Console) -> None:
    """Print the result for a person."""
    table = Table(title=f"bench {result.name}")
    for heading in ("", "figure", "target", "reference", "ratio", "its target", "met"):
        table.add_column(heading, overflow="fold")
    for one in result.figures:
        table.add_row(
            one.name,
            f"{one.value:.4g} {one.unit}",
            _bound(one, one.target),
            "" if one.reference is None else f"{one.reference:.4g} ({one.reference_name})",
            "" if one.ratio is None else f"{one.ratio:.3g}",
            _bound(one, one.ratio_target),
            "yes" if one.met else "[red]no[/red]",
        )
    console.print(table)
    for name, size in result.sizes.items():
        console.print(f"{name}: {size:,}")
    for name, detail in result.details.items():
        console.print(f"{name}: {detail:.4g}" if isinstance(detail, float) else f"{name}: {detail}")
    for name, holds in result.checks.items():
        console.print(f"check: {name}: {'holds' if holds else '[red]FAILS[/red]'}")
    console.print("met" if result.met else "[red]not met[/red]")


def _bound(figure: Figure, bound: float | None) -> str:
    return "" if bound is None else f"{'<=' if figure.better == 'lower' else '>='} {bound:.4g}"
