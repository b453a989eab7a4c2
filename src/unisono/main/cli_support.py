"""What the commands share: settings, one line of speech, a table of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table

from unisono.main import config
from unisono.main.config import Settings

# Three letters, an underscore, 26 characters of base 32.
ID_WIDTH: Final = 30
# A pipe has no width: a value cut to 80 columns would be lost to whoever reads it.
PIPE_WIDTH: Final = 2000


def load_settings() -> Settings:
    """Return the settings of this folder and environment; raises ConfigErrors."""
    return config.load()


def say(text: str) -> None:
    """Print a line at once (a supervisor reads it through a pipe)."""
    typer.echo(text)
    typer.get_text_stream("stdout").flush()


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...]) -> None:
    """Print rows as a table; what is absent stays empty."""
    table = Table(box=None)
    for column in columns:
        # An id is there to be copied: whole, on one line, however narrow the terminal.
        is_id = column.endswith("_id")
        table.add_column(column, no_wrap=is_id, min_width=ID_WIDTH if is_id else None)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
