"""What watching found, and asking it to look or to retrain."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from tidemill.api.access import KeyHolder, Trainer
from tidemill.api.schemas import Filter, Listing, PageQuery, Since, to_datetime, with_datetimes
from tidemill.api.state import platform_of
from tidemill.errors import ConflictError
from tidemill.platform import Platform
from tidemill.stores.model_metrics import model_values
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger

router = APIRouter(prefix="/monitoring", tags=["monitoring"])

ThePlatform = Annotated[Platform, Depends(platform_of)]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class DriftQuery(PageQuery):
    """Which results of checks."""

    model: Filter = None
    version: Filter = None
    feature: Filter = None
    test: Filter = None
    drifted: bool | None = None
    whole: bool | None = Field(
        default=None, description="true: whole windows only; false: features only."
    )
    since: Since = None


class PerformanceQuery(PageQuery):
    """Which live metrics."""

    model: Filter = None
    version: Filter = None
    metric: Filter = None
    source: str = Field(
        default="live", max_length=32, description="live (labels), or estimate (confidences)."
    )
    since: Since = None


class TriggerQuery(PageQuery):
    """Which triggers."""

    model: Filter = None
    cause: Filter = None
    state: Filter = None
    since: Since = None


class ModelHealth(BaseModel):
    """What is known of one model."""

    model: str
    version: str
    state: str = Field(
        description="unknown, steady, data moved, model degraded, or data moved and model degraded"
    )
    basis: str = Field(description="What told it: labels, confidences, or nothing")
    summary: str
    why: str = Field(description="What the policy made of it")
    alarms: dict[str, str] = Field(description="Alarms that are not over, with their reasons")
    drift: dict[str, Any] | None = Field(description="The last check of the data")
    live: dict[str, Any] | None = Field(description="The last check of labelled rows")
    estimate: dict[str, Any] | None = Field(description="Accuracy as confidences let expect it")
    looked: datetime = Field(description="When somebody last looked")
    checked: datetime | None = Field(description="When a check was last due")
    open_triggers: int


class CheckRequest(BaseModel):
    """Which model to look at."""

    model: Name


class TriggerRequest(BaseModel):
    """A retraining asked for by hand."""

    model: Name
    reason: Annotated[str, Field(min_length=1, max_length=2_000, description="Why.")]


class DismissRequest(BaseModel):
    """Why nothing follows from a trigger."""

    reason: Annotated[str, Field(min_length=1, max_length=2_000, description="Why.")]


class TriggerView(BaseModel):
    """One recorded decision."""

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
def monitoring_health(_: KeyHolder, platform: ThePlatform, model: Filter = None) -> dict[str, Any]:
    """How each watched model is: its state, what told it, and what the policy made of it."""
    opened = platform.triggers.opened(model)
    found = [
        _view_health(row, sum(t.model == row.model for t in opened))
        for row in platform.monitoring_results.all()
        if model is None or row.model == model
    ]
    return {"models": found}


@router.get("/drift")
def list_drift(
    _: KeyHolder, platform: ThePlatform, query: Annotated[DriftQuery, Query()]
) -> Listing[dict[str, Any]]:
    """What checks found, newest first: a row for each feature, and for each whole window."""
    page = platform.monitoring_results.results(**query.asked())
    times = ("time", "window_start", "window_end")
    return Listing(items=[with_datetimes(row, *times) for row in page.items], next=page.next)


@router.get("/performance")
def list_performance(
    _: KeyHolder, platform: ThePlatform, query: Annotated[PerformanceQuery, Query()]
) -> Listing[dict[str, Any]]:
    """The live metric of each window with its interval, newest first."""
    page = model_values(platform.database, **query.asked())
    return Listing(items=[with_datetimes(row, "time") for row in page.items], next=page.next)


@router.get("/report", response_class=HTMLResponse)
def monitoring_report(
    _: KeyHolder,
    platform: ThePlatform,
    model: Annotated[str, Query(max_length=255)],
    window: Annotated[
        int | None, Query(description="The id of a whole window in /monitoring/drift.")
    ] = None,
) -> HTMLResponse:
    """One self-contained page: what moved, how good the model is, what was decided and why."""
    from tidemill.loop.monitoring.report import (
        make_report,  # matplotlib: a second that no start should pay
    )

    page = make_report(platform.monitoring_results, platform.triggers, model, window)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


@router.get("/triggers")
def list_triggers(
    _: KeyHolder, platform: ThePlatform, query: Annotated[TriggerQuery, Query()]
) -> Listing[TriggerView]:
    """Recorded decisions that a model needs retraining or a look, newest first."""
    page = platform.triggers.page(**query.asked())
    return Listing(items=[_view(trigger) for trigger in page.items], next=page.next)


@router.get("/triggers/{trigger_id}")
def get_trigger(trigger_id: str, _: KeyHolder, platform: ThePlatform) -> TriggerView:
    """One trigger with its evidence."""
    return _view(platform.triggers.get(trigger_id))


@router.post("/check")
def check_now(order: CheckRequest, _: Trainer, platform: ThePlatform) -> dict[str, Any]:
    """Check a model's newest rows now, due or not; the policy counts it like any other check."""
    tick = platform.watcher.check(order.model, forced=True)
    return {
        "model": tick.model,
        "version": tick.version,
        "checked_now": tick.checked,
        "opened": [trigger.id for trigger in tick.opened],
        **_readable(tick.verdict),
    }


@router.post("/triggers", status_code=202)
def trigger_by_hand(order: TriggerRequest, caller: Trainer, platform: ThePlatform) -> TriggerView:
    """Retrain a model by hand; 409 while it is being retrained."""
    watched = platform.monitoring_results.get(order.model)
    new = NewTrigger(
        order.model,
        "manual",
        order.reason,
        version=None if watched is None else watched.version,
        actor=caller.actor,
    )
    return _view(platform.watcher.trigger_actions.ask(new))


@router.post("/triggers/{trigger_id}/dismiss")
def dismiss_trigger(
    trigger_id: str, order: DismissRequest, caller: Trainer, platform: ThePlatform
) -> TriggerView:
    """Close a trigger from which nothing is to follow; one that is being retrained for stays."""
    trigger = platform.triggers.get(trigger_id)
    if trigger.state != "open":
        raise ConflictError(
            f"Trigger {trigger_id} is {trigger.state}.",
            remedy="Cancel its job to end a retraining." if trigger.closed is None else None,
        )
    evidence = {"dismissed_by": caller.actor, "dismissed_because": order.reason}
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
    """The verdict with its times as moments."""
    times = ("time", "checked", "window_start", "window_end")
    shown = with_datetimes(dict(verdict), *times)
    for part in ("drift", "live", "estimate"):
        if shown.get(part) is not None:
            shown[part] = with_datetimes(dict(shown[part]), *times)
    return shown
