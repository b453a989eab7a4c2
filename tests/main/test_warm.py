from __future__ import annotations

import os
from pathlib import Path

import pytest

import unisono
from unisono.main import warm


def test_every_module_with_kernels_is_found() -> None:
    source = Path(unisono.__file__).parent
    found = {source.parent.joinpath(*name.split(".")).with_suffix(".py") for name in warm.kernel_modules()}
    users = {path for path in source.rglob("*.py") if "@kernel(" in path.read_text("utf-8")}
    assert users <= found | {source / "base" / "kernel.py"}


def test_the_cache_that_is_asked_for_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert warm.choose_cache(tmp_path / "data") == tmp_path / warm.sources_stamp()
    assert warm.choose_cache(tmp_path / "data") == tmp_path / warm.sources_stamp(), "a child takes it as it is"


def test_without_a_warmed_cache_it_lies_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "no such environment"))
    assert warm.choose_cache(tmp_path) == tmp_path / "cache" / "numba" / warm.sources_stamp()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "cache" / "numba" / warm.sources_stamp())


def test_what_takes_so_long_is_told_before_it_begins() -> None:
    told: list[str] = []
    warm.warm(["unisono.base.kernel"], told.append)
    assert told[0] == "compiling the kernels of 1 modules; the first time this takes one to two minutes"
    assert told[1].startswith("kernels of 1 modules are compiled (")
