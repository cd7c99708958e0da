"""Looking after one job: its process, its heartbeat, its limits, and what its end means."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import structlog

from tidemill.errors import UnavailableError
from tidemill.platform import Platform
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.jobs.retryability import Fault, killed, over_limit
from tidemill.worker import job_process as child
from tidemill.worker.heartbeat import Pulse
from tidemill.worker.job_process import Report, Wait
from tidemill.worker.process_memory import group_memory

RETRY_SECONDS = 1.0
LOOK_SECONDS = 0.1
CLEANUP_SECONDS = 60.0
LONGEST_WAIT = 15.0
# Loaded once by the server that job processes are forked from; a missing extra is no matter.
PRELOAD = [
    "tidemill.worker.job_process",
    "tidemill.worker.training",
    "mlflow.sklearn",
    "sklearn.linear_model",
    "skl2onnx",
    "onnxruntime",
    "matplotlib.figure",
]

_LEFT = UnavailableError("Its worker was stopped; another one takes it.")

log = logging.getLogger(__name__)


@dataclass
class _Course:
    """How a job's process ended."""

    outcome: dict[str, Any] | Fault | Wait | None = None
    stopped: str | None = None  # "cancel", "lost", "leaving" or None


class Attendant:
    """Runs jobs of one platform, each in a process of its own.

    Args:
        name: Who this worker is, for the row: host and process.
    """

    def __init__(self, platform: Platform, name: str) -> None:
        self._platform = platform
        self._name = name
        self._processes = multiprocessing.get_context("forkserver")
        preload = platform.settings.worker_preload
        self._processes.set_forkserver_preload(PRELOAD if preload else PRELOAD[:1])
        self._leaving = threading.Event()

    def warm_up(self) -> None:
        """Load the libraries now, so that the first job does not wait for them."""
        forkserver.ensure_running()

    def leave(self) -> None:
        """Give every running job back, to be taken by another worker: this one is to stop."""
        self._leaving.set()

    def attend(self, job_id: str) -> None:
        """Claim the job and see it to its end; does nothing when it is not to be had.

        A worker that is to stop claims nothing more: it would take what it has just given back.
        """
        if self._leaving.is_set():
            return
        try:
            job = self._platform.jobs.claim(job_id, self._name)
        except UnavailableError as error:
            log.warning("job %s is not taken now: %s", job_id, error)
            return
        if job is None:
            return
        with structlog.contextvars.bound_contextvars(**child.log_context(job)):
            self._attend(job)

    def _attend(self, job: Job) -> None:
        problem = self._platform.mlflow_problem()
        if problem is not None and job.model is not None:
            self._put_off(job, Fault(True, UnavailableError(problem).problem()), counts=False)
            return
        log.info("job %s (%s %s) begins, attempt %d", job.id, job.kind, job.model, job.attempts)
        course = self._watch(job)
        self._conclude(job, course)

    def _watch(self, job: Job) -> _Course:
        course = _Course()
        with Pulse(self._platform.jobs, job) as pulse:
            process, pipe = self._start(job, job.kind)
            began = time.monotonic()
            try:
                while course.outcome is None and course.stopped is None:
                    _listen(process, pipe, course, pulse)
                    if course.outcome is None:
                        course.outcome = _check_limits(job, process, time.monotonic() - began)
                    course.stopped = "leaving" if self._leaving.is_set() else pulse.verdict
            finally:
                _end(process)
                pipe.close()
        if isinstance(course.outcome, Fault) and course.stopped is None:
            # It may have ended because it saw before the pulse did that it was to stop.
            pulse.beat()
            course.stopped = pulse.verdict
        return course

    def _start(self, job: Job, verb: str) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._processes.Pipe()
        process = self._processes.Process(
            target=child.run, args=(self._platform.settings, job, verb, theirs), daemon=True
        )
        process.start()
        theirs.close()
        return process, ours

    def _conclude(self, job: Job, course: _Course) -> None:
        outcome = course.outcome
        if isinstance(outcome, dict):
            self._insist(lambda: self._platform.jobs.succeed(job, outcome))
            self._wake(job)
            log.info("job %s succeeded", job.id)
            return
        if isinstance(outcome, Wait) and course.stopped is None:
            self._insist(lambda: self._platform.jobs.park(job, outcome.stage))
            return
        if course.stopped == "leaving":
            self._put_off(job, Fault(True, _LEFT.problem()), counts=False, delay=0.0)
            return
        if course.stopped is not None:
            self._stopped(job, course.stopped)
        elif isinstance(outcome, Fault):
            self._faulted(job, outcome)
        if job.model is not None:
            self._clean_up(job)

    def _stopped(self, job: Job, how: str) -> None:
        if how == "cancel":
            self._insist(lambda: self._platform.jobs.cancelled(job))
            log.info("job %s was cancelled", job.id)
        else:
            log.warning("job %s was given to another worker; stopped here", job.id)

    def _faulted(self, job: Job, fault: Fault) -> None:
        if not fault.outside:
            self._insist(lambda: self._platform.jobs.fail(job, fault.problem))
            self._wake(job)
            log.error("job %s failed: %s", job.id, fault.problem["detail"])
            return
        counts = self._platform.mlflow_problem() is None
        if counts and job.failures + 1 >= self._platform.settings.job_max_failures:
            self._insist(lambda: self._platform.jobs.fail(job, fault.problem))
            log.error("job %s failed for good: %s", job.id, fault.problem["detail"])
            return
        self._put_off(job, fault, counts=counts)

    def _wake(self, part: Job) -> None:
        """Let the job go on that this one was the last part of; a caretaker does it otherwise."""
        if part.parent is None:
            return
        try:
            for job in self._platform.jobs.wake():
                if self._platform.doorbell.ring(job.id):
                    self._platform.jobs.mark_sent([job.id])
        except UnavailableError as error:
            log.warning("job %s is woken later: %s", part.parent, error)

    def _put_off(self, job: Job, fault: Fault, *, counts: bool, delay: float | None = None) -> None:
        if delay is None:
            delay = min(LONGEST_WAIT, 2.0 ** min(job.waits, 10))
        log.warning("job %s waits %.0f s: %s", job.id, delay, fault.problem["detail"])
        self._insist(
            lambda: self._platform.jobs.postpone(job, fault.problem, delay=delay, counts=counts)
        )

    def _insist(self, write: Any) -> None:
        """Write how a job ended, however long the database is away."""
        while True:
            try:
                write()
            except UnavailableError as error:
                log.warning("cannot write how a job ended yet: %s", error)
                time.sleep(RETRY_SECONDS)
            else:
                return

    def _clean_up(self, job: Job) -> None:
        """Mark the tracked runs that this attempt left open as killed, in a process as well."""
        process, pipe = self._start(replace(job, time_limit=CLEANUP_SECONDS), "clean_up")
        try:
            if pipe.poll(CLEANUP_SECONDS):
                outcome = pipe.recv()
                if isinstance(outcome, Fault):
                    log.warning("runs of job %s stay open: %s", job.id, outcome.problem["detail"])
        except EOFError:
            log.warning("runs of job %s stay open", job.id)
        finally:
            _end(process)
            pipe.close()


def _listen(process: BaseProcess, pipe: Connection, course: _Course, pulse: Pulse) -> None:
    """Take in what the process says for a moment; its silence at its end is a fault too."""
    try:
        if not pipe.poll(LOOK_SECONDS):
            return
        said = pipe.recv()
    except (EOFError, OSError):
        process.join(5)
        course.outcome = killed(f"The job's process ended with {_exit(process)}.")
        return
    if isinstance(said, dict) and said.pop("report", False):
        pulse.tell(Report(**said))
    else:
        course.outcome = said


def _check_limits(job: Job, process: BaseProcess, seconds: float) -> Fault | None:
    if job.time_limit is not None and seconds > job.time_limit:
        return over_limit(f"It ran longer than its limit of {job.time_limit:g} seconds.")
    if job.memory_limit is not None and process.pid is not None:
        held = group_memory(process.pid)
        if held > job.memory_limit:
            limit = job.memory_limit / 2**20
            return over_limit(f"It held {held / 2**20:.0f} MB; its limit is {limit:.0f} MB.")
    return None


def _end(process: BaseProcess) -> None:
    """End the process with everything it started."""
    if process.pid is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
    process.join()


def _exit(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
