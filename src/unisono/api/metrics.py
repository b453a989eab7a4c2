"""Prometheus metrics of the web process: requests, the picture's age, ingest counters, the outbox."""

from __future__ import annotations

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unisono.base.clock import Clock
from unisono.base.instants import NS_PER_S
from unisono.model.technology import Trust
from unisono.services.picture import Picture

# From a cached read (1 ms) to the slowest that a caller would still wait for.
BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ApiMetrics:
    """One registry an app, so that two apps in one process (tests) do not collide."""

    def __init__(self, picture: Picture, clock: Clock) -> None:
        self.clock = clock
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "unisono_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "unisono_http_request_seconds",
            "From the first byte of the request to the first of the answer.",
            ("method", "route"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(PictureCollector(picture))

    def render(self) -> tuple[bytes, str]:
        """Return the text exposition and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class PictureCollector(Collector):
    """Turns the newest picture into metrics when it is asked; nothing is counted twice."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def collect(self) -> list[Metric]:
        """Return the families."""
        age = GaugeMetricFamily("unisono_picture_age_seconds", "Since a shard was last heard.", labels=["shard"])
        cycle = GaugeMetricFamily("unisono_cycle_seconds", "What a shard's newest cycle took.", labels=["shard"])
        devices = GaugeMetricFamily("unisono_shard_devices", "Devices on a shard.", labels=["shard", "trust"])
        power = GaugeMetricFamily("unisono_shard_power_watts", "Power into the grid of a shard.", labels=["shard"])
        for heard in self._picture.shards():
            labels = [str(heard.totals.shard)]
            age.add_metric(labels, self._picture.age_s(heard))
            cycle.add_metric(labels, heard.totals.cycle_ms / 1000)
            for trust, n in zip(Trust, heard.totals.n_by_trust, strict=True):
                devices.add_metric([*labels, trust.name.lower()], n)
            power.add_metric(labels, heard.totals.power_w)
        readings = CounterMetricFamily(
            "unisono_readings", "Readings by what became of them.", labels=["role", "instance", "fate"]
        )
        for (role, instance), counts in self._picture.ingest_counts().items():
            for fate, count in counts.items():
                readings.add_metric([role, instance, fate], count)
        return [age, cycle, devices, power, readings]


class MetricsMiddleware:
    """Counts and times each request under its route's template, so that ids do not become labels."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        clock = self._metrics.clock
        begun_ns = clock.monotonic_ns()

        async def noting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "(none)")
                self._metrics.requests.labels(scope["method"], route, str(message["status"])).inc()
                self._metrics.seconds.labels(scope["method"], route).observe(
                    (clock.monotonic_ns() - begun_ns) / NS_PER_S
                )
            await send(message)

        await self._app(scope, receive, noting_send)
