"""Runs one job: claims it, starts its process, enforces its limits and records how it ended."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

import structlog

from tidemill.errors import UnavailableError
from tidemill.platform import Platform
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.jobs.retryability import JobFailure, limit_exceeded
from tidemill.worker.attempt_end import AttemptEnd, AttemptRecorder
from tidemill.worker.heartbeat import Heartbeat
from tidemill.worker.job_kinds import JobReport
from tidemill.worker.job_main import log_context
from tidemill.worker.job_process import JobProcess, ProcessStarter

POLL_SECONDS = 0.1
CLEANUP_SECONDS = 60.0

log = logging.getLogger(__name__)


class JobRunner:
    """Runs jobs of one platform, each in a process of its own.

    Args:
        worker: The worker's name in the job's row: host and process.
    """

    def __init__(self, platform: Platform, worker: str) -> None:
        self._platform = platform
        self._worker = worker
        settings = platform.settings
        self._processes = ProcessStarter(settings, preload=settings.worker_preload)
        self._recorder = AttemptRecorder(platform)
        self._stopping = threading.Event()

    def warm_up(self) -> None:
        """Load the libraries now, so that the first job does not wait for them."""
        self._processes.warm_up()

    def stop(self) -> None:
        """Stop every running job and give it back to be retried; claim no more jobs."""
        self._stopping.set()

    def run(self, job_id: str) -> None:
        """Claim the job and run it to its end; do nothing where it cannot be claimed.

        After `stop` nothing is claimed: this worker would take back what it has just given up.
        """
        if self._stopping.is_set():
            return
        try:
            job = self._platform.jobs.claim(job_id, self._worker)
        except UnavailableError as error:
            log.warning("job %s cannot be claimed now: %s", job_id, error)
            return
        if job is None:
            return
        with structlog.contextvars.bound_contextvars(**log_context(job)):
            self._run_claimed(job)

    def _run_claimed(self, job: Job) -> None:
        problem = self._platform.mlflow_problem()
        if problem is not None and job.model is not None:
            failure = JobFailure(True, UnavailableError(problem).problem())
            self._recorder.retry_later(job, failure, counts=False)
            return
        log.info("job %s (%s %s) starts, attempt %d", job.id, job.kind, job.model, job.attempts)
        end = self._supervise(job)
        self._recorder.record(job, end)
        if end.left_runs_open and job.model is not None:
            self._clean_up(job)

    def _supervise(self, job: Job) -> AttemptEnd:
        end = AttemptEnd()
        with Heartbeat(self._platform.jobs, job) as heartbeat:
            with self._processes.start(job, job.kind) as process:
                began = time.monotonic()
                while not end.reached:
                    message = process.receive(POLL_SECONDS)
                    if isinstance(message, JobReport):
                        heartbeat.update(message)
                    else:
                        end.outcome = message
                    if end.outcome is None:
                        end.outcome = _check_limits(job, process, time.monotonic() - began)
                    stopping = self._stopping.is_set()
                    end.stop_reason = "worker stops" if stopping else heartbeat.stop_reason
            if isinstance(end.outcome, JobFailure) and end.stop_reason is None:
                # The process may have found out before the heartbeat did that it was to stop.
                heartbeat.send()
                end.stop_reason = heartbeat.stop_reason
        return end

    def _clean_up(self, job: Job) -> None:
        """Mark the tracked runs that this attempt left open as killed, in a process as well."""
        limited = replace(job, time_limit=CLEANUP_SECONDS)
        with self._processes.start(limited, "clean_up") as process:
            deadline = time.monotonic() + CLEANUP_SECONDS
            outcome = None
            while outcome is None and time.monotonic() < deadline:
                message = process.receive(CLEANUP_SECONDS)
                outcome = None if isinstance(message, JobReport) else message
        if isinstance(outcome, JobFailure):
            log.warning("runs of job %s stay open: %s", job.id, outcome.problem["detail"])


def _check_limits(job: Job, process: JobProcess, seconds: float) -> JobFailure | None:
    if job.time_limit is not None and seconds > job.time_limit:
        return limit_exceeded(f"It ran longer than its limit of {job.time_limit:g} seconds.")
    if job.memory_limit is not None:
        used = process.memory()
        if used > job.memory_limit:
            limit = job.memory_limit / 2**20
            return limit_exceeded(f"It used {used / 2**20:.0f} MB; its limit is {limit:.0f} MB.")
    return None
