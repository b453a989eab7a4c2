from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.house import floors


def test_the_floors_hold() -> None:
    found = floors.violations(floors.graph_of("unisono"), "unisono")
    assert not found, "\n" + "\n".join(found)


PLANTED = [
    ("an import upward", {"base/words": "import {p}.model.nouns", "model/nouns": ""}, "model/ is a floor above base/"),
    ("siblings", {"store/rows": "import {p}.bus.wires", "bus/wires": ""}, "bus/ and store/ are siblings"),
    ("siblings within brain", {"brain/a/x": "import {p}.brain.b.y", "brain/b/y": ""}, "folders of brain/"),
    ("a clock on a pure floor", {"plant/step": "import time"}, "plant/ is pure"),
    ("a socket on a pure floor", {"wire/frames": "from socket import socket"}, "wire/ is pure"),
    ("a world that knows the fleet", {"sim/world": "import {p}.fleet.table", "fleet/table": ""}, "the world knows"),
    ("a cycle", {"model/a": "import {p}.model.b", "model/b": "def f():\n    import {p}.model.a"}, "cycle: "),
    ("a folder without a floor", {"misc/a": "import {p}.base.b", "base/b": ""}, "misc/ has no floor"),
]


@pytest.mark.parametrize(("_what", "files", "complaint"), PLANTED, ids=[case[0] for case in PLANTED])
def test_a_planted_violation_is_found(
    _what: str, files: dict[str, str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"planted_{abs(hash(complaint + str(tmp_path)))}"
    for name, text in files.items():
        module = tmp_path / package / f"{name}.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        for folder in module.relative_to(tmp_path).parents:
            (tmp_path / folder / "__init__.py").touch()
        module.write_text(text.format(p=package))
    monkeypatch.syspath_prepend(tmp_path)
    found = floors.violations(floors.graph_of(package), package)
    assert [line for line in found if complaint in line], found
    assert not set(sys.modules) & {package}, "looked at, not run"


def test_every_folder_has_a_floor() -> None:
    source = Path(__file__).parents[2] / "src" / "unisono"
    folders = {path.name for path in source.iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(floors.FLOOR_OF_FOLDER)
