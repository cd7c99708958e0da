"""Training as a job: it registers one version, even if its worker dies and the job is retried.

The runs and the version of a job are tagged with its id, so that a later attempt finds the results
of an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.loop.training.train import Progress, train
from tidemill.platform import Platform
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.model_metrics import record_metrics
from tidemill.worker.job_kinds import (
    JOB_TAG,
    JobReport,
    ReportProgress,
    clean_up,
    load_job_project,
    with_job_tag,
)
from tidemill.worker.sweep import fans_out, run_sweep, search_options, tracking_of


def run_train(platform: Platform, job: Job, report: ReportProgress) -> dict[str, Any]:
    """Train the project's candidates and register the best; only once, even if it is retried."""
    if job.attempts > 1:
        registered = _registered_version(platform, job)
        if registered is not None:
            return registered
    if fans_out(platform, job):
        run_sweep(platform, job, report)
    else:
        clean_up(platform, job, report)
        _train(platform, job, report)
    registered = _registered_version(platform, job)
    assert registered is not None, "a successful training registers a version"
    record_metrics(
        platform.database,
        registered["model"],
        registered["version"],
        registered["metrics"],
        source="training",
        run_id=registered["run_id"],
    )
    return registered


def _train(platform: Platform, job: Job, report: ReportProgress) -> None:
    def forward(progress: Progress) -> None:
        report(job_report(progress))

    project = with_job_tag(load_job_project(job), job)
    train(project, tracking_of(platform), search_options(job), on_progress=forward)


def _registered_version(platform: Platform, job: Job) -> dict[str, Any] | None:
    """The version that the job registered; None if it has not.

    Two attempts can both register a version only if the first was suspended (a paused machine) just
    before registering and resumed after the second. The later version is then deleted.
    """
    client = platform.tracking
    found = client.search_model_versions(f"tags.`{JOB_TAG}` = '{job.id}'")
    if not found:
        return None
    version, *extra = sorted(found, key=lambda each: int(each.version))
    for surplus in extra:
        client.delete_model_version(surplus.name, surplus.version)
    run = client.get_run(version.run_id)
    return {
        "model": version.name,
        "version": str(version.version),
        "run_id": version.run_id,
        "candidate": version.tags.get("tidemill.candidate"),
        "metrics": dict(run.data.metrics),
    }


def job_report(progress: Progress) -> JobReport:
    """Convert a training's progress to a job's."""
    rest: Mapping[str, Any] = {
        name: value
        for name, value in vars(progress).items()
        if name not in ("percent", "stage") and value is not None
    }
    return JobReport(progress.percent, progress.stage, rest)
