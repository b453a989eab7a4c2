"""What ``unisono doctor`` asks of an engine: where its binary is, its version, whether it runs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EngineBinary:
    """A program found on this machine; ``version`` is "" and ``problem`` says why when it can't be used."""

    name: str
    path: Path | None
    version: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """An engine's folder as it is now; ``owner_pid`` is the platform that holds it, ``pids`` the engine's processes."""

    binary: EngineBinary
    folder: Path
    owner_pid: int | None
    pids: tuple[int, ...]
    ports: dict[str, int]

    @property
    def is_running(self) -> bool:
        """Whether the engine itself runs."""
        return bool(self.pids)


def look_at(name: str, path: Path | None, absence: str) -> EngineBinary:
    """Return the binary at ``path`` with the version that it states itself; never raises."""
    if path is None or not path.exists():
        return EngineBinary(name, None, problem=absence)
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as wrong:
        return EngineBinary(name, path, problem=f"does not run: {wrong}")
    return EngineBinary(name, path, version=said.stdout.strip().split()[-1].removeprefix("v"))
