from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from unisono.base.clock import MovableClock
from unisono.base.errors import Unavailable
from unisono.engines import child
from unisono.main import supervisor as supervising
from unisono.main.endpoints import is_running
from unisono.main.supervisor import RoleProcess, Supervisor

PATIENCE_S = 20.0
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


class FakeEngine:
    """Starts when ``is_able``; dies when told to."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order
        self.is_able = True
        self.is_running = False
        self.problem = ""
        self.n_starts = 0

    @property
    def pid(self) -> int | None:
        return 1 if self.is_running else None

    def start(self) -> None:
        self.n_starts += 1
        if not self.is_able:
            raise Unavailable(self.name, "not now")
        self.is_running = True
        self.order.append(f"+{self.name}")

    def stop(self) -> None:
        self.is_running = False
        self.order.append(f"-{self.name}")

    def is_alive(self) -> bool:
        return self.is_running

    def stuck(self) -> str:
        return self.problem


def pair() -> tuple[Supervisor, FakeEngine, FakeEngine, MovableClock, list[str]]:
    order: list[str] = []
    first, second = FakeEngine("first", order), FakeEngine("second", order)
    clock = MovableClock(0)
    return Supervisor({"first": first, "second": second}, clock), first, second, clock, order


def test_children_start_in_order_and_stop_in_reverse() -> None:
    supervisor, _, _, _, order = pair()
    supervisor.start()
    supervisor.stop()
    assert order == ["+first", "+second", "-second", "-first"]


def test_a_dead_child_is_started_again_after_a_pause_that_grows() -> None:
    supervisor, first, _, clock, _ = pair()
    supervisor.start()
    pauses_s = []
    for _ in range(8):
        first.is_running = False
        supervisor.look()
        waited_s = 0.0
        while not first.is_running:
            clock.advance(0.1)
            waited_s += 0.1
            supervisor.look()
        pauses_s.append(round(waited_s, 1))
    assert pauses_s == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert supervisor.restarts() == {"first": 8, "second": 0}


def test_a_child_that_ran_long_is_forgiven() -> None:
    supervisor, first, _, clock, _ = pair()
    supervisor.start()
    for ran_s in (1.0, supervising.FORGIVEN_AFTER_S + 1):
        clock.advance(ran_s)
        first.is_running = False
        supervisor.look()
        clock.advance(supervising.PAUSE_FIRST_S)
        supervisor.look()
        assert first.is_running


def test_an_engine_that_does_not_come_back_is_tried_until_it_does_and_leaves_the_others_alone() -> None:
    supervisor, first, second, clock, _ = pair()
    told: list[int] = []
    supervisor.on_change = lambda: told.append(1)
    supervisor.start()
    first.is_running = first.is_able = False
    for _ in range(100):
        supervisor.look()
        clock.advance(1.0)
    assert 10 <= first.n_starts <= 20
    assert (second.n_starts, told) == (1, [])
    first.is_able = True
    for _ in range(11):
        supervisor.look()
        clock.advance(1.0)
    assert first.is_running
    assert told == [1]


def test_nobody_is_restarted_while_stopping_or_before_being_wanted() -> None:
    supervisor, first, second, clock, _ = pair()
    supervisor.start(["first"])
    clock.advance(60)
    supervisor.look()
    assert second.n_starts == 0
    supervisor.stop()
    clock.advance(60)
    supervisor.look()
    assert first.n_starts == 1


def test_a_real_process_killed_outright_comes_back_and_leaves_with_us(tmp_path: Path) -> None:
    role = RoleProcess([sys.executable, "-c", SLEEPER], tmp_path, tmp_path / "log" / "role.out")
    clock = MovableClock(0)
    supervisor = Supervisor({"role": role}, clock)
    supervisor.start()
    try:
        first_pid = role.pid
        assert first_pid is not None
        os.kill(first_pid, signal.SIGKILL)
        assert child.wait_until(lambda: not role.is_alive(), PATIENCE_S)
        supervisor.look()
        clock.advance(supervising.PAUSE_FIRST_S)
        supervisor.look()
        assert role.is_alive()
        assert role.pid != first_pid
    finally:
        supervisor.stop()
    assert not role.is_alive()


def test_children_die_with_a_supervisor_that_is_killed_outright(tmp_path: Path) -> None:
    script = (
        "import sys, signal\n"
        "from pathlib import Path\n"
        "from unisono.main.supervisor import RoleProcess\n"
        f"role = RoleProcess([sys.executable, '-c', {SLEEPER!r}], Path('.'), Path('grandchild.out'))\n"
        "role.start()\n"
        "Path('pid.new').write_text(str(role.pid))\n"
        "Path('pid.new').replace('pid')\n"
        "signal.pause()\n"
    )
    parent = child.start([sys.executable, "-c", script], tmp_path, tmp_path / "parent.out")
    try:
        assert child.wait_until((tmp_path / "pid").exists, PATIENCE_S), (tmp_path / "parent.out").read_text()
        grandchild_pid = int((tmp_path / "pid").read_text())
        said = tmp_path / "grandchild.out"
        assert child.wait_until(lambda: said.exists() and "up" in said.read_text(), PATIENCE_S)
    finally:
        parent.kill()
        parent.wait()
    assert child.wait_until(lambda: not is_running(grandchild_pid), PATIENCE_S)


def test_what_a_child_said_last_is_at_hand(tmp_path: Path) -> None:
    role = RoleProcess([sys.executable, "-c", "print('no such port')"], tmp_path, tmp_path / "role.out")
    role.start()
    assert child.wait_until(lambda: not role.is_alive(), PATIENCE_S)
    assert role.last_words() == "no such port"


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_child_that_never_starts_raises_at_once(name: str) -> None:
    supervisor, first, second, _, _ = pair()
    {"first": first, "second": second}[name].is_able = False
    with pytest.raises(Unavailable, match="not now"):
        supervisor.start()


def test_a_child_that_runs_and_is_stuck_is_started_again() -> None:
    supervisor, first, second, clock, order = pair()
    supervisor.start()
    order.clear()
    second.problem = "can't write"
    clock.advance(supervising.STUCK_EVERY_S)
    supervisor.look()
    assert order == ["-second"]
    second.problem = ""
    clock.advance(supervising.PAUSE_FIRST_S)
    supervisor.look()
    assert order == ["-second", "+second"]
    assert supervisor.restarts() == {"first": 0, "second": 1}
    clock.advance(supervising.STUCK_EVERY_S)
    supervisor.look()
    assert order == ["-second", "+second"]
    assert first.n_starts == 1


def test_a_restart_that_can_not_be_written_down_is_written_as_soon_as_it_can() -> None:
    supervisor, first, _, clock, _ = pair()
    wanted, told = [OSError("no space left on device")] * 2, [0]

    def write() -> None:
        if wanted:
            raise wanted.pop()
        told[0] += 1

    supervisor.on_change = write
    supervisor.start()
    first.is_running = False
    supervisor.look()
    clock.advance(supervising.PAUSE_FIRST_S)
    supervisor.look()
    assert (first.is_running, told[0]) == (True, 0), "it watches on"
    supervisor.look()
    supervisor.look()
    assert told[0] == 1
