"""The command that enrols a file of devices: sends it, follows the job, names each row that was refused."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from unisono.base.errors import InvalidInput
from unisono.main.cli_support import load_settings, say
from unisono.main.client import ApiClient, open_client

FAILED: Final = 1
NDJSON: Final = "application/x-ndjson"
# A chunk of 1,000 rows takes about half a second.
LOOK_EVERY_S: Final = 0.5
_UNFINISHED: Final = ("queued", "running")


def enrol(
    file: Annotated[Path, typer.Argument(help="One JSON object (EnrolmentLine) a line, 64 MiB at the most.")],
    result: Annotated[
        Path | None, typer.Option(help="Where ids and the new gateways' secrets go, shown this once: a new file.")
    ] = None,
    idempotency_key: Annotated[str, typer.Option(help="Repeat with the same key: the same job.")] = "",
) -> None:
    """Enrol the devices of a file; exit code 1 if rows were refused. Repeated, it changes nothing that is enrolled."""
    body = _body(file)
    with open_client(load_settings()) as api:
        # Before anything is asked for: secrets that can't be kept must not be shown.
        kept = None if result is None else _new_file(result)
        job = _followed(api, api.send("/v1/vpp/enrolments", body, NDJSON, idempotency_key or None))
        for error in api.pages(job["errors_url"]):
            say(_row_line(file, error))
        if kept is not None:
            with os.fdopen(kept, "w", encoding="utf-8") as out:
                out.writelines(f"{line}\n" for line in api.lines(job["result_url"]))
            say(f"ids and secrets are in {result}")
        else:
            say(f"ids, and once the new gateways' secrets: GET {job['result_url']}")
    if job["n_errors"]:
        raise typer.Exit(FAILED)


def _body(file: Path) -> bytes:
    try:
        body = file.read_bytes()
    except OSError as unread:
        raise InvalidInput("file", str(file), unread.strerror or str(unread)) from unread
    if not body.lstrip().startswith(b"{"):
        # A table or an array would be refused line by line.
        raise InvalidInput("file", str(file), "must hold one JSON object a line (NDJSON)")
    return body


def _new_file(path: Path) -> int:
    """Return a descriptor of a new file that only its owner can read."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as refused:
        raise InvalidInput("--result", str(path), refused.strerror or str(refused)) from refused


def _followed(api: ApiClient, job: dict[str, Any]) -> dict[str, Any]:
    """Say how the job goes on, and return it when it has ended well; exit code 1 if it has not."""
    said = ""
    while True:
        counts = f"{job['n_enrolled']} enrolled, {job['n_errors']} refused, {job['n_remaining']} remaining"
        line = f"{job['job_id']} {job['state']}: {job['n_total']} rows, {counts}"
        if line != said:
            say(said := line)
        if job["state"] not in _UNFINISHED:
            break
        job = api.get(job["status_url"])
        if job["state"] in _UNFINISHED:
            time.sleep(LOOK_EVERY_S)
    if job["state"] != "completed":
        say(f"{job['job_id']}: {job['reason']}")
        raise typer.Exit(FAILED)
    return job


def _row_line(file: Path, error: dict[str, Any]) -> str:
    of = f" of {error['partner_reference']}" if error.get("partner_reference") else ""
    return f"{file}:{error['row'] + 1}: {error['field']}{of} = {error.get('value')!r}: {error['rule']}"
