"""Health and metrics of one role: ``/healthz`` and ``/metrics`` on a loopback port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Receive, Scope, Send

# Live streams that are open when we stop get this long to end.
SHUTDOWN_S: Final = 2

# Name of a check -> "" when all is well, else what is wrong.
Checks = dict[str, Callable[[], str]]


class Counters:
    """The numbers of a service's own record (its fields, or its ``n_...`` attributes), as they are when asked for."""

    def __init__(self, role: str, record_of_name: dict[str, Any]) -> None:
        self._role = role
        self._record_of_name = record_of_name

    def collect(self) -> Iterator[Metric]:
        """Yield a gauge for each number, with the role as its label."""
        for name, record in self._record_of_name.items():
            for field in _names(record):
                value = getattr(record, field)
                if isinstance(value, bool | int | float):
                    gauge = GaugeMetricFamily(f"unisono_{name}_{field}", f"{name}: {field}", labels=["role"])
                    gauge.add_metric([self._role], float(value))
                    yield gauge

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are known only when asked."""
        return []


def _names(record: Any) -> list[str]:
    if dataclasses.is_dataclass(record):
        return [field.name for field in dataclasses.fields(record)]
    return [name for name in vars(record) if name.startswith("n_")]


class HealthApp:
    """A raw ASGI application."""

    def __init__(self, role: str, checks: Checks, record_of_name: dict[str, Any]) -> None:
        self._role = role
        self._checks = checks
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(Counters(role, record_of_name))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status, kind, body = self._answer(scope["path"])
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, bytes, bytes]:
        if path == "/metrics":
            return 200, b"text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry)
        if path == "/healthz":
            problems = {name: problem for name, check in self._checks.items() if (problem := check())}
            status = "ok" if not problems else "impaired"
            body = json.dumps({"role": self._role, "status": status, "problems": problems}).encode()
            return 503 if problems else 200, b"application/json", body
        return 404, b"application/json", b'{"title": "only /healthz and /metrics are here"}'


class _Server(uvicorn.Server):
    """Leaves signals to the role."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: ASGIApp, host: str, port: int, *, proxy_headers: bool = True) -> None:
    """Serve HTTP until cancelled; what is being answered then is answered.

    ``proxy_headers`` False spares an app that asks for neither client nor scheme 5 us of each request.
    """
    settings = uvicorn.Config(
        app,
        host,
        port,
        log_config=None,
        access_log=False,
        lifespan="auto",
        ws="none",
        server_header=False,
        proxy_headers=proxy_headers,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    server = _Server(settings)
    task = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        server.should_exit = True
        await task
        raise
