"""What the terminal shows while a demonstration runs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class LiveView:
    """The phases passed, the one under way, and the newest numbers; plain lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._phase_began_s = self._began_s
        self._phase = ""
        self._numbers: dict[str, str] = {}
        self._bar: tuple[float, float] | None = None
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)
        self.phase_s: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_phase()
        if self._console.is_terminal:
            self._live.stop()

    def phase(self, name: str) -> None:
        """Begin the next phase."""
        self._finish_phase()
        self._phase, self._phase_began_s = name, time.monotonic()
        self._numbers, self._bar = {}, None
        if not self._console.is_terminal:
            self._console.print(f"[{time.monotonic() - self._began_s:6.1f} s] {name}")

    def show(self, bar: tuple[float, float] | None = None, **numbers: Any) -> None:
        """Show the newest numbers of this phase; ``bar`` is (done, of)."""
        self._numbers = {name.replace("_", " "): str(value) for name, value in numbers.items()}
        self._bar = bar

    def _finish_phase(self) -> None:
        if not self._phase:
            return
        took_s = time.monotonic() - self._phase_began_s
        self.phase_s[self._phase] = took_s
        if self._console.is_terminal:
            self._console.print(f"[green]done[/]  {self._phase} [dim]{took_s:.1f} s[/]")
        self._phase = ""

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, value in self._numbers.items():
            table.add_row(Text(name, style="dim"), value)
        head = Text(f"{self._phase} ... {time.monotonic() - self._phase_began_s:.0f} s", style="bold")
        if self._bar is None:
            return Group(head, table)
        done, of = self._bar
        # A bar ends no line by itself; as a row it does.
        bar = Table.grid()
        bar.add_row(ProgressBar(total=max(of, 1e-9), completed=min(max(done, 0.0), of), width=60))
        return Group(head, bar, table)
