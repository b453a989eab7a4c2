"""Who may import whom: floors downward only, siblings apart, no cycles, nothing of the outside on pure floors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import grimp

# From the bottom up; folders in one row are siblings and do not know each other.
FLOORS: Final = (
    ("base",),
    ("model",),
    ("fleet",),
    ("brain", "wire"),
    ("plant",),
    ("engines", "bus", "store", "links", "sim"),
    ("services",),
    ("api", "console"),
    ("main",),
)
FLOOR_OF_FOLDER: Final = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
# Folders whose own folders do not know each other either; a plain module beside them is the contract they share,
# and knows none of them.
SIBLINGS_WITHIN: Final = ("brain", "links")
# The world is no mirror of the platform: it knows the words, the nouns and the bytes only.
SIM_MAY_IMPORT: Final = ("base", "model", "wire", "sim")
PURE: Final = ("base", "model", "fleet", "brain", "wire", "plant")
# They reach outside, read a clock, keep a log or draw chance: none of it on a pure floor.
BANNED_ON_PURE: Final = frozenset(
    "asyncio concurrent ctypes fastapi fcntl gmqtt http httptools httpx logging multiprocessing nats os pathlib "
    "prometheus_client psycopg psycopg_pool pyarrow queue random rich sched secrets select "
    "selectors shutil signal socket socketserver sqlalchemy sqlite3 ssl starlette subprocess tempfile threading time "
    "typer urllib uuid uvicorn uvloop".split()
)


def graph_of(package: str) -> grimp.ImportGraph:
    """Return who imports whom in ``package``, foreign packages included."""
    return grimp.build_graph(package, include_external_packages=True, cache_dir=None)


def violations(graph: grimp.ImportGraph, package: str) -> list[str]:
    """Return one line for each import that breaks a rule."""
    found = [
        f"{importer} imports {imported}: {rule}"
        for importer in sorted(graph.modules)
        if importer.split(".")[0] == package
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        for rule in _rules_broken(importer.split("."), imported.split("."), package)
    ]
    return found + [f"cycle: {' -> '.join(cycle)}" for cycle in cycles(graph, package)]


def _rules_broken(importer: list[str], imported: list[str], package: str) -> Iterator[str]:
    if len(importer) < 2:
        return
    folder = importer[1]
    if folder not in FLOOR_OF_FOLDER:
        yield f"{folder}/ has no floor"
    elif imported[0] != package:
        if folder in PURE and imported[0] in BANNED_ON_PURE:
            yield f"{folder}/ is pure"
    elif len(imported) > 1 and imported[1] in FLOOR_OF_FOLDER:
        yield from _rules_broken_inside(importer, imported)


def _rules_broken_inside(importer: list[str], imported: list[str]) -> Iterator[str]:
    folder, other = importer[1], imported[1]
    if FLOOR_OF_FOLDER[other] > FLOOR_OF_FOLDER[folder]:
        yield f"{other}/ is a floor above {folder}/"
    elif other != folder and FLOOR_OF_FOLDER[other] == FLOOR_OF_FOLDER[folder]:
        yield f"{other}/ and {folder}/ are siblings"
    if folder == "sim" and other not in SIM_MAY_IMPORT:
        yield f"the world knows {', '.join(SIM_MAY_IMPORT)} only"
    is_within = folder == other and folder in SIBLINGS_WITHIN and min(len(importer), len(imported)) > 2
    if is_within and importer[2] != imported[2] and len(imported) > 3:
        yield f"folders of {folder}/ do not know each other"


def cycles(graph: grimp.ImportGraph, package: str) -> list[list[str]]:
    """Return one cycle of imports for each module that lies on one and has not been named yet."""
    found: list[list[str]] = []
    named: set[str] = set()
    for module in sorted(name for name in graph.modules if name.split(".")[0] == package):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            if module in named or imported.split(".")[0] != package:
                continue
            way_back = graph.find_shortest_chain(importer=imported, imported=module)
            if way_back is not None:
                found.append([module, *way_back])
                named.update(way_back)
    return found
