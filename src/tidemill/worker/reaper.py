"""The caretaker: no job is lost because a worker died or a message did.

Every worker has one. Once a second it gives back jobs whose heart stopped, and, only while this
worker has nothing to do, takes jobs that are due and that nobody took: a worker that idles while
work waits is the proof that a message was lost. So work goes on with a broker that is away, came
back empty, or whose client does not notice that it is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tidemill.errors import UnavailableError
from tidemill.platform import Platform

TICK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Caretaker:
    """A thread beside the worker.

    Args:
        idle: How many more jobs this worker could run now.
        take: Runs a job; called in a thread of its own.
    """

    def __init__(
        self, platform: Platform, idle: Callable[[], int], take: Callable[[str], None]
    ) -> None:
        self._platform = platform
        self._idle = idle
        self._take = take
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)
        self._lost_after = platform.settings.worker_lost_after
        self._patience_until = 0.0
        self._alive = platform.settings.home / "worker.alive"  # for health checks

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def tick(self) -> None:
        """One round. While the database is away, and for one limit after, nobody is held dead."""
        try:
            if time.monotonic() >= self._patience_until:
                for job in self._platform.jobs.reap(self._lost_after):
                    log.warning("job %s lost its worker; it is %s now", job.id, job.state)
            for parent in self._platform.jobs.wake():
                log.info("every part of job %s has ended", parent.id)
            self._take_unheard()
        except UnavailableError as error:
            self._patience_until = time.monotonic() + self._lost_after
            log.warning("the caretaker waits: %s", error)

    def _take_unheard(self) -> None:
        idle = self._idle()
        if idle <= 0:
            return
        for job in self._platform.jobs.unheard(idle):
            if job.sent is not None:
                log.info("job %s was not heard of through the broker; taken all the same", job.id)
            threading.Thread(target=self._take, args=(job.id,), name=f"job-{job.id}").start()
        self._platform.doorbell.tidy()

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                self._alive.touch()
                self.tick()
            except Exception:
                log.exception("the caretaker stumbled")
