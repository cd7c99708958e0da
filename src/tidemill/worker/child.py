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

from tidemill import logs
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.faults import Fault, judge
from tidemill.stores.jobs import Job

# More than the limit on resident memory: a stop for one enormous allocation between two looks.
DATA_SLACK = 4 * 2**30
REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class Report:
    """How far a job is."""

    percent: float
    stage: str
    progress: Mapping[str, Any] = field(default_factory=dict)


class LostError(Exception):
    """The job was given to another worker, or is to stop: what this one does no longer counts."""


def run(settings: Settings, job: Job, verb: str, pipe: Connection) -> None:
    """Run one verb on the job and send its result or its fault; the process ends after it.

    Args:
        verb: A name in `tidemill.worker.kinds.VERBS`.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    _limit_memory(job.memory_limit)
    logs.configure("worker", level=settings.log_level, style=settings.log_format)
    try:
        outcome: dict[str, Any] | Fault = _perform(settings, job, verb, pipe)
    except Exception as error:
        outcome = judge(error)
    pipe.send(outcome)


def _perform(settings: Settings, job: Job, verb: str, pipe: Connection) -> dict[str, Any]:
    from tidemill.worker.kinds import VERBS

    if job.project is not None and Path(job.project).is_file():
        os.chdir(Path(job.project).parent)  # projects name their data from where they lie
    platform = Platform.open(settings)
    try:
        return VERBS[verb](platform, job, _reporter(platform, job, pipe))
    finally:
        platform.close()


def _reporter(platform: Platform, job: Job, pipe: Connection) -> Callable[[Report], None]:
    """Sends reports, a few a second at most; a lasting effect is preceded by a look at the row."""
    last = 0.0
    stage = ""

    def report(now: Report) -> None:
        nonlocal last, stage
        changed = now.stage != stage
        if changed and not platform.jobs.holds(job):
            raise LostError(f"job {job.id} is no longer this worker's")
        if changed or time.monotonic() - last >= REPORT_SECONDS:
            last, stage = time.monotonic(), now.stage
            pipe.send(asdict(now) | {"report": True})

    return report


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
