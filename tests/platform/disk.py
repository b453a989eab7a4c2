"""A disk of a few megabytes, for tests that fill it; only root can mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    """Mount a disk of its own on a new folder."""
    folder.mkdir()
    mounted = os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder))
    if not mounted:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        _run("umount", "-l", str(folder))


def fill(disk: Path, left_bytes: int) -> Path:
    """Take up the disk but for so many bytes; deleting the file that is returned makes room again."""
    ballast = disk / "ballast"
    stat = os.statvfs(disk)
    size = stat.f_bavail * stat.f_frsize - left_bytes
    if ballast.exists():
        size += ballast.stat().st_size
    with ballast.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return ballast


def _run(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
