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
from tidemill.processes import program
from tidemill.settings import Settings, load_settings
from tidemill.stores.jobs.broker import QUEUE, TASK, make_celery
from tidemill.worker.job_poller import JobPoller
from tidemill.worker.job_runner import JobRunner

log = logging.getLogger("tidemill.worker")


class Slots:
    """The jobs this worker can run at the same time; entering waits for a free slot."""

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


def run_worker(settings: Settings) -> None:
    """Run jobs until SIGTERM or SIGINT; jobs still running then are given back to be retried.

    Raises:
        SettingsError: The database has another schema version.
        UnavailableError: The database cannot be reached.
    """
    platform = Platform.open(settings)
    slots = Slots(settings.worker_concurrency)
    runner = JobRunner(platform, _identity())
    runner.warm_up()
    app = make_celery(settings.broker_uri)

    def run(job_id: str) -> None:
        with slots:
            runner.run(job_id)

    app.task(run, name=TASK)
    log.info(
        "taking jobs from %s, up to %d at the same time",
        platform.notifier,
        settings.worker_concurrency,
    )
    poller = JobPoller(platform, slots.free, run)
    poller.start()

    def stop(**_: Any) -> None:
        runner.stop()

    worker_shutting_down.connect(stop, weak=False)
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
        poller.stop()
        platform.close()


def _share_processors(jobs: int) -> None:
    """Limit the threads of numeric libraries to each job's share of the processors.

    By default the libraries of every job start as many threads as there are processors. Those
    threads wait for each other: a fit on two busy processors took several times as long. Set in the
    environment, which the process that jobs are forked from inherits.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def _identity() -> str:
    """Return this worker's name: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


@program()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tidemill.worker", description=__doc__)
    parser.add_argument("--concurrency", type=int, help="jobs to run at the same time")
    parser.add_argument("--name", default=None, help="log file name; default: host and process id")
    given = parser.parse_args()
    changed = {} if given.concurrency is None else {"worker_concurrency": given.concurrency}
    settings = load_settings(**changed)
    # As `tidemill` does for its processes: spinning threads slow every fit on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _share_processors(settings.worker_concurrency)
    # Job processes run as this user in any case; the container's user decides.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")
    # Workers started separately must not rotate the same log file.
    name = given.name or f"worker-{_identity().replace(':', '-')}"
    logs.configure(
        name, level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    for noisy in ("celery", "kombu"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    run_worker(settings)


if __name__ == "__main__":
    main()
