"""The heartbeat of a running job, sent from a thread so that nothing else delays it."""

from __future__ import annotations

import logging
import threading
from typing import Literal

from tidemill.errors import UnavailableError
from tidemill.stores.jobs.jobs import Job, Jobs
from tidemill.worker.job_kinds import JobReport

HEARTBEAT_SECONDS = 1.0
# A new stage is written sooner than the next heartbeat.
STAGE_CHANGE_SECONDS = 0.25

log = logging.getLogger(__name__)


class Heartbeat:
    """Writes a heartbeat with the latest report once a second while its block runs.

    Attributes:
        stop_reason: None while the job should continue; "cancel" when it was cancelled, "lost"
            when another worker has it. Set from the answer to the last heartbeat.
    """

    def __init__(self, jobs: Jobs, job: Job) -> None:
        self.stop_reason: Literal["cancel", "lost"] | None = None
        self._jobs = jobs
        self._job = job
        self._report = JobReport(0.0, "starting")
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{job.id}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def update(self, report: JobReport) -> None:
        """Set the report that the next heartbeat carries; a change of stage is sent soon."""
        changed = report.stage != self._report.stage
        self._report = report
        if changed:
            self._wake.set()

    def send(self) -> None:
        """Write one heartbeat; while the database is unavailable the job continues without."""
        try:
            answer = self._jobs.heartbeat(self._job, **vars(self._report))
        except UnavailableError as error:
            log.warning("job %s: no heartbeat: %s", self._job.id, error)
            return
        if answer != "continue":
            self.stop_reason = answer

    def _run(self) -> None:
        while self.stop_reason is None:
            if self._wake.wait(HEARTBEAT_SECONDS) and not self._ended.wait(STAGE_CHANGE_SECONDS):
                self._wake.clear()
            if self._ended.is_set():
                return
            self.send()
