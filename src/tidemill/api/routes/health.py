"""Health, readiness and metrics of the control plane.

On a port that it shares with the data plane, the data plane answers /health, /ready and /metrics.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import Response as PlainResponse
from prometheus_client import CONTENT_TYPE_LATEST

from tidemill.api.dependencies import StateDep
from tidemill.errors import UnavailableError
from tidemill.loop.operations.process_states import process_problem
from tidemill.platform import Platform

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, Any]:
    """Check that the process answers."""
    return {"status": "ok", "timestamp": datetime.now(UTC).isoformat()}


@router.get("/ready", responses={503: {"description": "A required service is down"}})
@router.get("/api/ready", include_in_schema=False)
def ready(state: StateDep, response: Response) -> dict[str, Any]:
    """Check each service; 503 if one in TIDEMILL_API_READY_REQUIRES is down."""
    platform = state.platform
    services = {
        "database": _database_problem(platform),
        "mlflow": platform.mlflow_problem(),
        "broker": platform.notifier.problem(),
        "processes": process_problem(platform.settings.home),
    }
    required = platform.settings.required_parts
    down = [name for name, problem in services.items() if problem is not None]
    failed = [name for name in down if name in required]
    response.status_code = 503 if failed else 200
    shown: dict[str, Any] = {name: problem or "ok" for name, problem in services.items()}
    if platform.settings.broker_uri.startswith(("redis", "rediss")):
        shown["redis"] = shown["broker"]
    shown["rate_limits"] = "counted in this process" if state.limits.degraded else "ok"
    status = "unavailable" if failed else ("degraded" if down else "ready")
    return {"status": status, **shown}


@router.get("/metrics", response_class=PlainResponse)
@router.get("/api/metrics", include_in_schema=False, response_class=PlainResponse)
def metrics(state: StateDep) -> PlainResponse:
    """Get the metrics in Prometheus' text format."""
    return PlainResponse(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _database_problem(platform: Platform) -> str | None:
    try:
        platform.database.now()
    except UnavailableError as error:
        return error.detail
    return None
