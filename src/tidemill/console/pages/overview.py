"""The first page: every model with the state of each step of its loop."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidemill.console import monitoring_summary, queries
from tidemill.console.monitoring_summary import StepStatus
from tidemill.console.page_request import PageRequest
from tidemill.console.responses import show_page
from tidemill.errors import NotFoundError
from tidemill.loop.retraining.jobs import read_retraining_result
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.mlflow.versions import ModelVersion
from tidemill.stores.model_metrics import model_values
from tidemill.stores.monitoring.triggers import Trigger

TRAININGS = ("train", "retrain")


def overview(request: PageRequest) -> Response:
    """All models, and the data plane's traffic."""
    registered, served = queries.models(request), queries.served(request)
    names = sorted({m.name for m in registered.value or ()} | set(served.value or ()))
    return show_page(
        request,
        "overview.html",
        {
            "registered": registered,
            "served": served,
            "traffic": queries.traffic(request),
            "models": [model_loop(request, name) for name in names],
            "trainable": sorted(set(queries.projects(request).value or ()) - set(names)),
        },
    )


def model_loop(request: PageRequest, name: str) -> dict[str, Any]:
    """One model: its steps, figures and last decision."""
    platform = request.context.platform
    versions = _versions(request, name)
    champion = queries.champion_of(versions)
    serving = (queries.served(request).value or {}).get(name)
    jobs = [job for job in platform.jobs.page(model=name, limit=20).items if job.kind in TRAININGS]
    steps = [
        _trained(name, versions, jobs),
        _gated(name, champion, versions),
        _serving(name, champion, serving),
        *monitoring_summary.drift_and_decay_status(request, name),
        _retraining(request, name, jobs),
    ]
    traffic = queries.traffic(request).value
    return {
        "name": name,
        "steps": steps,
        "state": worst(steps),
        "rate": traffic.rows.get(name) if traffic else None,
        "live": live_metric(request, name, champion),
        "timing": monitoring_summary.timing(request, name),
        "decision": queries.last_decision(platform.audit, name),
        "task": serving["task"] if serving else None,
    }


def worst(steps: list[StepStatus]) -> str:
    """The worst mark of the steps."""
    for mark in ("bad", "watch", "busy", "good"):
        if any(step.mark == mark for step in steps):
            return mark
    return "idle"


def live_metric(
    request: PageRequest, name: str, champion: ModelVersion | None
) -> dict[str, Any] | None:
    """The champion's metric: live if measured, otherwise estimated, otherwise held-out."""
    if champion is None:
        return None
    database = request.context.platform.database
    for source in ("live", "estimate"):
        found = model_values(
            database, model=name, version=champion.number, source=source, limit=1
        ).items
        if found:
            return {**found[0], "source": source}
    metric = next((m for m in queries.shown_metrics([champion], 1)), None)
    if metric is None:
        return None
    value = champion.metrics[metric]
    return {"metric": metric, "value": value, "low": None, "high": None, "source": "held-out"}


def _versions(request: PageRequest, name: str) -> list[ModelVersion] | None:
    try:
        return queries.versions(request, name).value
    except NotFoundError:  # served, but no longer registered
        return []


def _trained(name: str, versions: list[ModelVersion] | None, jobs: list[Job]) -> StepStatus:
    running = next((job for job in jobs if not job.done and job.kind == "train"), None)
    if running is not None:
        return StepStatus("Trained", "busy", f"training, {running.percent:.0f}%", _job(running))
    if versions is None:
        return StepStatus("Trained", "idle", "waiting for MLflow")
    if not versions:
        return StepStatus("Trained", "idle", "no version yet", f"/console/train?model={name}")
    if jobs and jobs[0].state == "failed" and (jobs[0].finished or 0) > versions[0].created:
        return StepStatus("Trained", "watch", "the last training failed", _job(jobs[0]))
    newest = versions[0]
    words = f"v{newest.number} {newest.candidate or ''}".strip()
    return StepStatus("Trained", "good", words, _model(name))


def _gated(
    name: str, champion: ModelVersion | None, versions: list[ModelVersion] | None
) -> StepStatus:
    if versions is None:
        return StepStatus("Gated", "idle", "waiting for MLflow")
    if champion is None:
        return StepStatus("Gated", "watch" if versions else "idle", "no champion yet", _model(name))
    verdict = champion.tags.get("tidemill.gate.verdict")
    words = {"passed": "through the gate", "overridden": "by override", "failed": "by override"}
    how = words.get(verdict or "", "set manually")
    mark = "good" if verdict == "passed" else "watch"
    return StepStatus("Gated", mark, f"v{champion.number} {how}", _model(name))


def _serving(
    name: str, champion: ModelVersion | None, serving: dict[str, Any] | None
) -> StepStatus:
    if serving is None:
        mark, words = ("bad", "not served") if champion else ("idle", "nothing to serve")
        return StepStatus("Serving", mark, words)
    number = serving["version"]
    if champion is not None and number != champion.number:
        return StepStatus(
            "Serving", "watch", f"v{number}, champion is v{champion.number}", _try(name)
        )
    return StepStatus("Serving", "good", f"v{number} as {serving['runtime']}", _try(name))


def _retraining(request: PageRequest, name: str, jobs: list[Job]) -> StepStatus:
    newest = next((job for job in jobs if job.kind == "retrain"), None)
    if newest is None:
        trigger = monitoring_summary.newest_trigger(request, name)
        words = "not needed yet" if trigger is None else f"{trigger.cause}: {_state(trigger)}"
        return StepStatus(
            "Retraining", "idle" if trigger is None else "watch", words, _watched(name)
        )
    if not newest.done:
        return StepStatus("Retraining", "busy", f"{newest.percent:.0f}%", _job(newest))
    if newest.state == "failed":
        return StepStatus("Retraining", "bad", "the last retraining failed", _job(newest))
    return StepStatus("Retraining", *_outcome(request, newest), _job(newest))


def _state(trigger: Trigger) -> str:
    return trigger.state if trigger.retrains or trigger.closed else "reported"


def _outcome(request: PageRequest, job: Job) -> tuple[str, str]:
    """The outcome of a retraining, which a contest may decide long after the job ended."""
    result = read_retraining_result(job.result)
    if result.postponed is not None:
        return "watch", "waiting for more labels"
    contest = request.context.platform.contests.by_job(job.id)
    if contest is None:
        promoted = result.gate is not None and result.gate.promoted
        return "good", "new champion" if promoted else "kept the champion"
    if contest.state == "open":
        return "busy", "contest in progress"
    if contest.resulting_champion == contest.winner:
        return "good", "new champion"
    return "good", "kept the champion" if contest.winner is None else "former champion is back"


def _model(name: str) -> str:
    return f"/console/models/{name}"


def _try(name: str) -> str:
    return f"/console/models/{name}/try"


def _watched(name: str) -> str:
    return f"/console/models/{name}/monitoring"


def _job(job: Job) -> str:
    return f"/console/jobs/{job.id}"
