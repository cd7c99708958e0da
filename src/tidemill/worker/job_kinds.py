"""The kinds of jobs, and what the function behind each kind takes and returns.

A job function takes the platform, the job and a callback for progress, and returns the job's
result. It may run again after its worker died at any point, so it first looks for what an earlier
attempt has already done.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tidemill.errors import RequestError
from tidemill.platform import Platform
from tidemill.project import Project, load_project
from tidemill.stores.jobs.jobs import Job

JOB_TAG = "tidemill.job_id"
PROBE_STEP_SECONDS = 0.1

#: The function of each kind; its module is imported only in the process that runs it.
JOB_KINDS = {
    "train": "tidemill.worker.training:run_train",
    "retrain": "tidemill.worker.retraining:run_retrain",
    "staleness_check": "tidemill.worker.retraining:run_staleness_check",
    "spar": "tidemill.worker.retraining:run_staleness_check",  # the former name, of older rows
    "probe": "tidemill.worker.job_kinds:run_probe",
    "trial": "tidemill.worker.sweep:run_trial",
    "clean_up": "tidemill.worker.job_kinds:clean_up",
}


@dataclass(frozen=True)
class JobReport:
    """A job's progress: `percent` from 0 to 100, and the name of its current stage."""

    percent: float
    stage: str
    progress: Mapping[str, Any] = field(default_factory=dict)


class WaitForChildren(Exception):  # noqa: N818
    """Raised by a job function whose child jobs have to end first; the message is the stage."""


ReportProgress = Callable[[JobReport], None]
JobFunction = Callable[[Platform, Job, ReportProgress], dict[str, Any]]


def find_job_function(kind: str) -> JobFunction:
    """Return the function that runs jobs of a kind.

    Raises:
        RequestError: There is no such kind.
    """
    if kind not in JOB_KINDS:
        raise RequestError(
            f"This worker cannot run jobs of kind '{kind}'.",
            field="kind",
            expected=f"one of {', '.join(JOB_KINDS)}",
        )
    module, _, name = JOB_KINDS[kind].partition(":")
    function: JobFunction = getattr(importlib.import_module(module), name)
    return function


def load_job_project(job: Job) -> Project:
    """Load the project that the job trains."""
    assert job.project is not None, "a training job names its project"
    return load_project(job.project)


def with_job_tag(project: Project, job: Job) -> Project:
    """Return the project with a tag that puts the job's id on its runs and its version."""
    return replace(project, tags={**project.tags, JOB_TAG: job.id})


def run_probe(_: Platform, job: Job, report: ReportProgress) -> dict[str, Any]:
    """Wait for `params["seconds"]`: tests that jobs arrive and run, and how fast."""
    seconds = float(job.params.get("seconds", 0.0))
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        report(JobReport(100 * passed / seconds, "probe"))
        time.sleep(min(PROBE_STEP_SECONDS, seconds - passed))
    return {"seconds": seconds}


def clean_up(platform: Platform, job: Job, _: ReportProgress) -> dict[str, Any]:
    """Mark the runs that an earlier attempt at the job left running as killed."""
    client = platform.tracking
    experiments = [e.experiment_id for e in client.search_experiments()]
    left_running = f"tags.`{JOB_TAG}` = '{job.id}' AND attributes.status = 'RUNNING'"
    runs = client.search_runs(experiments, left_running) if experiments else []
    for run in runs:
        client.set_terminated(run.info.run_id, "KILLED")
    return {"killed": len(runs)}
