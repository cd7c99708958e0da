"""A training whose trials are separate jobs, distributed over all workers.

The training's job submits them and waits without occupying a worker; when the last trial has ended
it resumes and registers the best. Every step finds the results of an earlier attempt.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from tidemill.errors import ProjectError
from tidemill.loop.training.progress import Progress
from tidemill.loop.training.sweep import (
    OpenedSweep,
    SweepStore,
    TrialTask,
    TrialTaskResult,
    close_sweep,
    count_trials,
    open_sweep,
    run_task,
)
from tidemill.metrics import METRICS
from tidemill.platform import Platform
from tidemill.settings import sqlite_url
from tidemill.steps.search.pruning import Pruning
from tidemill.steps.search.search import SearchOptions
from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.mlflow.tracking import Tracking
from tidemill.worker.job_kinds import (
    JOB_TAG,
    JobReport,
    ReportProgress,
    WaitForChildren,
    clean_up,
    load_job_project,
    with_job_tag,
)

KIND = "trial"


def fans_out(platform: Platform, job: Job) -> bool:
    """Whether the job's trials run as separate jobs."""
    fan_out = platform.settings.fan_out
    if fan_out == "off" or (fan_out == "auto" and platform.database.dialect != "postgresql"):
        return False
    return count_trials(load_job_project(job), search_options(job)) > 1


def run_sweep(platform: Platform, job: Job, report: ReportProgress) -> None:
    """Submit the trials; if all have ended, register the best.

    Raises:
        WaitForChildren: Some trials have not ended, so the job has to wait for them.
    """
    project, store = with_job_tag(load_job_project(job), job), _store(platform)
    opened = open_sweep(project, store, (JOB_TAG, job.id), search_options(job))
    parts = [_trial_job(platform, job, opened, task) for task in opened.tasks]
    if not all(part.done for part in parts):
        for part in parts:
            if part.sent is None and not part.done and platform.notifier.send(part.id):
                platform.jobs.mark_sent([part.id])
        raise WaitForChildren(f"trials: {len(parts)}")

    def forward(progress: Progress) -> None:
        report(JobReport(max(85.0, progress.percent), progress.stage, vars(progress)))

    results = [_result(part, task) for part, task in zip(parts, opened.tasks, strict=True)]
    close_sweep(project, store.tracking, opened.run_id, results, on_progress=forward)


def run_trial(platform: Platform, job: Job, report: ReportProgress) -> dict[str, Any]:
    """Run one trial and return its result for the training's job.

    Raises:
        ProjectError: The model's own code failed.
    """
    if job.attempts > 1:
        clean_up(platform, job, report)
    report(JobReport(5.0, "fit", {"candidate": job.params["task"]["candidate"]}))
    result = run_task(
        with_job_tag(load_job_project(job), job),
        _store(platform),
        job.params["sweep"],
        TrialTask(**job.params["task"]),
        overrides=job.params["overrides"],
        owner=job.id,
    )
    if result.error is not None:
        raise ProjectError(result.error)
    _report_to_training(platform, job, result)
    return {**asdict(result), "metrics": dict(result.metrics)}


def tracking_of(platform: Platform) -> Tracking:
    """The platform's MLflow tracking."""
    settings = platform.settings
    return Tracking(
        settings.mlflow_uri, settings.registry_uri, artifact_root=settings.artifact_root
    )


def search_options(job: Job) -> SearchOptions:
    """The options that a training was submitted with."""
    return SearchOptions(
        overrides=job.params.get("overrides") or {},
        trials=job.params.get("trials"),
        only=job.params.get("only") or (),
    )


def _trial_job(platform: Platform, job: Job, opened: OpenedSweep, task: TrialTask) -> Job:
    """Submit the job of one trial, or return the one that an earlier attempt submitted."""
    new = NewJob(
        kind=KIND,
        model=job.model,
        project=job.project,
        params={
            "sweep": opened.run_id,
            "metric": opened.metric,
            "task": asdict(task),
            "overrides": job.params.get("overrides") or {},
        },
        time_limit=job.time_limit,
        memory_limit=job.memory_limit,
        idempotency_key=f"{job.id}:{task.candidate}:{task.number}",
        key_id=job.key_id,
        request_id=job.request_id,
        parent=job.id,
        traceparent=job.traceparent,
    )
    return platform.jobs.submit(new)[0]


def _result(part: Job, task: TrialTask) -> TrialTaskResult:
    if part.state == "succeeded" and part.result is not None:
        pruned = part.result.get("pruned")
        return TrialTaskResult(**{**part.result, "pruned": pruned and Pruning(**pruned)})
    error = (part.error or {}).get("detail") or part.state
    return TrialTaskResult(task.candidate, task.number, task.of, error=str(error))


def _report_to_training(platform: Platform, job: Job, result: TrialTaskResult) -> None:
    """Report to the training's job how many trials have ended, and the best metric so far."""
    assert job.parent is not None, "a trial has a parent job"
    parts = platform.jobs.children(job.parent)
    values = [part.result["value"] for part in parts if part.result] + [result.value]
    known = [value for value in values if value is not None]
    done = sum(part.done for part in parts) + 1
    metric = job.params["metric"]
    best = (max if METRICS[metric].higher_is_better else min)(known) if known else None
    progress = {"trial": done, "trials": len(parts), "metric": metric, "best": best}
    platform.jobs.show_children(job.parent, 5 + 80 * done / len(parts), progress)


def _store(platform: Platform) -> SweepStore:
    """MLflow, and Optuna's database: the platform's PostgreSQL, or a separate SQLite file."""
    studies = sqlite_url(platform.settings.home / "optuna.db")
    if urlsplit(platform.settings.database_uri).scheme.startswith("postgres"):
        studies = platform.database.engine.url.render_as_string(hide_password=False)
    return SweepStore(tracking_of(platform), studies)
