"""The process of one job. It is forked from a server that has the libraries loaded already.

It says what happens through a pipe; when its worker dies the pipe closes and it ends itself with
everything it started, so that no fit goes on that nobody looks after.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from tidemill import logs
from tidemill.errors import UnavailableError
from tidemill.loop.operations.signals import Cancelled
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.jobs.retryability import Fault, judge
from tidemill.worker.job_spans import JobSpans

# More than the limit on resident memory: a stop for one enormous allocation between two looks.
DATA_SLACK = 4 * 2**30
REPORT_SECONDS = 0.2
# Stages that leave something behind which cannot be taken back.
LASTING = frozenset(("register", "promote"))


@dataclass(frozen=True)
class Report:
    """How far a job is."""

    percent: float
    stage: str
    progress: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wait:
    """A job's process ended because its parts have to end first."""

    stage: str


class Lost(Cancelled):
    """The job was given to another worker, or is to stop: what this one does no longer counts."""


class Parked(Exception):  # noqa: N818
    """The job is to wait until its parts have ended; the message is the stage it waits in."""


def run(settings: Settings, job: Job, verb: str, pipe: Connection) -> None:
    """Run one verb on the job and send its result or its fault; the process ends after it.

    Args:
        verb: A name in `tidemill.worker.job_kinds.VERBS`.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    _limit_memory(job.memory_limit)
    logs.configure("worker", level=settings.log_level, style=settings.log_format)
    structlog.contextvars.bind_contextvars(**log_context(job))
    spans = JobSpans(job)
    problem = None
    try:
        outcome: dict[str, Any] | Fault | Wait = _perform(settings, job, verb, pipe, spans)
    except Parked as parked:
        outcome = Wait(str(parked))
    except Exception as error:
        outcome, problem = judge(error), str(error)
    except Lost:
        return  # the attendant reads in the row why
    finally:
        spans.end(problem)
    pipe.send(outcome)


def log_context(job: Job) -> dict[str, Any]:
    """What every log line about the job carries."""
    context = {"job_id": job.id, "model": job.model, "request_id": job.request_id}
    return {name: value for name, value in context.items() if value is not None}


def _perform(
    settings: Settings, job: Job, verb: str, pipe: Connection, spans: JobSpans
) -> dict[str, Any]:
    from tidemill.worker.job_kinds import find_verb

    if job.project is not None and Path(job.project).is_file():
        os.chdir(Path(job.project).parent)  # projects name their data from where they lie
    platform = Platform.open(settings)
    try:
        return find_verb(verb)(platform, job, _reporter(platform, job, pipe, spans))
    finally:
        platform.close()


def _reporter(
    platform: Platform, job: Job, pipe: Connection, spans: JobSpans
) -> Callable[[Report], None]:
    """Sends reports, a few a second at most; before a lasting effect it looks at the row."""
    last = 0.0
    stage = ""

    def report(now: Report) -> None:
        nonlocal last, stage
        changed = now.stage != stage
        if changed and now.stage in LASTING:
            _require_held(platform, job)
        if changed:
            spans.enter(now.stage)
        if changed or time.monotonic() - last >= REPORT_SECONDS:
            last, stage = time.monotonic(), now.stage
            pipe.send(asdict(now) | {"report": True})

    return report


def _require_held(platform: Platform, job: Job) -> None:
    """Go on only if this attempt is the one that counts; wait for a database that is away.

    Raises:
        Lost: It is not.
    """
    while True:
        try:
            if platform.jobs.holds(job):
                return
            raise Lost(f"job {job.id} is no longer this worker's")
        except UnavailableError:
            time.sleep(1.0)


def _end_with(pipe: Connection) -> None:
    """Wait for the worker to close its end, which it does by dying, and end this whole group."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _limit_memory(limit: int | None) -> None:
    if limit is not None:
        ceiling = limit + DATA_SLACK
        resource.setrlimit(resource.RLIMIT_DATA, (ceiling, ceiling))
