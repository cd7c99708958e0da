"""Monitoring results and triggers; check or retrain a model now."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from tidemill.api.dependencies import KeyHolder, PlatformDep, Trainer
from tidemill.api.schemas import (
    Filter,
    Listing,
    Name,
    PageQuery,
    PathText,
    RowId,
    Since,
    to_datetime,
    with_datetimes,
)
from tidemill.errors import ConflictError
from tidemill.stores.model_metrics import model_values
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger

router = APIRouter(prefix="/monitoring", tags=["monitoring"])


class DriftQuery(PageQuery):
    """Filters of drift results."""

    model: Filter = None
    version: Filter = None
    feature: Filter = None
    test: Filter = None
    drifted: bool | None = None
    whole: bool | None = Field(
        default=None, description="true: only whole windows; false: only features."
    )
    since: Since = None


class PerformanceQuery(PageQuery):
    """Filters of live metrics."""

    model: Filter = None
    version: Filter = None
    metric: Filter = None
    source: str = Field(
        default="live",
        max_length=32,
        description="live (from labels), or estimate (from confidences).",
    )
    since: Since = None


class TriggerQuery(PageQuery):
    """Filters of triggers."""

    model: Filter = None
    cause: Filter = None
    state: Filter = None
    since: Since = None


class ModelHealth(BaseModel):
    """The monitoring state of one model."""

    model: str
    version: str
    state: str = Field(
        description="unknown, steady, data moved, model degraded, or data moved and model degraded"
    )
    basis: str = Field(description="The evidence: labels, confidences, or nothing")
    summary: str
    why: str = Field(description="What the policy decided, and why")
    alarms: dict[str, str] = Field(description="Active alarms with their reasons")
    drift: dict[str, Any] | None = Field(description="The last drift check")
    live: dict[str, Any] | None = Field(description="The last check of the live metric")
    estimate: dict[str, Any] | None = Field(description="Accuracy estimated from confidences")
    looked: datetime = Field(description="When the model was last looked at")
    checked: datetime | None = Field(description="When a check last ran")
    open_triggers: int


class CheckRequest(BaseModel):
    """The model to check."""

    model: Name


class TriggerRequest(BaseModel):
    """A manual retraining."""

    model: Name
    reason: Annotated[
        str, Field(min_length=1, max_length=2_000, description="Reason, for the record.")
    ]


class DismissRequest(BaseModel):
    """Why a trigger is dismissed."""

    reason: Annotated[
        str, Field(min_length=1, max_length=2_000, description="Reason, for the record.")
    ]


class TriggerView(BaseModel):
    """One trigger: a recorded decision that a model needs retraining or a look."""

    id: str
    time: datetime
    model: str
    version: str | None
    cause: str = Field(description="drift, decay, estimate, schedule, labels or manual")
    state: str = Field(
        description="open, retraining, promoted, kept champion, failed, dismissed or cleared"
    )
    retrains: bool
    actor: str | None
    reason: str | None
    evidence: dict[str, Any] | None
    job_id: str | None
    closed: datetime | None


@router.get("/health")
def monitoring_health(_: KeyHolder, platform: PlatformDep, model: Filter = None) -> dict[str, Any]:
    """Get the state of each monitored model: drift, decay, the evidence, the policy's decision."""
    opened = platform.triggers.opened(model)
    found = [
        _view_health(row, sum(t.model == row.model for t in opened))
        for row in platform.monitoring_results.all()
        if model is None or row.model == model
    ]
    return {"models": found}


@router.get("/drift")
def list_drift(
    _: KeyHolder, platform: PlatformDep, query: Annotated[DriftQuery, Query()]
) -> Listing[dict[str, Any]]:
    """List drift results, newest first: one row per feature, and one per window."""
    page = platform.monitoring_results.results(**query.filters())
    times = ("time", "window_start", "window_end")
    return Listing(items=[with_datetimes(row, *times) for row in page.items], next=page.next)


@router.get("/performance")
def list_performance(
    _: KeyHolder, platform: PlatformDep, query: Annotated[PerformanceQuery, Query()]
) -> Listing[dict[str, Any]]:
    """List the live metric of each window with its confidence interval, newest first."""
    page = model_values(platform.database, **query.filters())
    return Listing(items=[with_datetimes(row, "time") for row in page.items], next=page.next)


@router.get("/report", response_class=HTMLResponse)
def monitoring_report(
    _: KeyHolder,
    platform: PlatformDep,
    model: Annotated[str, Query(max_length=255)],
    window: Annotated[
        RowId | None, Query(description="The id of a window in /monitoring/drift.")
    ] = None,
) -> HTMLResponse:
    """Get a model's monitoring report as one self-contained HTML page."""
    from tidemill.loop.monitoring.report import make_report  # matplotlib: a second at each start

    page = make_report(platform.monitoring_results, platform.triggers, model, window)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


@router.get("/triggers")
def list_triggers(
    _: KeyHolder, platform: PlatformDep, query: Annotated[TriggerQuery, Query()]
) -> Listing[TriggerView]:
    """List triggers, newest first."""
    page = platform.triggers.page(**query.filters())
    return Listing(items=[_view(trigger) for trigger in page.items], next=page.next)


@router.get("/triggers/{trigger_id}")
def get_trigger(trigger_id: PathText, _: KeyHolder, platform: PlatformDep) -> TriggerView:
    """Get one trigger with its evidence."""
    return _view(platform.triggers.get(trigger_id))


@router.post("/check")
def check_now(body: CheckRequest, _: Trainer, platform: PlatformDep) -> dict[str, Any]:
    """Check a model's newest rows now, even if no check is due; counts as a check in the policy."""
    tick = platform.watcher.check(body.model, forced=True)
    return {
        "model": tick.model,
        "version": tick.version,
        "checked_now": tick.checked,
        "opened": [trigger.id for trigger in tick.opened],
        **_readable(tick.verdict),
    }


@router.post("/triggers", status_code=202)
def open_trigger(body: TriggerRequest, caller: Trainer, platform: PlatformDep) -> TriggerView:
    """Open a manual trigger, which retrains a model; 409 while it is being retrained."""
    watched = platform.monitoring_results.get(body.model)
    new = NewTrigger(
        body.model,
        "manual",
        body.reason,
        version=None if watched is None else watched.version,
        actor=caller.actor,
    )
    return _view(platform.watcher.trigger_actions.request(new))


@router.post("/triggers/{trigger_id}/dismiss")
def dismiss_trigger(
    trigger_id: PathText, body: DismissRequest, caller: Trainer, platform: PlatformDep
) -> TriggerView:
    """Dismiss an open trigger; 409 if it is being retrained for, or closed."""
    trigger = platform.triggers.get(trigger_id)
    if trigger.state != "open":
        raise ConflictError(
            f"Trigger {trigger_id} is {trigger.state}.",
            remedy="Cancel its job to end a retraining." if trigger.closed is None else None,
        )
    evidence = {"dismissed_by": caller.actor, "dismissed_because": body.reason}
    return _view(platform.triggers.close(trigger_id, "dismissed", evidence))


def _view(trigger: Trigger) -> TriggerView:
    fields = {name: getattr(trigger, name) for name in TriggerView.model_fields}
    fields["evidence"] = None if trigger.evidence is None else dict(trigger.evidence)
    fields["time"] = to_datetime(trigger.time)
    fields["closed"] = None if trigger.closed is None else to_datetime(trigger.closed)
    return TriggerView(**fields)


def _view_health(row: Any, triggers: int) -> ModelHealth:
    verdict = _readable(row.verdict or {})
    return ModelHealth(
        model=row.model,
        version=row.version,
        state=verdict.get("state", "unknown"),
        basis=verdict.get("basis", ""),
        summary=verdict.get("summary", ""),
        why=verdict.get("why", ""),
        alarms=verdict.get("alarms", {}),
        drift=verdict.get("drift"),
        live=verdict.get("live"),
        estimate=verdict.get("estimate"),
        looked=to_datetime(row.updated),
        checked=verdict.get("checked"),
        open_triggers=triggers,
    )


def _readable(verdict: Any) -> dict[str, Any]:
    """The verdict with its times converted."""
    times = ("time", "checked", "window_start", "window_end")
    shown = with_datetimes(dict(verdict), *times)
    for part in ("drift", "live", "estimate"):
        if shown.get(part) is not None:
            shown[part] = with_datetimes(dict(shown[part]), *times)
    return shown
