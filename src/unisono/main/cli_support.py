"""What the commands share: settings, one line of speech, a table of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from unisono.main import config
from unisono.main.config import Settings


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
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
    Console().print(table)
