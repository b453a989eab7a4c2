"""What every bench returns, and how it is printed: one JSON object as the last line, or a table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table

# The best of so many runs: the others measure what else the machine does.
RUNS: Final = 7


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """One figure beside its reference; ``met`` is False when the target is missed or any check of ``checks`` failed."""

    name: str
    figure: float
    unit: str
    # What the plain twin, or one pass over the same memory, took in the same run, in the same unit.
    reference: float
    reference_name: str
    better: Literal["lower", "higher"]
    target: float
    checks: dict[str, bool]
    sizes: dict[str, int]
    details: dict[str, float | int | str] = {}

    @property
    def ratio(self) -> float:
        """Figure over reference."""
        return self.figure / self.reference

    @property
    def met(self) -> bool:
        """Whether the target is reached and every independent check holds."""
        is_reached = self.figure <= self.target if self.better == "lower" else self.figure >= self.target
        return is_reached and all(self.checks.values())

    def as_json(self) -> str:
        """Return the one line."""
        plain = msgspec.to_builtins(self) | {"ratio": self.ratio, "met": self.met}
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
    table = Table(title=f"bench {result.name}", show_header=False)
    figure = f"{result.figure:.4g} {result.unit}"
    table.add_row("figure", f"{figure} ({result.better} is better)")
    table.add_row(f"reference: {result.reference_name}", f"{result.reference:.4g} {result.unit}")
    table.add_row("ratio", f"{result.ratio:.3g}")
    table.add_row("target", f"{result.target:.4g} {result.unit}")
    for name, size in result.sizes.items():
        table.add_row(name, f"{size:,}")
    for name, detail in result.details.items():
        table.add_row(name, f"{detail:.4g}" if isinstance(detail, float) else str(detail))
    for name, holds in result.checks.items():
        table.add_row(f"check: {name}", "holds" if holds else "[red]FAILS[/red]")
    table.add_row("met", "yes" if result.met else "[red]no[/red]")
    console.print(table)
