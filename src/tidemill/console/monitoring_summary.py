"""A model's monitoring results in short, from Tidemill's own database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from tidemill.console.page_request import PageRequest
from tidemill.stores.database.tables import predictions
from tidemill.stores.monitoring.results import MonitoredModel
from tidemill.stores.monitoring.triggers import Trigger

TIMING_SECONDS = 900.0
TIMING_ROWS = 2_000


@dataclass(frozen=True)
class StepStatus:
    """The state of one step of a model's loop. `mark` is a key of `render.MARKS`."""

    name: str
    mark: str
    text: str
    href: str | None = None


@dataclass(frozen=True)
class Timing:
    """The latency of a model's recent predictions, in seconds."""

    p50: float
    p99: float
    rows: int


def newest_trigger(request: PageRequest, model: str) -> Trigger | None:
    """The model's newest trigger, whether it retrains or only reports."""
    found = request.context.platform.triggers.page(model=model, limit=1).items
    return found[0] if found else None


def monitoring_row(request: PageRequest, model: str) -> MonitoredModel | None:
    """The model's last monitoring result; None if it was never checked."""
    return request.context.platform.monitoring_results.get(model)


def drift_and_decay_status(request: PageRequest, model: str) -> tuple[StepStatus, StepStatus]:
    """The steps of drift and of decay."""
    row = monitoring_row(request, model)
    url = f"/console/models/{model}/monitoring"
    if row is None:
        counted = prediction_count(request, model)
        words = f"{counted} predictions, none checked yet" if counted else "no predictions yet"
        return StepStatus("Drift", "idle", words, url), StepStatus(
            "Decay", "idle", "no check yet", url
        )
    verdict: Mapping[str, Any] = row.verdict or {}
    return _drift(verdict, url), _decay(verdict, url)


def _drift(verdict: Mapping[str, Any], url: str) -> StepStatus:
    drift: Mapping[str, Any] | None = verdict.get("drift")
    if drift is None or not drift.get("enough", True):
        return StepStatus("Drift", "idle", "too few rows", url)
    names = drift.get("drifted") or []
    if not drift.get("moved"):
        return StepStatus("Drift", "good", "no drift", url)
    words = f"{names[0]} moved" if len(names) == 1 else f"{len(names)} features moved"
    return StepStatus("Drift", "bad", words if names else "the joint distribution moved", url)


def _decay(verdict: Mapping[str, Any], url: str) -> StepStatus:
    live: Mapping[str, Any] | None = verdict.get("live")
    alarmed = bool({"decay", "estimate"} & set(verdict.get("alarms") or ()))
    if live is not None and live.get("enough"):
        if live.get("hurt"):
            return StepStatus("Decay", "bad", "degraded, by its labels", url)
        return StepStatus("Decay", "watch" if alarmed else "good", "no decay, by its labels", url)
    estimate: Mapping[str, Any] | None = verdict.get("estimate")
    if estimate is not None:
        hurt = estimate.get("hurt") or alarmed
        words = "degraded, by estimate" if hurt else "no decay, by estimate"
        return StepStatus("Decay", "watch" if hurt else "good", words, url)
    return StepStatus("Decay", "idle", "no labels yet", url)


def prediction_count(request: PageRequest, model: str) -> int:
    """The number of stored predictions of a model, at most ten seconds old."""
    query = select(func.count().label("n")).where(predictions.c.model == model)
    database = request.context.platform.database
    read = lambda: int(database.rows(query)[0]["n"])  # noqa: E731
    return request.context.cache.get(("count", model), read, fresh=10.0).value or 0


def timing(request: PageRequest, model: str) -> Timing | None:
    """The p50 and p99 latency of the newest predictions of the last 15 minutes."""
    return request.context.cache.get(
        ("timing", model), lambda: _timing(request, model), fresh=5.0
    ).value


def _timing(request: PageRequest, model: str) -> Timing | None:
    database = request.context.platform.database
    table = predictions.c
    query = (
        select(table.milliseconds)
        .where(table.model == model, table.time >= database.now() - TIMING_SECONDS)
        .where(table.milliseconds.is_not(None))
        .order_by(table.time.desc())
        .limit(TIMING_ROWS)
    )
    took = sorted(row["milliseconds"] / 1000 for row in database.rows(query))
    if not took:
        return None
    return Timing(took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)], len(took))
