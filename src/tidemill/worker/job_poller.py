"""Polls the jobs in the database, so that no job is lost because a worker or a message was.

Every worker has a poller. Once a second it gives back jobs whose heartbeat stopped. Only while this
worker is idle does it run jobs that are due and that nobody claimed: an idle worker beside a
waiting job proves that a message was lost. So jobs run even when the broker is down, comes back
empty, or its client does not notice that it is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tidemill.errors import UnavailableError
from tidemill.platform import Platform

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class JobPoller:
    """A thread beside the worker.

    Args:
        free_slots: Returns how many more jobs this worker could run now.
        run: Runs a job; called in a thread of its own.
    """

    def __init__(
        self, platform: Platform, free_slots: Callable[[], int], run: Callable[[str], None]
    ) -> None:
        self._platform = platform
        self._free_slots = free_slots
        self._run_job = run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-poller", daemon=True)
        self._stalled_after = platform.settings.worker_lost_after
        self._grace_until = 0.0
        self._alive = platform.settings.home / "worker.alive"  # for health checks

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def tick(self) -> None:
        """Poll once.

        No job counts as stalled while the database is unavailable and for `worker_lost_after`
        seconds after that, because no heartbeat could be written meanwhile.
        """
        try:
            if time.monotonic() >= self._grace_until:
                for job in self._platform.jobs.requeue_stalled(self._stalled_after):
                    log.warning("job %s lost its worker; it is now %s", job.id, job.state)
            for parent in self._platform.jobs.resume_parents():
                log.info("all children of job %s have ended", parent.id)
            self._run_overdue()
        except UnavailableError as error:
            self._grace_until = time.monotonic() + self._stalled_after
            log.warning("the job poller waits: %s", error)

    def _run_overdue(self) -> None:
        free = self._free_slots()
        if free <= 0:
            return
        for job in self._platform.jobs.fetch_overdue(free):
            if job.sent is not None:
                log.info("the broker's message about job %s was lost; running it anyway", job.id)
            threading.Thread(target=self._run_job, args=(job.id,), name=f"job-{job.id}").start()
        self._platform.notifier.remove_read_messages()

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._alive.touch()
                self.tick()
            except Exception:
                log.exception("the job poller failed")
