"""Job functions of retraining and staleness checks; `tidemill.loop.retraining` does the work."""

from __future__ import annotations

from typing import Any

import msgspec

from tidemill.loop.retraining.jobs import RetrainingResult, read_retraining_result
from tidemill.loop.retraining.retraining import JobSteps
from tidemill.loop.training.progress import Progress
from tidemill.platform import Platform
from tidemill.stores.jobs.jobs import Job
from tidemill.worker.job_kinds import (
    JOB_TAG,
    JobReport,
    ReportProgress,
    clean_up,
    load_job_project,
    with_job_tag,
)
from tidemill.worker.training import job_report, run_train


def run_retrain(platform: Platform, job: Job, report: ReportProgress) -> dict[str, Any]:
    """Run `RetrainingService.run` on the job's project."""

    def forward(progress: Progress) -> None:
        report(job_report(progress))

    def enter_promotion() -> None:
        report(JobReport(97.0, "promote", job.progress or {}))

    def train() -> RetrainingResult:
        return read_retraining_result(run_train(platform, job, report))

    def discard_attempt() -> None:
        clean_up(platform, job, report)
        client = platform.tracking
        for version in client.search_model_versions(f"tags.`{JOB_TAG}` = '{job.id}'"):
            client.delete_model_version(version.name, version.version)

    steps = JobSteps(forward, enter_promotion, train, discard_attempt)
    project = with_job_tag(load_job_project(job), job)
    result: dict[str, Any] = msgspec.to_builtins(platform.retraining.run(job, project, steps))
    return result


def run_staleness_check(platform: Platform, job: Job, report: ReportProgress) -> dict[str, Any]:
    """Run a `StalenessCheck` with `params["rows"]` training rows."""
    report(JobReport(20.0, "fit"))
    found = platform.staleness_check.run(load_job_project(job), int(job.params["rows"]))
    result: dict[str, Any] = msgspec.to_builtins(found)
    return result
