"""Start a worker: `python -m tidemill.worker [--concurrency N]`."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import threading
import warnings
from typing import Any

from celery.signals import worker_shutting_down

from tidemill import logs
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.broker import QUEUE, TASK, make_celery
from tidemill.worker.job_runner import Attendant
from tidemill.worker.reaper import Caretaker

log = logging.getLogger("tidemill.worker")


class Slots:
    """How many jobs this worker could still take; entering waits for one."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0)
            self._free -= 1

    def __exit__(self, *_: Any) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify()

    def free(self) -> int:
        return self._free


def work(settings: Settings) -> None:
    """Run jobs until SIGTERM or SIGINT; running jobs are given back, not lost.

    Raises:
        SettingsError: The database is at another schema.
        UnavailableError: The database cannot be reached.
    """
    platform = Platform.open(settings)
    slots = Slots(settings.worker_concurrency)
    attendant = Attendant(platform, _identity())
    attendant.warm_up()
    app = make_celery(settings.broker_uri)

    def run(job_id: str) -> None:
        with slots:
            attendant.attend(job_id)

    app.task(run, name=TASK)
    log.info("taking jobs from %s, %d at a time", platform.doorbell, settings.worker_concurrency)
    caretaker = Caretaker(platform, slots.free, run)
    caretaker.start()

    def leave(**_: Any) -> None:
        attendant.leave()

    worker_shutting_down.connect(leave, weak=False)
    try:
        app.Worker(
            pool="threads",
            concurrency=settings.worker_concurrency,
            queues=[QUEUE],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        ).start()
    finally:
        caretaker.stop()
        platform.close()


def _share_processors(jobs: int) -> None:
    """Give each job its part of the processors, for the process that job processes are forked from.

    Left alone, the numeric libraries of every job take as many threads as there are processors;
    threads that wait for each other made a fit on two busy processors take several times as long.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def _identity() -> str:
    """Who this worker is: its host and its process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tidemill.worker", description=__doc__)
    parser.add_argument("--concurrency", type=int, help="jobs at a time")
    parser.add_argument("--name", default=None, help="its log file; default: host and process")
    given = parser.parse_args()
    changed = {} if given.concurrency is None else {"worker_concurrency": given.concurrency}
    settings = Settings(**changed)
    # As `tidemill` does for what it starts: threads that spin slow every fit on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _share_processors(settings.worker_concurrency)
    # Job processes run as this user anyway; a container's user is the place to decide it.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")
    # Workers started by hand must not rotate one common file.
    name = given.name or f"worker-{_identity().replace(':', '-')}"
    logs.configure(
        name, level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    for noisy in ("celery", "kombu"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    work(settings)


if __name__ == "__main__":
    main()
