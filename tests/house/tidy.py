"""What a reader may expect of every module: its size, its names, a unit on every quantity, one place for clocks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MODULE_LINES_MAX: Final = 500
FUNCTION_LINES_MAX: Final = 70
POSITIONAL_MAX: Final = 5

# Say nothing of what is inside.
BANNED_NAMES: Final = frozenset(
    "util utils helper helpers common manager managers data info misc stuff tools core".split()
)

# The units that names may end in; `ramp_w_per_s` and `price_usd_per_mwh` are made of them.
UNITS: Final = frozenset(
    "w kw mw wh kwh mwh v a hz degc k s ms us ns h min frac pct deg km m m2 m3 l kg j mib bytes usd micros count "
    "sd dbm pu ohm f ppm ratio seconds".split()
)
# Words without a unit: pure numbers by nature, or a number whose unit its neighbour tells (a column, a kind).
BARE: Final = frozenset(
    "value values column columns weight weights share shares factor score figure reference target rank x y z left "
    "right low high tolerance probability confidence chance coefficient exponent fraction gain sign scale amount alpha "
    "beta eta direction state fixed fields session missing default details total totals part parts error price q "
    "level power_factor quantile bound bounds".split()
)
_NUMERIC: Final = re.compile(r"(?<![\w.\[])float(?![\w\]])|NDArray\[np\.float(?:32|64)\]")
# `power_w_by_site`, `energy_wh_of_row`, `price_usd_per_kwh`: what stands after these words is no unit.
_INDEXED: Final = re.compile(r"_(?:by|of|at|in)_.*$")

# Reading a clock is for main/; engines wait for children within a bound; the live region is a program of its own.
CLOCK_CALLS: Final = frozenset(
    "time.time time.time_ns time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns datetime.now "
    "datetime.datetime.now datetime.utcnow datetime.today date.today".split()
)
PLACES_WITH_CLOCKS: Final = ("main/", "engines/", "sim/live/")
_MACHINE: Final = re.compile(r"kernel|\bpart\b|\.(?:get|post|put|patch|delete|command|callback)\(")
# A migration that has no way back says so.
_ONE_WAY: Final = "store/migrations/versions/"
_UNFINISHED: Final = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r"|raise NotImplementedError")


def complaints(path: Path, source: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, what) for each thing in a module that a reader would stumble over; ``where`` is stable."""
    text = path.read_text("utf-8")
    where = path.relative_to(source).as_posix()
    for part in (path.stem, path.parent.name):
        if part in BANNED_NAMES:
            yield where, f"the name {part!r} says nothing of what is inside"
    n_lines = text.count("\n")
    if n_lines > MODULE_LINES_MAX:
        yield where, f"has {n_lines} lines, above {MODULE_LINES_MAX}"
    for number, line in enumerate(text.splitlines(), 1):
        if _UNFINISHED.search(line) and not where.startswith(_ONE_WAY):
            yield f"{where}:{number}", "is unfinished"
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_function(node, where)
        elif isinstance(node, ast.ClassDef):
            yield from _of_fields(node, where)
        elif isinstance(node, ast.Call):
            yield from _of_call(node, where)


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, where: str) -> Iterator[tuple[str, str]]:
    place = f"{where}::{node.name}"
    n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if n_lines > FUNCTION_LINES_MAX:
        yield place, f"has {n_lines} lines, above {FUNCTION_LINES_MAX}"
    positional = [argument.arg for argument in node.args.posonlyargs + node.args.args]
    n_positional = len(positional) - (positional[:1] in (["self"], ["cls"]))
    if n_positional > POSITIONAL_MAX and not _is_called_by_machine(node):
        yield place, f"has {n_positional} positional parameters, above {POSITIONAL_MAX}: make the rest keyword-only"
    for argument in node.args.posonlyargs + node.args.args + node.args.kwonlyargs:
        if argument.annotation is not None and _lacks_unit(argument.arg, argument.annotation):
            yield f"{place}({argument.arg})", "is a number without a unit in its name"


def _is_called_by_machine(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Machine code takes its arrays one by one; a route or a command is called by name, by its framework."""
    return any(_MACHINE.search(ast.unparse(decorator)) for decorator in node.decorator_list)


def _of_fields(node: ast.ClassDef, where: str) -> Iterator[tuple[str, str]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            if _lacks_unit(name, statement.annotation):
                yield f"{where}::{node.name}.{name}", "is a number without a unit in its name"


def _of_call(node: ast.Call, where: str) -> Iterator[tuple[str, str]]:
    called = ast.unparse(node.func)
    if called in CLOCK_CALLS and not where.startswith(PLACES_WITH_CLOCKS):
        yield f"{where}:{node.lineno}", f"reads a clock ({called}); time is an argument"


def _lacks_unit(name: str, annotation: ast.expr) -> bool:
    if not _NUMERIC.search(ast.unparse(annotation).strip("'\"")):
        return False
    plain = name.strip("_")
    if plain.rsplit("_", 1)[-1] in UNITS:
        return False
    bare = _INDEXED.sub("", plain)
    if bare in BARE or any(bare.endswith(f"_{word}") for word in BARE):
        return False
    return bare.rsplit("_", 1)[-1] not in UNITS
