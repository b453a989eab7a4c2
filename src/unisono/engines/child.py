"""Child processes that die with us, and leftovers of an earlier life found by their folder."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from unisono.base.errors import Unavailable
from unisono.engines import launch

# How often a starting or stopping process is looked at; they take 30 to 500 ms.
POLL_S = 0.01
# A log longer than this is set aside (one generation) at the next start.
LOG_BYTES_MAX = 16 << 20

_Task = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]


def start(
    command: Sequence[str | Path], folder: Path, log: Path, *, drop: str = "none", death_signal: int = signal.SIGTERM
) -> subprocess.Popen[bytes]:
    """Start ``command`` in ``folder`` with its output appended to ``log``; for ``drop`` see ``launch``.

    It has a session of its own (Ctrl-C does not reach it) and gets ``death_signal`` when this process dies, in any way.
    """

    def spawn() -> subprocess.Popen[bytes]:
        _set_aside(log)
        words = [drop, str(int(death_signal)), str(os.getpid()), *(str(word) for word in command)]
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", launch.__file__, *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(),
            )

    return _SPAWNER.do(spawn)


def run(command: Sequence[str | Path], folder: Path, *, drop: str = "none", timeout_s: float = 60.0) -> tuple[int, str]:
    """Run ``command`` to its end in ``folder`` and return its exit code and output; raises Unavailable on timeout."""
    words = [drop, str(int(signal.SIGTERM)), str(os.getpid()), *(str(word) for word in command)]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", launch.__file__, *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise Unavailable(str(command[0]), f"did not end within {timeout_s:g} s") from late
    return done.returncode, done.stdout.decode(errors="replace")


def stop(process: subprocess.Popen[bytes], signals: Sequence[int], grace_s: float) -> None:
    """Send ``signals`` one after the other, each with ``grace_s`` to take effect, and reap the process."""
    for number in signals:
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(grace_s)
            return
        except subprocess.TimeoutExpired:
            continue
    raise Unavailable(f"process {process.pid}", "does not end, whatever the signal")


def processes_in(folder: Path, name: str) -> list[int]:
    """Return the pids of processes called ``name`` whose working folder is ``folder`` (needs /proc; else nothing)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_called_so = (entry / "comm").read_text().strip() == name
            if is_called_so and (entry / "cwd").resolve(strict=True) == folder.resolve():
                found.append(int(entry.name))
        except OSError:  # gone in between, or another user's: not ours
            continue
    return found


def end_leftovers(folder: Path, name: str, signals: Sequence[int], grace_s: float) -> int:
    """End what an earlier life left running in ``folder``; return how many processes there were.

    Only for a holder of the folder's lock: nobody living owns these processes.
    """
    left = first = processes_in(folder, name)
    if not first:
        return 0
    for number in signals:
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # ended by itself meanwhile
                continue
        wait_until(lambda: not processes_in(folder, name), grace_s)
        left = processes_in(folder, name)
        if not left:
            return len(first)
    raise Unavailable(name, f"processes {left} of an earlier run in {folder} do not end")


def wait_until(is_so: Callable[[], bool], timeout_s: float) -> bool:
    """Return True as soon as ``is_so``, False after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def last_lines(log: Path, n: int = 5) -> str:
    """Return the last lines of a log, for an error's text."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        return " | ".join(file.read().decode(errors="replace").strip().splitlines()[-n:])


def _set_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_suffix(".1.log"))


def _environment() -> dict[str, str]:
    # PG* would steer initdb and clients elsewhere; the locale would change messages that we read.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


class _Spawner:
    """A thread that lives as long as the process: the kernel sends the death signal when the forking thread ends."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()

    def do(self, spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Run ``spawn`` there and return what it returns, or raise what it raises."""
        with self._mutex:
            # After a fork of ours the thread is gone, and a new one is made.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="engines-spawn", daemon=True)
                self._thread.start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._tasks.put((spawn, future))
        return future.result()

    def _run(self) -> None:
        while True:
            spawn, future = self._tasks.get()
            try:
                future.set_result(spawn())
            except Exception as problem:  # noqa: BLE001 - raised in the thread that asked
                future.set_exception(problem)


_SPAWNER = _Spawner()
