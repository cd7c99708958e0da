"""The heartbeat of a running job, in a thread, so that nothing the worker waits for stops it."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from tidemill.errors import UnavailableError
from tidemill.stores.jobs.jobs import Job, Jobs
from tidemill.worker.job_process import Report

BEAT_SECONDS = 1.0
# A new stage is shown sooner than the next heartbeat.
NEWS_SECONDS = 0.25

log = logging.getLogger(__name__)


class Pulse:
    """Beats once a second while its block runs, and carries the latest report.

    `verdict` is what the row said last: None while the work is to go on, else "cancel" or "lost".
    """

    def __init__(self, jobs: Jobs, job: Job) -> None:
        self.verdict: str | None = None
        self._jobs = jobs
        self._job = job
        self._report = Report(0.0, "starting")
        self._news = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pulse-{job.id}", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._news.set()
        self._thread.join()

    def tell(self, report: Report) -> None:
        """Take note of how far the job is; a change of stage is written soon."""
        changed = report.stage != self._report.stage
        self._report = report
        if changed:
            self._news.set()

    def beat(self) -> None:
        """Write one heartbeat, unless the database is away: the work goes on meanwhile."""
        try:
            answer = self._jobs.beat(self._job, **vars(self._report))
        except UnavailableError as error:
            log.warning("job %s: no heartbeat: %s", self._job.id, error)
            return
        if answer != "go on":
            self.verdict = answer

    def _run(self) -> None:
        while self.verdict is None:
            if self._news.wait(BEAT_SECONDS) and not self._over.wait(NEWS_SECONDS):
                self._news.clear()
            if self._over.is_set():
                return
            self.beat()
