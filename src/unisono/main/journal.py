"""Structured logs: one JSON object a line, in ``log/<role>.log`` of the data folder, a few generations kept."""

from __future__ import annotations

import json
import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

from unisono.base.instants import NS_PER_S, format_rfc3339

# Four files of 16 MiB a role: weeks of a quiet plant, hours of a noisy one, never a full disk.
BYTES_MAX: Final = 16 << 20
GENERATIONS: Final = 3

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """A record as one line: at, level, role, where, message, what was given as ``extra``, and the traceback if any."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "at": format_rfc3339(int(record.created * 1000) * (NS_PER_S // 1000)),
            "level": record.levelname,
            "role": self._role,
            "where": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start(role: str, folder: Path, level: str) -> None:
    """Send all logs of this process to ``folder/log/<role>.log``."""
    folder = folder / "log"
    folder.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(folder / f"{role}.log", maxBytes=BYTES_MAX, backupCount=GENERATIONS, encoding="utf-8")
    handler.setFormatter(JsonLines(role))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # A line for each HTTP request, or for each step of a start, tells nobody anything.
    for chatty in ("httpx", "httpcore", "gmqtt", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    logging.getLogger("unisono").critical("ended by an error", exc_info=(kind, error, traceback))
    sys.__excepthook__(kind, error, traceback)
