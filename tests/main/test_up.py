from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unisono.engines import child, folder as folders
from unisono.main.endpoints import is_running

PATIENCE_S = 60.0
COMMAND = (sys.executable, "-m", "unisono.main.cli", "up", "--roles", "")


class Platform:
    """``unisono up`` without roles on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        free = {"UNISONO_HTTP_PORT": "0", "UNISONO_TELEMETRY_PORT": "0", "UNISONO_MQTT_PORT": "0"}
        self.environ = os.environ | free | {"UNISONO_DATA_DIR": str(folder)}
        self.said = folder.parent / "said"
        with self.said.open("ab") as out:
            self.process = subprocess.Popen(COMMAND, env=self.environ, stdout=out, stderr=out, cwd=folder.parent)
        started = child.wait_until(self.has_started, PATIENCE_S)
        assert started, self.said.read_text()

    def has_started(self) -> bool:
        facts = self.facts()
        is_up = facts.get("pid") == self.process.pid and bool(facts["children"])
        return is_up or self.process.poll() is not None

    def facts(self) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        except FileNotFoundError:
            return {}
        return facts

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("up") / "plant")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def test_the_first_start_makes_a_key_and_shows_it_once(platform: Platform) -> None:
    key_file = platform.folder / "admin.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((platform.folder / "run.json").stat().st_mode) == 0o600
    assert platform.said.read_text().count(key_file.read_text().strip()) == 1


def test_a_second_platform_on_the_folder_is_refused(platform: Platform) -> None:
    second = subprocess.run(COMMAND, env=platform.environ, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert f"is in use by process {platform.process.pid}" in second.stderr
    assert platform.facts()["pid"] == platform.process.pid, "the first one's facts are untouched"


@pytest.mark.parametrize("engine", ["nats", "postgres"])
def test_an_engine_killed_outright_comes_back_on_its_port(platform: Platform, engine: str) -> None:
    before = platform.facts()
    os.kill(before["children"][engine]["pid"], signal.SIGKILL)
    restarts = before["children"][engine]["n_restarts"]
    came_back = child.wait_until(lambda: platform.facts()["children"][engine]["n_restarts"] > restarts, PATIENCE_S)
    assert came_back, (platform.folder / "log" / "supervisor.log").read_text()
    after = platform.facts()
    assert (after["nats_url"], after["database_url"]) == (before["nats_url"], before["database_url"])
    assert is_running(after["children"][engine]["pid"])


def test_stopping_leaves_nothing_behind(platform: Platform) -> None:
    pids = [one["pid"] for one in platform.facts()["children"].values()]
    assert platform.stop() == 0
    assert not [pid for pid in pids if is_running(pid)]
    assert not platform.facts()
    assert folders.owner_of(platform.folder) is None


def test_the_next_start_keeps_key_and_ports(platform: Platform) -> None:
    key = (platform.folder / "admin.key").read_text()
    assert platform.process.poll() is not None
    again = Platform(platform.folder)
    try:
        assert (platform.folder / "admin.key").read_text() == key
    finally:
        assert again.stop() == 0


def test_a_platform_killed_outright_leaves_no_process_and_starts_again(tmp_path: Path) -> None:
    first = Platform(tmp_path / "plant")
    pids = [one["pid"] for one in first.facts()["children"].values()]
    first.process.kill()
    first.process.wait()
    assert child.wait_until(lambda: not any(is_running(pid) for pid in pids), PATIENCE_S)
    second = Platform(tmp_path / "plant")
    assert second.stop() == 0
