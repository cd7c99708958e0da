"""Training as a job: done once, however often its worker dies.

The runs and the version of a job carry its id as a tag, so that another attempt finds what an
earlier one has brought about.
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
    """Train the project's candidates and register the best, once however often it is tried."""
    if job.attempts > 1:
        earlier = _settled(platform, job)
        if earlier is not None:
            return earlier
    if fans_out(platform, job):
        run_sweep(platform, job, report)
    else:
        clean_up(platform, job, report)
        _train(platform, job, report)
    settled = _settled(platform, job)
    assert settled is not None, "a training that ends well has registered a version"
    record_metrics(
        platform.database,
        settled["model"],
        settled["version"],
        settled["metrics"],
        source="training",
        run_id=settled["run_id"],
    )
    return settled


def _train(platform: Platform, job: Job, report: ReportProgress) -> None:
    def forward(progress: Progress) -> None:
        report(job_report(progress))

    project = with_job_tag(load_job_project(job), job)
    train(project, tracking_of(platform), search_options(job), on_progress=forward)


def _settled(platform: Platform, job: Job) -> dict[str, Any] | None:
    """The one version that the job registered, if it did.

    Two attempts can both have registered one only when the first was stopped as a whole (a paused
    machine) just before and woke up after the second: the later version is taken away.
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
    """A training's progress as a job's."""
    rest: Mapping[str, Any] = {
        name: value
        for name, value in vars(progress).items()
        if name not in ("percent", "stage") and value is not None
    }
    return JobReport(progress.percent, progress.stage, rest)
