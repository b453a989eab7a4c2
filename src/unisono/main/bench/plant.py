"""A platform of its own for a bench: started on an empty folder, filled by the API, looked at from outside."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psycopg

from unisono.base.errors import InvalidInput, Unavailable
from unisono.main.bench.fleet_lines import Told, bodies, lines
from unisono.main.client import ApiClient
from unisono.main.demo.children import PlantProcess, wait_until
from unisono.plant.checkpoint import restore
from unisono.plant.state import PlantConfig, PlantState
from unisono.services.checkpoints import newest

# Says that a folder is a bench's own, and may be emptied by the next one.
MARKER: Final = "bench"
START_TIMEOUT_S: Final = 120.0
# A bulk body is 64 MiB, and its digest and its row in PostgreSQL take a second or two.
REQUEST_TIMEOUT_S: Final = 60.0
JOB_TIMEOUT_S: Final = 900.0
SETTLE_TIMEOUT_S: Final = 120.0
KB_PER_MB: Final = 1024.0


class BenchPlant:
    """``unisono up`` on ``folder``, with the API as its operator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started_s = time.perf_counter()
        self._process = PlantProcess(folder)
        self.facts: dict[str, Any] = {}
        self.api: ApiClient

    def connect(self) -> None:
        """Return when the API can be asked; raises Unavailable when the platform does not come up."""
        facts = wait_until(self._process.run_facts, START_TIMEOUT_S, "the platform", 0.05)
        self.api = ApiClient(facts["api_url"], self._process.admin_key(), REQUEST_TIMEOUT_S)
        self.facts = facts
        wait_until(self.api.is_ready, START_TIMEOUT_S, "the platform's API", 0.05)

    def stop(self) -> None:
        """Stop it as an operator does."""
        if self.facts:
            self.api.close()
        self._process.stop()

    def enrol(self, told: Sequence[Told]) -> list[dict[str, Any]]:
        """Send the lines as jobs, say how they go on, and return them when all have ended."""
        n_lines, jobs = 0, []
        for body, part in bodies(iter(told)):
            jobs.append(self.api.send("/v1/vpp/enrolments", body, "application/x-ndjson"))
            n_lines += len(part)
            self._say(jobs, len(told))
        wait_until(lambda: self._are_done(jobs, len(told)), JOB_TIMEOUT_S, "the enrolment", 1.0)
        return jobs

    def n_in_realtime(self) -> int:
        """Return how many devices realtime says that it has, as the API shows it; -1 while it says nothing."""
        try:
            lines = self.api.lines("/metrics")
        except Unavailable:
            return -1
        # One line for each way in which its devices can be trusted.
        told = [float(line.split()[-1]) for line in lines if line.startswith('unisono_shard_devices{shard="0",')]
        return int(sum(told)) if told else -1

    def saved(self, n_devices: int) -> PlantState:
        """Return realtime's state from its newest checkpoint, once one has that many devices."""
        states: list[PlantState] = []

        def seen() -> bool:
            state = self._newest()
            states[:] = [state] if state is not None and state.n_devices == n_devices else []
            return bool(states)

        wait_until(seen, SETTLE_TIMEOUT_S, "a checkpoint with all devices", 2.0)
        return states[0]

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what PostgreSQL says."""
        with psycopg.connect(self.facts["database_url"]) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def rss_mb(self, role: str, field: str = "VmRSS") -> float:
        """Return the memory of a role's process: as it is, or with VmHWM its peak."""
        facts = wait_until(self._process.run_facts, START_TIMEOUT_S, "the platform")
        status = Path(f"/proc/{facts['children'][role]['pid']}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) / KB_PER_MB

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that each part of the platform has taken so far, its children's included."""
        facts = wait_until(self._process.run_facts, START_TIMEOUT_S, "the platform")
        pids = {name: child["pid"] for name, child in facts["children"].items()}
        ticks = dict.fromkeys(pids, 0)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            for name, pid in pids.items():
                if int(fields[1]) == pid or int(stat.parent.name) == pid:
                    own, waited = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
                    ticks[name] += own + (waited if int(stat.parent.name) == pid else 0)
        return {name: n / os.sysconf("SC_CLK_TCK") for name, n in ticks.items()}

    def _newest(self) -> PlantState | None:
        try:
            with newest(self.folder / "checkpoints" / "shard-0.bin") as payload:
                return restore(payload, PlantConfig(), 1, time.time_ns(), time.monotonic_ns())[0]
        except FileNotFoundError:
            return None

    def _are_done(self, jobs: list[dict[str, Any]], n_lines: int) -> bool:
        for at, job in enumerate(jobs):
            if job["state"] in ("queued", "running"):
                jobs[at] = self.api.get(job["status_url"])
        self._say(jobs, n_lines)
        for job in jobs:
            if job["state"] == "failed":
                raise Unavailable("the enrolment", job["reason"])
        return all(job["state"] == "completed" for job in jobs)

    def _say(self, jobs: Sequence[dict[str, Any]], n_lines: int) -> None:
        n_done = sum(job["n_done"] for job in jobs)
        n_errors = sum(job["n_errors"] for job in jobs)
        seconds = time.perf_counter() - self.started_s
        say(f"{seconds:6.1f} s: {len(jobs)} jobs, {n_done:,} of {n_lines:,} rows, {n_errors:,} refused")


def say(text: str) -> None:
    """Tell whoever waits, beside the result."""
    print(text, file=sys.stderr, flush=True)


def fresh_folder(folder: Path) -> None:
    """Empty what an earlier bench left; a folder that is not a bench's is refused."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise InvalidInput("data_dir", str(folder), f"must be empty, or a bench's own (with a file {MARKER})")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()


def fleet(n_lines: int) -> tuple[list[Told], list[Told]]:
    """Return all lines, and those of them that are right."""
    told = list(lines(n_lines))
    return told, [one for one in told if not one.mistake]
