"""Commands that talk to a running platform, through its REST API."""

from __future__ import annotations

import typer


def plant(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
