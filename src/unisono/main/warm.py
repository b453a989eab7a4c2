"""Compile every kernel once, at set-up, so that no service ever waits for a compiler.

Kernels with explicit signatures are compiled when their module is imported and are kept in ``NUMBA_CACHE_DIR``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import unisono

# The floors that hold kernels; a module is imported only if it says so.
_FLOORS = ("fleet", "brain", "wire", "plant", "sim")
_MARK = "from unisono.base.kernel import"


def choose_cache(data_dir: Path) -> Path:
    """Return the folder of compiled kernels and set it for this process and its children.

    In the first of: what ``NUMBA_CACHE_DIR`` says, what ``make setup`` warmed, ``cache/numba`` in the data folder.
    Without it numba writes next to the source, and a read-only installation fails on import. The folder is named for
    the kernels' sources: numba looks only at the file that a kernel stands in, not at the parts that it calls.
    """
    given = os.environ.get("NUMBA_CACHE_DIR")
    warmed = Path(sys.prefix) / "cache" / "numba"
    place = Path(given) if given else warmed if _is_writable(warmed) else data_dir / "cache" / "numba"
    stamp = sources_stamp()
    chosen = place if place.name == stamp else place / stamp
    os.environ["NUMBA_CACHE_DIR"] = str(chosen)
    return chosen


def sources_stamp() -> str:
    """Return a digest of every source that a kernel may be made from."""
    package = Path(unisono.__file__).parent
    digest = hashlib.sha256((package / "base" / "kernel.py").read_bytes())
    for floor in _FLOORS:
        for source in sorted((package / floor).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def kernel_modules() -> list[str]:
    """Return the names of all modules that define kernels."""
    names = []
    for floor in _FLOORS:
        folder = Path(unisono.__file__).parent / floor
        for found in pkgutil.walk_packages([str(folder)], f"unisono.{floor}."):
            source = importlib.util.find_spec(found.name)
            if source is not None and source.origin and _MARK in Path(source.origin).read_text("utf-8"):
                names.append(found.name)
    return names


def warm(names: Sequence[str], say: Callable[[str], None]) -> None:
    """Import every module that defines kernels, on all processors; ``say`` what takes so long before it begins.

    What two processes need at the same time is compiled by both; the last round reads it all from the cache and raises
    what is wrong.
    """
    begun_s = time.monotonic()
    say(f"compiling the kernels of {len(names)} modules; the first time this takes one to two minutes")
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for started in [pool.submit(_load, name) for name in names]:
            started.exception()
    for name in names:
        importlib.import_module(name)
    say(f"kernels of {len(names)} modules are compiled ({time.monotonic() - begun_s:.1f} s)")


def _load(name: str) -> None:
    importlib.import_module(name)


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


if __name__ == "__main__":
    cache = choose_cache(Path("var"))
    for outdated in cache.parent.glob("*") if cache.parent.is_dir() else ():
        if outdated.is_dir() and outdated != cache:
            shutil.rmtree(outdated)
    warm(kernel_modules(), partial(print, flush=True))
