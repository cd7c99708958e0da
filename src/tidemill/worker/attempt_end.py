"""How an attempt at a job ended, and writing that to the job's row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tidemill.errors import UnavailableError
from tidemill.platform import Platform
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.jobs.retryability import JobFailure
from tidemill.worker.job_kinds import WaitForChildren
from tidemill.worker.job_main import JobOutcome

WRITE_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 15.0
WORKER_STOPPED = "The worker stopped; the job will be retried."

log = logging.getLogger(__name__)

#: Why a runner stopped a job: somebody cancelled it, another worker has it, this worker stops.
StopReason = Literal["cancel", "lost", "worker stops"]


@dataclass
class AttemptEnd:
    """How an attempt ended: by its own outcome, by being stopped, or both at the same moment."""

    outcome: JobOutcome | None = None
    stop_reason: StopReason | None = None

    @property
    def reached(self) -> bool:
        return self.outcome is not None or self.stop_reason is not None

    @property
    def left_runs_open(self) -> bool:
        """Whether tracked runs may be open that no later attempt will close."""
        if isinstance(self.outcome, dict) or self.stop_reason == "worker stops":
            return False
        return self.stop_reason is not None or isinstance(self.outcome, JobFailure)


class AttemptRecorder:
    """Writes how attempts ended, retrying for as long as the database is unavailable."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._jobs = platform.jobs

    def record(self, job: Job, end: AttemptEnd) -> None:
        """Write the end of an attempt: succeeded, failed, cancelled, or to be run again."""
        outcome = end.outcome
        if isinstance(outcome, dict):
            self._succeed(job, outcome)
        elif end.stop_reason == "worker stops":
            failure = JobFailure(True, UnavailableError(WORKER_STOPPED).problem())
            self.retry_later(job, failure, counts=False, delay=0.0)
        elif end.stop_reason == "cancel":
            _write_until_stored(lambda: self._jobs.mark_cancelled(job))
            log.info("job %s was cancelled", job.id)
        elif end.stop_reason == "lost":
            log.warning("job %s was given to another worker; stopped here", job.id)
        elif isinstance(outcome, WaitForChildren):
            _write_until_stored(lambda: self._jobs.wait_for_children(job, str(outcome)))
        elif isinstance(outcome, JobFailure):
            self._fail_or_retry(job, outcome)

    def retry_later(
        self, job: Job, failure: JobFailure, *, counts: bool, delay: float | None = None
    ) -> None:
        """Give the job back, to be retried after `delay` seconds, by default 1 s to 15 s.

        Args:
            counts: Whether the failure counts towards the job's limit of failures.
        """
        seconds = min(MAX_RETRY_SECONDS, 2.0 ** min(job.waits, 10)) if delay is None else delay
        log.warning("job %s is retried in %.0f s: %s", job.id, seconds, failure.problem["detail"])
        _write_until_stored(
            lambda: self._jobs.retry_later(job, failure.problem, delay=seconds, counts=counts)
        )

    def _succeed(self, job: Job, result: dict[str, Any]) -> None:
        _write_until_stored(lambda: self._jobs.succeed(job, result))
        self._resume_parent(job)
        log.info("job %s succeeded", job.id)

    def _fail_or_retry(self, job: Job, failure: JobFailure) -> None:
        counts = failure.retryable and self._platform.mlflow_problem() is None
        spent = counts and job.failures + 1 >= self._platform.settings.job_max_failures
        if failure.retryable and not spent:
            self.retry_later(job, failure, counts=counts)
            return
        _write_until_stored(lambda: self._jobs.fail(job, failure.problem))
        self._resume_parent(job)
        log.error("job %s failed: %s", job.id, failure.problem["detail"])

    def _resume_parent(self, child: Job) -> None:
        """Queue the parent again if this was its last child; else a job poller does it later."""
        if child.parent is None:
            return
        try:
            for job in self._jobs.resume_parents():
                if self._platform.notifier.send(job.id):
                    self._jobs.mark_sent([job.id])
        except UnavailableError as error:
            log.warning("job %s will be resumed later: %s", child.parent, error)


def _write_until_stored(write: Callable[[], object]) -> None:
    while True:
        try:
            write()
        except UnavailableError as error:
            log.warning("the end of a job cannot be written yet: %s", error)
            time.sleep(WRITE_RETRY_SECONDS)
        else:
            return
