"""Whether the process lives, whether it is ready, and its metrics."""

from __future__ import annotations

import contextlib
import datetime as dt

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.deps import ExchangeDep, ServicesDep, admit
from app.metrics import CONTENT_TYPE
from app.readiness import readiness
from app.schemas_service import Health, Readiness
from app.wire import answer
from faces import canary
from faces.errors import LikenessError, NotFound

router = APIRouter(tags=["health"])
LATEST_JOBS = 200


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """200 as soon as the port is bound, whatever else is wrong."""
    return answer(Health())


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
def readyz(parts: ServicesDep) -> Response:
    """200 when every part is ready or switched off; else 503 with a sentence for each that is not.

    It says what the background threads last saw.
    """
    state = readiness(parts)
    return answer(state, 200 if state.status in ("ready", "disabled") else 503)


async def metrics_access(request: Request, parts: ServicesDep, exchange: ExchangeDep) -> None:
    """The rule of METRICS_ACCESS."""
    if parts.settings.metrics_access == "off":
        raise NotFound("The metrics are switched off (METRICS_ACCESS).")
    if parts.settings.metrics_access == "key":
        admit(request, parts, exchange, "search")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[Depends(metrics_access)],
)
def metrics(parts: ServicesDep) -> Response:
    """The metrics of this process in Prometheus's text format."""
    state = readiness(parts)
    parts.metrics.states({"service": state.status, **state.checks})
    if state.checks.get("database") == "ready":
        with contextlib.suppress(LikenessError):  # the other figures are worth having without
            latest = parts.store.jobs.page(LATEST_JOBS, None).items
            now = dt.datetime.now(dt.UTC)
            parts.metrics.jobs(latest, worker=parts.store.presence.alive("worker"), now=now)
            parts.metrics.index_lag(canary.last(parts.store.db), now)
    return Response(parts.metrics.text(), media_type=CONTENT_TYPE)
