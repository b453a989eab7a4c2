"""Ends the reading of bodies that take too long, with one timer for all: one each costs more than most bodies do."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final, Self

BODY_TIMEOUT_S: Final = 30.0


class SlowBodies:
    """``async with`` it for as long as a task reads a body: TimeoutError after ``timeout_s``."""

    def __init__(self, timeout_s: float = BODY_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        # When each of them is late; the oldest stands first.
        self._due_s_of_task: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "a body is read in a task"
        self._due_s_of_task[task] = due_s = loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = loop.call_at(due_s, self._look, loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None, "the one that entered"
        self._due_s_of_task.pop(task, None)
        if task in self._late:
            self._late.remove(task)
            # Cancelled by nobody else: it goes on, and is told why.
            if task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel who is late, and come again when the next one is."""
        self._timer = None
        for task, due_s in list(self._due_s_of_task.items()):
            if due_s > loop.time():
                self._timer = loop.call_at(due_s, self._look, loop)
                break
            del self._due_s_of_task[task]
            self._late.add(task)
            task.cancel()
