"""What runs inside the process of a job.

The process is forked from a server that has the libraries loaded already. It sends reports and its
outcome through a pipe. When its worker dies, the pipe closes and the process kills itself with
everything it started, so no abandoned fit keeps running.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from tidemill import logs
from tidemill.errors import UnavailableError
from tidemill.loop.operations.signals import Cancelled
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.jobs.retryability import JobFailure, classify
from tidemill.traces import Traces, fail, open_traces, valid_traceparent
from tidemill.worker.job_kinds import (
    JobReport,
    ReportProgress,
    WaitForChildren,
    find_job_function,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# Added to the limit on resident memory: stops one enormous allocation between two measurements.
DATA_SLACK_BYTES = 4 * 2**30
REPORT_SECONDS = 0.2
# Stages whose effects cannot be undone.
IRREVERSIBLE_STAGES = frozenset(("register", "promote"))

#: How a job function ends: with a result, with an error, or to be run again after its children.
JobOutcome = dict[str, Any] | JobFailure | WaitForChildren


class ClaimLost(Cancelled):
    """The job was cancelled or given to another worker; this attempt no longer counts."""


def run_job(settings: Settings, job: Job, kind: str, pipe: Connection) -> None:
    """Run the job function of a kind and send its outcome; the process ends afterwards.

    Args:
        kind: A key of `tidemill.worker.job_kinds.JOB_KINDS`; the job's own kind, or "clean_up".
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_worker, args=(pipe,), daemon=True).start()
    _limit_memory(job.memory_limit)
    logs.configure("worker", level=settings.log_level, style=settings.log_format)
    structlog.contextvars.bind_contextvars(**log_context(job))
    spans = JobSpans(job)
    problem = None
    try:
        outcome: JobOutcome = _call_function(settings, job, kind, pipe, spans)
    except WaitForChildren as waiting:
        outcome = waiting
    except Exception as error:
        outcome, problem = classify(error), str(error)
    except ClaimLost:
        return  # the runner reads the reason in the job's row
    finally:
        spans.end(problem)
    pipe.send(outcome)


def log_context(job: Job) -> dict[str, Any]:
    """Return the fields that every log line about the job carries."""
    context = {"job_id": job.id, "model": job.model, "request_id": job.request_id}
    return {name: value for name, value in context.items() if value is not None}


class JobSpans:
    """The trace spans of an attempt at a job, with one child span per stage.

    Does nothing where the environment does not ask for traces.
    """

    def __init__(self, job: Job) -> None:
        self._traces: Traces | None = open_traces("tidemill-worker")
        self._name = ""
        self._stage: Span | None = None
        if self._traces is not None:
            self._attempt = self._traces.start(
                f"job {job.kind}",
                valid_traceparent(job.traceparent),
                {
                    "tidemill.job": job.id,
                    "tidemill.model": job.model or "",
                    "tidemill.attempt": job.attempts,
                },
                kind="CONSUMER",
            )

    def enter(self, stage: str) -> None:
        """End the span of the previous stage and start this one's."""
        if self._traces is None or stage == self._name:
            return
        self._end_stage()
        self._name = stage
        self._stage = self._traces.start(stage, self._attempt)

    def end(self, problem: str | None = None) -> None:
        """End the attempt's span and send all spans not sent yet."""
        if self._traces is None:
            return
        if problem is not None:
            fail(self._attempt, problem)
        self._end_stage()
        self._attempt.end()
        self._traces.close()

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._stage.end()


def _call_function(
    settings: Settings, job: Job, kind: str, pipe: Connection, spans: JobSpans
) -> dict[str, Any]:
    if job.project is not None and Path(job.project).is_file():
        os.chdir(Path(job.project).parent)  # a project's data paths are relative to its file
    platform = Platform.open(settings)
    try:
        return find_job_function(kind)(platform, job, _reporter(platform, job, pipe, spans))
    finally:
        platform.close()


def _reporter(platform: Platform, job: Job, pipe: Connection, spans: JobSpans) -> ReportProgress:
    """Return a callback that sends a few reports a second and guards irreversible stages."""
    last = 0.0
    stage = ""

    def report(now: JobReport) -> None:
        nonlocal last, stage
        changed = now.stage != stage
        if changed and now.stage in IRREVERSIBLE_STAGES:
            _require_claim(platform, job)
        if changed:
            spans.enter(now.stage)
        if changed or time.monotonic() - last >= REPORT_SECONDS:
            last, stage = time.monotonic(), now.stage
            pipe.send(now)

    return report


def _require_claim(platform: Platform, job: Job) -> None:
    """Return only if this attempt still counts; retry while the database is unavailable.

    Raises:
        ClaimLost: The attempt no longer counts.
    """
    while True:
        try:
            if platform.jobs.is_current(job):
                return
            raise ClaimLost(f"job {job.id} is no longer claimed by this worker")
        except UnavailableError:
            time.sleep(1.0)


def _die_with_worker(pipe: Connection) -> None:
    """Kill this process group once the worker's end of the pipe closes, as it does by dying."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _limit_memory(limit: int | None) -> None:
    if limit is not None:
        ceiling = limit + DATA_SLACK_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (ceiling, ceiling))
