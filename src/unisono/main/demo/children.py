"""The two things that a demonstration starts: the plant (``unisono up``) and the simulated region, as processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from unisono.base.errors import Unavailable

STOP_TIMEOUT_S = 30.0


class PlantProcess:
    """``unisono up`` on a data folder of its own, on free loopback ports; ``roles``: these alone."""

    def __init__(self, data_dir: Path, roles: tuple[str, ...] = ()) -> None:
        self.data_dir = data_dir
        chosen = ["--roles", ",".join(roles)] if roles else []
        environment = os.environ | {
            "UNISONO_DATA_DIR": str(data_dir),
            "UNISONO_HTTP_PORT": "0",
            "UNISONO_TELEMETRY_PORT": "0",
            "UNISONO_MQTT_PORT": "0",
        }
        data_dir.mkdir(parents=True, exist_ok=True)
        self._log = (data_dir / "up.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unisono.main.cli", "up", *chosen],
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )

    def run_facts(self) -> dict[str, Any] | None:
        """Return run.json (pids, ports, urls) once the platform has written it and the first key."""
        if self.process.poll() is not None:
            raise Unavailable(
                "the platform", f"ended with code {self.process.returncode}; see {self.data_dir / 'up.log'}"
            )
        try:
            self.admin_key()
            return msgspec.json.decode((self.data_dir / "run.json").read_bytes(), type=dict[str, Any])
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def admin_key(self) -> str:
        """Return the key that the first start made."""
        return (self.data_dir / "admin.key").read_text(encoding="utf-8").strip()

    def stop(self) -> None:
        """Ask it to stop its roles and engines and wait; kill it only past the timeout."""
        _end(self.process)
        self._log.close()


class RegionProcess:
    """``python -m unisono.sim.live``: it tells its status on stdout each second and takes commands on stdin."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        config_path = folder / "region.json"
        config_path.write_bytes(msgspec.json.encode(config))
        config_path.chmod(0o600)
        self._log = (folder / "region.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unisono.sim.live", "--config", str(config_path)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            stderr=self._log,
        )
        self.status: dict[str, Any] = {}
        self.truth: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read_status, daemon=True)
        self._reader.start()

    def tell(self, **command: Any) -> None:
        """Send one command."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as gone:
            raise Unavailable("the simulated region", f"it has ended: {gone}") from gone

    def check(self) -> None:
        """Raise Unavailable when the process has ended."""
        if self.process.poll() is not None:
            raise Unavailable("the simulated region", f"ended with code {self.process.returncode}; see region.log")

    def ask_truth(self) -> dict[str, Any]:
        """Return the region's ledger as it stands; the region goes on."""
        self.truth = {}
        self.tell(do="truth")
        return dict(wait_until(lambda: self.truth, STOP_TIMEOUT_S, "the region's ledger"))

    def stop(self) -> None:
        """End it if it still runs, and let go of its pipes."""
        _end(self.process)
        self._reader.join(STOP_TIMEOUT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # an order that it did not live to read
                pipe.close()
        self._log.close()

    def _read_status(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if "truth" in said:
                self.truth = said["truth"]
            else:
                self.status |= said


def wait_until(seen: Any, timeout_s: float, what: str, every_s: float = 0.25) -> Any:
    """Call ``seen`` until it returns something true, and return that; raises Unavailable after ``timeout_s``."""
    until_s = time.monotonic() + timeout_s
    while True:
        found = seen()
        if found:
            return found
        if time.monotonic() > until_s:
            raise Unavailable(what, f"not within {timeout_s:.0f} s")
        time.sleep(every_s)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
