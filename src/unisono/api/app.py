"""The REST API as one ASGI application, made from a context."""

from __future__ import annotations

from importlib import resources
from typing import Final

from fastapi import FastAPI
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from unisono.api.context import ApiContext
from unisono.api.limits import BodyLimit
from unisono.api.metrics import ApiMetrics, MetricsMiddleware
from unisono.api.openapi import install_openapi
from unisono.api.problems import install_problem_handlers
from unisono.api.routes import (
    admin,
    alarms,
    commissioning,
    devices,
    dispatches,
    enrolments,
    evidence,
    health,
    history,
    portfolios,
    sites,
    streams,
)

ROUTERS: Final = (
    portfolios.router,
    dispatches.router,
    enrolments.router,
    devices.router,
    commissioning.router,
    sites.router,
    alarms.router,
    evidence.router,
    history.router,
    streams.router,
    admin.router,
    health.router,
)

# What the telemetry app serves when it shares this process's port.
TELEMETRY_PATHS: Final = ("/v1/telemetry", "/v1/acks", "/v1/commands")

DESCRIPTION: Final = """\
The REST API of Unisono. Power is positive into the grid. Units stand in the names: kW, kWh, seconds, degC, fractions.
Instants are RFC 3339 with an offset and are answered in UTC; intervals are half-open and name both bounds.

**Keys.** `Authorization: Bearer uni_...`; each key has scopes (read, enrol, dispatch, admin) and one organisation, and
sees nothing of others (404). What shows the whole plant (`/metrics`, `/v1/log/verification`) is for keys of the
operator's organisation, `default` (others: 403).
**Errors** are problem details (RFC 9457) that name field, value and rule.
**Lists** are pages: `next_cursor` and `Link: <...>; rel="next"`. **Idempotency-Key** is required to create, revise or
cancel a dispatch and for bulk jobs, honoured on every other POST that makes something: a repetition gets the first
answer (`Idempotency-Replayed: true`), 409 with Retry-After while the first is in progress, 422 with another body.
"""


class _Application(FastAPI):
    """FastAPI with the telemetry paths answered first, without any of its machinery: they carry most of the load."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        telemetry = self.state.context.telemetry
        if telemetry is not None and scope["type"] == "http" and scope["path"] in TELEMETRY_PATHS:
            await telemetry(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def create_app(context: ApiContext) -> FastAPI:
    """Return the application; whoever serves it also runs the loops that fill the context's picture."""
    app = _Application(title="Unisono", version=context.version, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    app.state.metrics = ApiMetrics(context.picture, context.clock)
    for router in ROUTERS:
        app.include_router(router)
    install_problem_handlers(app)
    install_openapi(app, DESCRIPTION)
    _add_pages(app)
    app.add_middleware(MetricsMiddleware, metrics=app.state.metrics)
    app.add_middleware(BodyLimit)
    return app


def _add_pages(app: FastAPI) -> None:
    """Serve the console's page and the API's own description; neither tells anything of the plant."""
    page = resources.files("unisono.console").joinpath("status.html").read_text("utf-8")

    @app.get("/", include_in_schema=False)
    async def console() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONSOLE_POLICY})

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, object]:
        return app.openapi()


# The page talks to its own origin only, loads nothing, and is shown in no frame.
CONSOLE_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
