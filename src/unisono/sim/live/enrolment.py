"""Enrolling the region's devices over REST, as any aggregator would: one bulk job, progress, the ids and secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from unisono.base.errors import DamagedRecord, Unavailable
from unisono.sim.records import device_reference, enrolment_line, gateway_reference
from unisono.sim.roster import Roster

POLL_S: Final = 0.5
UNFINISHED: Final = frozenset({"accepted", "pending", "queued", "running", "in_progress", "started"})
FAILED: Final = frozenset({"failed", "cancelled", "canceled"})


@dataclass(slots=True)
class Enrolled:
    """What the platform calls the region's devices and gateways; -1 and "" where it refused one."""

    device_id: list[str]
    device_no: NDArray[np.int64]
    gateway_id: list[str]
    gateway_secret: list[str]
    n_errors: int = 0


async def enrol(
    client: httpx.AsyncClient,
    api_key: str,
    roster: Roster,
    *,
    run_name: str,
    lines_per_job: int,
    progress: Callable[[int, int], None],
) -> Enrolled:
    """Enrol every device; raises Unavailable when the platform doesn't take the job."""
    enrolled = Enrolled(
        device_id=[""] * roster.n_devices,
        device_no=np.full(roster.n_devices, -1, np.int64),
        gateway_id=[""] * roster.n_gateways,
        gateway_secret=[""] * roster.n_gateways,
    )
    headers = {"Authorization": f"Bearer {api_key}"}
    for first in range(0, roster.n_devices, lines_per_job):
        rows = range(first, min(first + lines_per_job, roster.n_devices))
        body = b"\n".join(msgspec.json.encode(enrolment_line(roster, row)) for row in rows)
        job_id = await _start(client, headers, body, f"{run_name}-{first}")
        enrolled.n_errors += await _wait(client, headers, job_id, partial(_progress, progress, first, roster.n_devices))
        await _read_result(client, headers, job_id, enrolled, roster)
    return enrolled


def _progress(progress: Callable[[int, int], None], before: int, n_total: int, n_done: int) -> None:
    progress(before + n_done, n_total)


async def _start(client: httpx.AsyncClient, headers: dict[str, str], body: bytes, key: str) -> str:
    head = {**headers, "Content-Type": "application/x-ndjson", "Idempotency-Key": key}
    answer = await client.post("/v1/vpp/enrolments", content=body, headers=head)
    if answer.status_code != httpx.codes.ACCEPTED:
        raise Unavailable("enrolment", f"answered {answer.status_code}: {answer.text[:500]}")
    return str(answer.json()["job_id"])


async def _wait(
    client: httpx.AsyncClient, headers: dict[str, str], job_id: str, progress: Callable[[int], None]
) -> int:
    """Wait for the job's end; return its number of errors."""
    while True:
        answer = await client.get(f"/v1/jobs/{job_id}", headers=headers)
        if answer.status_code != httpx.codes.OK:
            raise Unavailable("enrolment job", f"answered {answer.status_code}: {answer.text[:500]}")
        job: dict[str, Any] = answer.json()
        progress(int(job.get("n_done", 0)))
        state = str(job["state"])
        if state in FAILED:
            raise Unavailable("enrolment job", f"{job_id} is {state}: {job}")
        if state not in UNFINISHED:
            return int(job.get("n_errors", 0))
        await asyncio.sleep(POLL_S)


async def _read_result(
    client: httpx.AsyncClient,
    headers: dict[str, str],
    job_id: str,
    enrolled: Enrolled,
    roster: Roster,
) -> None:
    row_of_reference = {device_reference(row): row for row in range(roster.n_devices)}
    gateway_of_reference = {gateway_reference(g): g for g in range(roster.n_gateways)}
    async with client.stream("GET", f"/v1/jobs/{job_id}/result", headers=headers) as answer:
        if answer.status_code != httpx.codes.OK:
            raise Unavailable("enrolment result", f"answered {answer.status_code}")
        async for text in answer.aiter_lines():
            if not text.strip():
                continue
            try:
                line: dict[str, Any] = msgspec.json.decode(text)
            except msgspec.DecodeError as wrong:
                raise DamagedRecord("enrolment result", str(wrong)) from wrong
            row = row_of_reference.get(str(line.get("partner_reference")))
            if row is None or not line.get("device_id"):
                continue
            enrolled.device_id[row] = str(line["device_id"])
            enrolled.device_no[row] = int(line["device_no"])
            gateway = gateway_of_reference.get(str(line.get("gateway_reference")), int(roster.gateway_of_row[row]))
            enrolled.gateway_id[gateway] = str(line.get("gateway_id") or enrolled.gateway_id[gateway])
            enrolled.gateway_secret[gateway] = str(line.get("gateway_secret") or enrolled.gateway_secret[gateway])
