"""Keep a set of child processes running: start them in order, restart the dead with growing pauses, stop in order.

A child that has run long enough is forgiven its past. Engines and roles are told apart only by how they are started.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from unisono.base.clock import Clock
from unisono.base.errors import UnisonoError
from unisono.base.instants import NS_PER_S
from unisono.engines import child

log = logging.getLogger(__name__)

# The dead are noticed within this; a lease is 60 s, so a second role lost for a moment is unnoticed outside.
LOOK_EVERY_S: Final = 0.2
PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 10.0
# Having run for this long, a child that dies is started at once again.
FORGIVEN_AFTER_S: Final = 30.0
# Whether a child runs, but must be started again all the same, is asked so often.
STUCK_EVERY_S: Final = 5.0
STOP_GRACE_S: Final = 6.0


class Startable(Protocol):
    """What can be supervised: a role's process, or an engine."""

    @property
    def pid(self) -> int | None:
        """The process id, or None before the first start."""
        ...

    def start(self) -> object:
        """Start it and return when it can be used; raises UnisonoError when it can't."""
        ...

    def stop(self) -> None:
        """Stop it; harmless when it does not run."""
        ...

    def is_alive(self) -> bool:
        """Whether its process runs."""
        ...

    def stuck(self) -> str:
        """Say why it must be started again although it runs; "": it need not."""
        ...


class RoleProcess:
    """A command as a child that dies with us; what it prints goes to ``log``."""

    def __init__(self, command: Sequence[str], folder: Path, output: Path) -> None:
        self._command = command
        self._folder = folder
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None before the first start."""
        return self._process.pid if self._process else None

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def stuck(self) -> str:
        """Say nothing: a role that can't go on ends by itself."""
        return ""

    def start(self) -> None:
        """Start the process."""
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._process = child.start(self._command, self._folder, self._output, death_signal=signal.SIGTERM)

    def stop(self) -> None:
        """Ask it to end, then make it."""
        if self._process is not None:
            child.stop(self._process, (signal.SIGTERM, signal.SIGKILL), STOP_GRACE_S)

    def last_words(self) -> str:
        """Return the last lines that it printed."""
        return child.last_lines(self._output)


@dataclass(slots=True)
class _Watched:
    name: str
    what: Startable
    is_wanted: bool = False
    is_up: bool = False
    n_restarts: int = 0
    pause_s: float = PAUSE_FIRST_S
    started_ns: int = 0
    due_ns: int = 0
    asked_ns: int = 0
    problem: str = ""


class Supervisor:
    """Children by name, in starting order; ``on_change`` is told whenever one was started again."""

    def __init__(
        self, children: Mapping[str, Startable], clock: Clock, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._watched = [_Watched(name, what) for name, what in children.items()]
        self._clock = clock
        self.on_change = on_change
        # A change that nobody could be told of: the disk was full.
        self._is_untold = False

    def pids(self) -> dict[str, int | None]:
        """Return the process ids by name."""
        return {watched.name: watched.what.pid for watched in self._watched}

    def restarts(self) -> dict[str, int]:
        """Return how often each child was started again."""
        return {watched.name: watched.n_restarts for watched in self._watched}

    def start(self, names: Iterable[str] | None = None) -> None:
        """Start the named ones (or all), in order; raises what the first that can't be started raises."""
        wanted = {watched.name for watched in self._watched} if names is None else set(names)
        for watched in self._watched:
            if watched.name in wanted:
                self._start(watched)

    def watch(self, is_over: Callable[[], bool]) -> None:
        """Restart the dead until ``is_over``."""
        while not is_over():
            self.look()
            time.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Look once at every child: note who died, start who is due."""
        now_ns = self._clock.monotonic_ns()
        for watched in self._watched:
            if not watched.is_wanted:
                continue
            if watched.is_up and not watched.what.is_alive():
                self._note_death(watched, now_ns)
            elif watched.is_up and now_ns - watched.asked_ns >= STUCK_EVERY_S * NS_PER_S:
                watched.asked_ns = now_ns
                self._end_stuck(watched, now_ns)
            if not watched.is_up and now_ns >= watched.due_ns:
                self._restart(watched, now_ns)
        if self._is_untold:
            self._tell()

    def stop(self) -> None:
        """Stop all, last started first; one that resists is reported and does not keep the others running."""
        for watched in reversed(self._watched):
            watched.is_wanted = watched.is_up = False
            try:
                watched.what.stop()
            except UnisonoError as stubborn:
                log.error("child does not stop", extra={"child": watched.name, "why": str(stubborn)})  # noqa: TRY400

    def _start(self, watched: _Watched) -> None:
        watched.is_wanted = True
        watched.what.start()
        watched.is_up = True
        watched.started_ns = self._clock.monotonic_ns()
        log.info("child started", extra={"child": watched.name, "child_pid": watched.what.pid})

    def _end_stuck(self, watched: _Watched, now_ns: int) -> None:
        why = watched.what.stuck()
        if not why:
            return
        log.error("child is stuck, and is started again", extra={"child": watched.name, "why": why})
        try:
            watched.what.stop()
        except UnisonoError as stubborn:
            log.error("child does not stop", extra={"child": watched.name, "why": str(stubborn)})  # noqa: TRY400
            return
        self._note_death(watched, now_ns)

    def _note_death(self, watched: _Watched, now_ns: int) -> None:
        ran_s = (now_ns - watched.started_ns) / NS_PER_S
        if ran_s >= FORGIVEN_AFTER_S:
            watched.pause_s = PAUSE_FIRST_S
        watched.is_up = False
        watched.due_ns = now_ns + round(watched.pause_s * NS_PER_S)
        words = watched.what.last_words() if isinstance(watched.what, RoleProcess) else ""
        facts = {"child": watched.name, "ran_s": round(ran_s, 1), "again_in_s": watched.pause_s, "said": words}
        log.error("child died", extra=facts)
        watched.pause_s = min(2 * watched.pause_s, PAUSE_MAX_S)

    def _restart(self, watched: _Watched, now_ns: int) -> None:
        try:
            self._start(watched)
        except (UnisonoError, OSError) as failed:
            if str(failed) != watched.problem:
                log.error("child does not start", extra={"child": watched.name, "why": str(failed)})  # noqa: TRY400
            watched.problem = str(failed)
            watched.due_ns = now_ns + round(watched.pause_s * NS_PER_S)
            watched.pause_s = min(2 * watched.pause_s, PAUSE_MAX_S)
            return
        watched.problem = ""
        watched.n_restarts += 1
        self._tell()

    def _tell(self) -> None:
        """Say that a child was started again; what can't be written now is tried again at the next look."""
        try:
            self.on_change()
        except OSError as full:
            if not self._is_untold:
                log.error("a change can't be written", extra={"why": str(full)})  # noqa: TRY400
            self._is_untold = True
        else:
            self._is_untold = False
