"""The verbs a job can be: each takes the platform, the job and a way to report, and gives a result.

A verb may be run again after its worker died at any point, so each first looks for what an earlier
attempt has already brought about.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tidemill.errors import RequestError
from tidemill.platform import Platform
from tidemill.project import Project, load_project
from tidemill.stores.jobs.jobs import Job
from tidemill.worker.job_process import Report

JOB_TAG = "tidemill.job_id"
PROBE_STEP = 0.1
SayHow = Callable[[Report], None]
Verb = Callable[[Platform, Job, SayHow], dict[str, Any]]

#: Where each verb is; its module is loaded only in the process that needs it.
VERBS = {
    "train": "tidemill.worker.training:run_train",
    "retrain": "tidemill.worker.retraining:run_retrain",
    "spar": "tidemill.worker.staleness:run_spar",
    "probe": "tidemill.worker.job_kinds:run_probe",
    "trial": "tidemill.worker.sweep:run_trial",
    "clean_up": "tidemill.worker.job_kinds:clean_up",
}


def find_verb(name: str) -> Verb:
    """The function behind a verb.

    Raises:
        RequestError: There is no such verb.
    """
    if name not in VERBS:
        raise RequestError(
            f"No worker here can do '{name}'.", field="kind", expected=f"one of {', '.join(VERBS)}"
        )
    module, _, function = VERBS[name].partition(":")
    verb: Verb = getattr(importlib.import_module(module), function)
    return verb


def project_of(job: Job) -> Project:
    """The project that the job is to train."""
    assert job.project is not None, "a training job says where its project is"
    return load_project(job.project)


def tagged(project: Project, job: Job) -> Project:
    """The project whose runs and version will carry the job's id."""
    return replace(project, tags={**project.tags, JOB_TAG: job.id})


def run_probe(_: Platform, job: Job, report: SayHow) -> dict[str, Any]:
    """Do nothing for `seconds`: shows that jobs arrive, run and end, and how long that takes."""
    seconds = float(job.params.get("seconds", 0.0))
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        report(Report(100 * passed / seconds, "probe"))
        time.sleep(min(PROBE_STEP, seconds - passed))
    return {"seconds": seconds}


def clean_up(platform: Platform, job: Job, report: SayHow) -> dict[str, Any]:
    """Mark the runs that an earlier attempt of the job left running as killed."""
    client = platform.tracking
    experiments = [e.experiment_id for e in client.search_experiments()]
    wanted = f"tags.`{JOB_TAG}` = '{job.id}' AND attributes.status = 'RUNNING'"
    left = client.search_runs(experiments, wanted) if experiments else []
    for run in left:
        client.set_terminated(run.info.run_id, "KILLED")
    return {"killed": len(left)}
