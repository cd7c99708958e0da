"""For operators: the audit log, the request log, metrics, and the size of the database."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from tidemill.api.dependencies import Admin, KeyHolder, PlatformDep
from tidemill.api.schemas import Filter, Listing, PageQuery, Since, Until, to_epoch, with_datetimes
from tidemill.stores import maintenance
from tidemill.stores.audit import AuditEntry
from tidemill.stores.model_metrics import model_values
from tidemill.stores.request_log import api_minutes

router = APIRouter(tags=["operations"])


class AuditQuery(PageQuery):
    """Filters of the audit log."""

    action: Filter = None
    subject: Filter = None
    actor: Filter = None
    since: Since = None


class LogQuery(PageQuery):
    """Filters of the request log."""

    route: Filter = None
    method: Filter = None
    status: Annotated[int | None, Field(ge=100, le=599)] = None
    since: Since = None
    until: Until = None


class MinutesQuery(PageQuery):
    """Filters of request metrics."""

    route: Filter = None
    since: Since = None
    until: Until = None


class MetricsQuery(PageQuery):
    """Filters of model metrics."""

    model: Filter = None
    version: Filter = None
    metric: Filter = None
    source: Filter = None
    since: Since = None


class ClearRequest(BaseModel):
    """What to delete. Running jobs and the audit log cannot be deleted."""

    tables: list[str] = Field(min_length=1, description=", ".join(maintenance.CLEARABLE))
    before: datetime = Field(description="Only rows older than this.")
    reason: str | None = Field(default=None, max_length=2_000)


class ClearResult(BaseModel):
    """Number of deleted rows by table."""

    deleted: dict[str, int]
    before: datetime


@router.get("/audit")
def list_audit(
    _: Admin, platform: PlatformDep, query: Annotated[AuditQuery, Query()]
) -> Listing[dict[str, Any]]:
    """List who changed what, when and why, newest first."""
    page = platform.audit.page(**query.filters())
    return Listing(items=[with_datetimes(row, "time") for row in page.items], next=page.next)


@router.get("/audit/verify")
def verify_audit(_: Admin, platform: PlatformDep) -> dict[str, Any]:
    """Verify the hash chain of the audit log; names the first changed or missing row."""
    return vars(platform.audit.verify())


@router.get("/logs")
def list_logs(
    _: Admin, platform: PlatformDep, query: Annotated[LogQuery, Query()]
) -> Listing[dict[str, Any]]:
    """List the requests handled by the control plane, newest first."""
    page = platform.requests.page(**query.filters())
    return Listing(items=[with_datetimes(row, "time") for row in page.items], next=page.next)


@router.get("/metrics/api")
def api_metrics(
    _: KeyHolder, platform: PlatformDep, query: Annotated[MinutesQuery, Query()]
) -> Listing[dict[str, Any]]:
    """List the number, mean and maximum duration of requests by minute, route and status."""
    page = api_minutes(platform.database, **query.filters())
    return Listing(items=[with_datetimes(row, "minute") for row in page.items], next=page.next)


@router.get("/metrics/models")
def model_metrics(
    _: KeyHolder, platform: PlatformDep, query: Annotated[MetricsQuery, Query()]
) -> Listing[dict[str, Any]]:
    """List the metrics of each version: in training, at the gate, and live."""
    page = model_values(platform.database, **query.filters())
    return Listing(items=[with_datetimes(row, "time") for row in page.items], next=page.next)


@router.get("/database/stats")
def database_stats(_: KeyHolder, platform: PlatformDep) -> dict[str, Any]:
    """Get the number of rows by table, and the size of the database."""
    return maintenance.database_stats(platform.database)


@router.post("/database/clear")
def clear_database(
    body: ClearRequest, request: Request, caller: Admin, platform: PlatformDep
) -> ClearResult:
    """Delete old rows of the given tables; recorded in the audit log."""
    before = to_epoch(body.before)
    assert before is not None
    maintenance.check_clearable(body.tables)
    platform.audit.append(
        AuditEntry(
            caller.actor,
            "database.clear",
            subject=",".join(body.tables)[:255],
            origin=caller.address,
            reason=body.reason,
            details={"before": body.before.isoformat(), "request_id": request.state.request_id},
        )
    )
    return ClearResult(
        deleted=maintenance.clear(platform.database, body.tables, before), before=body.before
    )
