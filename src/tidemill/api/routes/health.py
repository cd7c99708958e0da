"""Whether the control plane lives, whether it can work, and its numbers for Prometheus.

Behind the data plane these paths are answered by it; here they serve `tidemill api` alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import Response as PlainResponse
from prometheus_client import CONTENT_TYPE_LATEST

from tidemill.api.state import ApiState, state_of
from tidemill.errors import UnavailableError
from tidemill.platform import Platform

router = APIRouter(tags=["health"])

TheState = Annotated[ApiState, Depends(state_of)]


@router.get("/health")
def health() -> dict[str, Any]:
    """The process answers."""
    return {"status": "ok", "timestamp": datetime.now(UTC).isoformat()}


@router.get("/ready", responses={503: {"description": "A part that is required is down"}})
@router.get("/api/ready", include_in_schema=False)
def ready(state: TheState, response: Response) -> dict[str, Any]:
    """Each part, and whether those that the operator requires are there."""
    platform = state.platform
    parts = {
        "database": _database_problem(platform),
        "mlflow": platform.mlflow_problem(),
        "broker": platform.notifier.problem(),
    }
    required = platform.settings.required_parts
    down = [name for name, problem in parts.items() if problem is not None]
    failed = [name for name in down if name in required]
    response.status_code = 503 if failed else 200
    shown: dict[str, Any] = {name: problem or "ok" for name, problem in parts.items()}
    if platform.settings.broker_uri.startswith(("redis", "rediss")):
        shown["redis"] = shown["broker"]
    shown["rate_limits"] = "counted in this process" if state.limits.degraded else "ok"
    status = "unavailable" if failed else ("degraded" if down else "ready")
    return {"status": status, **shown}


@router.get("/metrics", response_class=PlainResponse)
@router.get("/api/metrics", include_in_schema=False, response_class=PlainResponse)
def metrics(state: TheState) -> PlainResponse:
    """Prometheus' text format."""
    return PlainResponse(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _database_problem(platform: Platform) -> str | None:
    try:
        platform.database.now()
    except UnavailableError as error:
        return error.detail
    return None
