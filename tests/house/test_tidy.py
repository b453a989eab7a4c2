from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.house import tidy

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "unisono"


def test_the_house_is_tidy() -> None:
    allowed = tomllib.loads((Path(__file__).parent / "ratchet.toml").read_text("utf-8"))
    found = [pair for path in sorted(SOURCE.rglob("*.py")) for pair in tidy.complaints(path, SOURCE)]
    places = {where for where, _ in found}
    untidy = [f"{where}: {what}" for where, what in found if where not in allowed]
    stale = [f"{where}: is tidy now; take it off tests/house/ratchet.toml" for where in allowed if where not in places]
    assert not untidy + stale, "\n" + "\n".join(untidy + stale)


PLANTED = [
    ("utils.py", "", "says nothing"),
    ("helpers/words.py", "", "says nothing"),
    ("fleet/long.py", "x = 1\n" * 501, "has 501 lines"),
    ("fleet/a.py", "def f():\n" + "    x = 1\n" * 70, "has 71 lines"),
    ("fleet/a.py", "def f(a, b, c, d, e, g): ...", "6 positional"),
    ("fleet/a.py", "def f(power: float): ...", "without a unit"),
    ("fleet/a.py", "def f(*, power: NDArray[np.float32]): ...", "without a unit"),
    ("fleet/a.py", "class C:\n    delay: float | None = None", "without a unit"),
    ("fleet/a.py", "import time\nnow = time.time_ns()", "reads a clock"),
    ("fleet/a.py", "def f():\n    raise NotImplementedError", "unfinished"),
]


@pytest.mark.parametrize(("name", "text", "complaint"), PLANTED)
def test_a_planted_untidiness_is_found(name: str, text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert [what for _, what in tidy.complaints(path, tmp_path) if complaint in what]


TIDY = [
    "def f(power_w: float, price_usd_per_mwh: float, ramp_w_per_s: float, soc_frac: float | None): ...",
    "def f(value: float, power_w_by_site: dict[str, float], energy_wh_of_row: NDArray[np.float32]): ...",
    "def f(self, a, b, c, d, e, *, g, h): ...",
    "@kernel('...')\ndef f(a, b, c, d, e, g): ...",
]


@pytest.mark.parametrize("text", TIDY)
def test_what_is_tidy_passes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.py"
    path.write_text(text)
    assert not list(tidy.complaints(path, tmp_path))


def test_the_lock_pins_everything_and_names_no_host() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in pins)
    assert not [line for line in lines if "://" in line or line.startswith("-")]


def test_every_runtime_dependency_is_pinned_and_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["demo"], *extras["dev"]]
    names = [_name(line) for line in wanted]
    pinned = {_name(line) for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if "==" in line}
    explained = (ROOT / "docs" / "adr" / "0001-dependencies.md").read_text("utf-8").lower()
    assert not [name for name in names if name not in pinned]
    assert not [name for name in pinned if f"| {name} " not in explained]


def _name(requirement: str) -> str:
    for mark in "[=><;~! ":
        requirement = requirement.split(mark, 1)[0]
    return requirement.lower().replace("_", "-")
