"""What operators look at and clear: requests, metrics, the audit log, the database."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from tidemill.api.access import Admin, KeyHolder
from tidemill.api.schemas import Filter, Listing, PageQuery, Since, Until, to_epoch, with_datetimes
from tidemill.api.state import platform_of
from tidemill.platform import Platform
from tidemill.stores.audit import AuditEntry
from tidemill.stores.database import maintenance
from tidemill.stores.model_metrics import model_values
from tidemill.stores.request_log import api_minutes

router = APIRouter(tags=["operations"])

ThePlatform = Annotated[Platform, Depends(platform_of)]


class AuditQuery(PageQuery):
    """Which rows of the audit log."""

    action: Filter = None
    subject: Filter = None
    actor: Filter = None
    since: Since = None


class LogQuery(PageQuery):
    """Which requests."""

    route: Filter = None
    method: Filter = None
    status: int | None = None
    since: Since = None
    until: Until = None


class MinutesQuery(PageQuery):
    """Which minutes of which route."""

    route: Filter = None
    since: Since = None
    until: Until = None


class MetricsQuery(PageQuery):
    """Which metrics of which versions."""

    model: Filter = None
    version: Filter = None
    metric: Filter = None
    source: Filter = None
    since: Since = None


class ClearRequest(BaseModel):
    """What to delete. Only tables of records can be cleared, never jobs that run or the audit."""

    tables: list[str] = Field(min_length=1, description=", ".join(maintenance.CLEARABLE))
    before: datetime = Field(description="Only rows older than this.")
    reason: str | None = Field(default=None, max_length=2_000)


class ClearResult(BaseModel):
    """How many rows went, by table."""

    deleted: dict[str, int]
    before: datetime


@router.get("/audit")
def list_audit(
    _: Admin, platform: ThePlatform, query: Annotated[AuditQuery, Query()]
) -> Listing[dict[str, Any]]:
    """Who did what, when and why, newest first."""
    page = platform.audit.page(**query.asked())
    return Listing(items=[with_datetimes(row, "time") for row in page.items], next=page.next)


@router.get("/audit/verify")
def verify_audit(_: Admin, platform: ThePlatform) -> dict[str, Any]:
    """Whether every row is what was written; names the first that is changed or missing."""
    return vars(platform.audit.verify())


@router.get("/logs")
def list_logs(
    _: Admin, platform: ThePlatform, query: Annotated[LogQuery, Query()]
) -> Listing[dict[str, Any]]:
    """Requests that were answered, newest first."""
    page = platform.requests.page(**query.asked())
    return Listing(items=[with_datetimes(row, "time") for row in page.items], next=page.next)


@router.get("/metrics/api")
def api_metrics(
    _: KeyHolder, platform: ThePlatform, query: Annotated[MinutesQuery, Query()]
) -> Listing[dict[str, Any]]:
    """Requests by minute, route and status: how many, how long on average and at worst."""
    page = api_minutes(platform.database, **query.asked())
    return Listing(items=[with_datetimes(row, "minute") for row in page.items], next=page.next)


@router.get("/metrics/models")
def model_metrics(
    _: KeyHolder, platform: ThePlatform, query: Annotated[MetricsQuery, Query()]
) -> Listing[dict[str, Any]]:
    """What is known of how good each version is: at training, at the gate, live."""
    page = model_values(platform.database, **query.asked())
    return Listing(items=[with_datetimes(row, "time") for row in page.items], next=page.next)


@router.get("/database/stats")
def database_stats(_: KeyHolder, platform: ThePlatform) -> dict[str, Any]:
    """Rows by table, and the size of it all."""
    return maintenance.database_stats(platform.database)


@router.post("/database/clear")
def clear_database(
    order: ClearRequest, request: Request, caller: Admin, platform: ThePlatform
) -> ClearResult:
    """Delete old rows of the named tables; recorded in the audit log."""
    before = to_epoch(order.before)
    assert before is not None
    maintenance.check_clearable(order.tables)
    platform.audit.append(
        AuditEntry(
            caller.actor,
            "database.clear",
            subject=",".join(order.tables)[:255],
            origin=caller.address,
            reason=order.reason,
            details={"before": order.before.isoformat(), "request_id": request.state.request_id},
        )
    )
    return ClearResult(
        deleted=maintenance.clear(platform.database, order.tables, before), before=order.before
    )
