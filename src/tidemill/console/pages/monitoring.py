"""Monitoring of one model: drift by feature, the live metric, and the triggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from tidemill.console import monitoring_summary, queries
from tidemill.console.charts import Point
from tidemill.console.page_request import PageRequest
from tidemill.console.responses import redirect, show_page
from tidemill.errors import ConflictError
from tidemill.stores.model_metrics import model_values
from tidemill.stores.monitoring.results import MonitoredModel

SHOWN_FEATURES = 60
SHOWN_CATEGORIES = 8
HISTORY = 60
WHOLE_WINDOW = "window"  # the test name of results on whole windows


def overview(request: PageRequest) -> Response:
    """All models with their last verdicts."""
    served = queries.served(request).value or {}
    registered = queries.models(request)
    names = sorted({m.name for m in registered.value or ()} | set(served))
    rows = [
        {
            "name": name,
            "steps": monitoring_summary.drift_and_decay_status(request, name),
            "watched": monitoring_summary.monitoring_row(request, name),
            "trigger": monitoring_summary.newest_trigger(request, name),
            "predictions": monitoring_summary.prediction_count(request, name),
        }
        for name in names
    ]
    return show_page(request, "monitored.html", {"rows": rows, "registered": registered})


def monitoring(request: PageRequest) -> Response:
    """One model."""
    name, platform = request.path_params["name"], request.context.platform
    watched = monitoring_summary.monitoring_row(request, name)
    verdict: Mapping[str, Any] = (watched.verdict if watched else None) or {}
    windows = platform.monitoring_results.results(
        model=name, test=WHOLE_WINDOW, whole=True, limit=HISTORY
    ).items[::-1]
    report = _report(windows[-1]) if windows else {}
    return show_page(
        request,
        "monitoring.html",
        {
            "name": name,
            "watched": watched,
            "verdict": verdict,
            "steps": monitoring_summary.drift_and_decay_status(request, name),
            "predictions": monitoring_summary.prediction_count(request, name),
            "window": windows[-1] if windows else None,
            "report": report,
            "windows": [Point(w["time"], w["effect"] or 0.0, alarm=w["drifted"]) for w in windows],
            "features": _panels(report),
            "live": _live(request, name, watched),
            "triggers": platform.triggers.page(model=name, limit=20).items,
            "labels": platform.feedback.counts(name),
        },
    )


def check_now(request: PageRequest) -> Response:
    """Check the newest rows now, even if no check is due; counts as a check in the policy."""
    name = request.path_params["name"]
    checked = request.context.platform.watcher.check(name, forced=True)
    message = (
        checked.verdict.get("summary", "")
        if checked.checked
        else "There are not enough rows to check yet."
    )
    return redirect(request, f"/console/models/{name}/monitoring", str(message))


def dismiss(request: PageRequest) -> Response:
    """Dismiss a trigger.

    Raises:
        ConflictError: The trigger is not open.
    """
    triggers = request.context.platform.triggers
    trigger = triggers.get(request.path_params["id"])
    if trigger.state != "open":
        raise ConflictError(f"Trigger {trigger.id} is {trigger.state}.")
    reason = request.form_fields.get("reason", "").strip() or "dismissed in the console"
    evidence = {"dismissed_by": request.user.actor, "dismissed_because": reason[:2_000]}
    triggers.close(trigger.id, "dismissed", evidence)
    return redirect(
        request, f"/console/models/{trigger.model}/monitoring", "The trigger is dismissed."
    )


def _report(window: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (window["details"] or {}).get("report") or {}
    return found


def _panels(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels of a window: predictions, confidence, features; alarms first, then by effect."""
    extra = [report[part] for part in ("output", "confidence") if report.get(part)]
    found = [*extra, *(report.get("features") or ())]
    found.sort(key=lambda feature: not feature["drifted"])
    return [_cut(feature) for feature in found[:SHOWN_FEATURES]]


def _cut(feature: Mapping[str, Any]) -> dict[str, Any]:
    """The feature, with its first few categories only."""
    bars = feature.get("bars") or {}
    if bars.get("labels"):
        names = ("labels", "reference", "window")
        bars = {**bars, **{name: bars[name][:SHOWN_CATEGORIES] for name in names}}
    return {**feature, "bars": bars}


def _live(request: PageRequest, model: str, watched: MonitoredModel | None) -> list[dict[str, Any]]:
    """A curve over time for each measured and estimated metric."""
    verdict: Mapping[str, Any] = (watched.verdict if watched else None) or {}
    curves = []
    for source in ("live", "estimate"):
        rows = model_values(
            request.context.platform.database, model=model, source=source, limit=HISTORY
        ).items[::-1]
        part: Mapping[str, Any] = verdict.get(source) or {}
        for metric in dict.fromkeys(row["metric"] for row in rows):
            own = [row for row in rows if row["metric"] == metric]
            points = [Point(r["time"], r["value"], r["low"], r["high"]) for r in own]
            curves.append(
                {
                    "source": source,
                    "metric": metric,
                    "points": points,
                    "last": own[-1],
                    "reference": part.get("reference"),
                    "summary": part.get("summary"),
                }
            )
    return curves
