"""Whether the process answers, whether it can work, and its metrics. /healthz is the only thing open to everybody."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from unisono.api.auth import OPERATOR_READS, DatabaseProblem
from unisono.api.context import Context
from unisono.api.metrics import ApiMetrics
from unisono.api.responses import KEY_PROBLEMS, PROBLEM_RESPONSES
from unisono.api.schemas.admin import Health, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process answers (open)")
async def healthz(context: Context) -> Health:
    """Says nothing of what is behind it: a supervisor restarts what does not answer here."""
    return Health(status="ok", version=context.version)


@router.get("/readyz", summary="What the API depends on", responses={**KEY_PROBLEMS, 503: {"model": Readiness}})
async def readyz(response: Response, context: Context, database_problem: DatabaseProblem) -> Readiness:
    """Answers 503 while the database or the bus is away; a picture that is stale is told but is no reason to refuse.

    Within 2 s also when PostgreSQL hangs: keys can't be checked then, and what is missing is told to any bearer.
    """
    checks = {
        "database": database_problem or "ok",
        "bus": "ok" if context.bus.is_connected else "NATS is not connected",
    }
    is_ready = all(found == "ok" for found in checks.values())
    checks["realtime"] = context.picture.stale_reason() or "ok"
    if not is_ready:
        response.status_code = 503
    return Readiness(status="ready" if is_ready else "not ready", checks=checks)


@router.get(
    "/metrics",
    dependencies=[OPERATOR_READS],
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        **{status: PROBLEM_RESPONSES[status] for status in (401, 403, 429, 503)},
        200: {"content": {"text/plain": {"example": 'unisono_shard_devices{shard="0",trust="fresh"} 10000.0\n'}}},
    },
)
async def metrics(request: Request) -> Response:
    """Text exposition of this process, the whole plant in it: a scraper needs a read key of the operator's."""
    rendered = request.app.state.metrics
    assert isinstance(rendered, ApiMetrics)
    body, media_type = rendered.render()
    return Response(body, media_type=media_type)
