"""Runs a worker process for every version on the shelf that only MLflow's pyfunc can run.

    python -m tidemill.loop.sync.pyfunc_supervisor [--shelf DIR]

A worker runs the model's own code, so start this only if you trust everyone who can write to the
registry. A worker that dies is restarted, with growing pauses. A worker whose version has left the
shelf is stopped once the server no longer uses it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidemill import logs
from tidemill.archives import extract
from tidemill.bundle import Bundle
from tidemill.errors import BundleError, ExportError
from tidemill.loop.operations.signals import stop_event
from tidemill.processes import (
    Process,
    ProcessSupervisor,
    RestartPolicy,
    SupervisedProcess,
    program,
    spawn,
)
from tidemill.serving.model.remote_runtime import loaded_mark, socket_path
from tidemill.serving.shelf.shelf import ShelfEntry, StateWatch, open_bundle
from tidemill.settings import load_settings

logger = logging.getLogger(__name__)

INTERVAL = 0.25
RESTARTS = RestartPolicy(
    delays=(0.5, 1.0, 2.0, 5.0, 15.0, 30.0), stable_seconds=30.0, stable_delay=0.5
)
LEAVING_SECONDS = 20.0  # how long a worker runs on after its version left the shelf
STOP_SECONDS = 5.0


@dataclass
class PyfuncWorker(SupervisedProcess):
    """The process of one model, and the folder that its model was unpacked into."""

    bundle: Bundle
    socket: Path
    unpacked: tempfile.TemporaryDirectory[str]
    gone_since: float | None = None

    @property
    def loaded(self) -> bool:
        """Whether it has loaded its model and answers."""
        return self.running and loaded_mark(self.socket).exists()

    def launch(self) -> Process:
        loaded_mark(self.socket).unlink(missing_ok=True)
        process = start_worker(self.bundle.path, self.socket, Path(self.unpacked.name))
        logger.info("%s: its worker is process %d", self.name, process.pid)
        return process

    def stopped(self) -> None:
        for path in (self.socket, loaded_mark(self.socket)):
            path.unlink(missing_ok=True)
        self.unpacked.cleanup()


@dataclass
class FailedStart:
    """Why a worker could not be started, how often, and when to retry (monotonic time)."""

    problem: str = ""
    count: int = 0
    retry_at: float = 0.0


class PyfuncSupervisor:
    """Supervises the workers of one home's shelf."""

    def __init__(self, home: Path, shelf: Path) -> None:
        self.home = home
        self.shelf = shelf
        self._processes = ProcessSupervisor[PyfuncWorker](RESTARTS, _exited, STOP_SECONDS)
        #: By the digest of a bundle that cannot be started.
        self._failures: dict[str, FailedStart] = {}

    @property
    def workers(self) -> dict[str, PyfuncWorker]:
        """The workers by the digest of their bundle."""
        return {worker.bundle.digest: worker for worker in self._processes.children}

    def reconcile(self, bundles: Sequence[Bundle]) -> None:
        """Start missing workers, restart those that ended, stop those no longer on the shelf.

        A bundle that cannot be started is retried with growing pauses; the others are not affected.
        """
        digests = {bundle.digest for bundle in bundles}
        self._failures = {d: found for d, found in self._failures.items() if d in digests}
        for bundle in bundles:
            if bundle.digest not in self.workers:
                self._try_to_start(bundle)
        for digest, worker in self.workers.items():
            if digest not in digests:
                self._retire(worker)
            else:
                worker.gone_since = None
                self._processes.revive(worker)

    def close(self) -> None:
        """Stop all workers."""
        self._processes.stop()

    def _try_to_start(self, bundle: Bundle) -> None:
        failure = self._failures.setdefault(bundle.digest, FailedStart())
        if time.monotonic() < failure.retry_at:
            return
        try:
            self._start(bundle)
        except Exception as error:  # of a foreign archive, of the disk, or of the system
            if failure.problem != str(error):
                logger.error("the worker of %s cannot be started: %s", bundle.path, error)
            failure.problem, failure.count = str(error), failure.count + 1
            failure.retry_at = time.monotonic() + RESTARTS.delay(failure.count)
        else:
            del self._failures[bundle.digest]

    def _start(self, bundle: Bundle) -> None:
        socket = socket_path(self.home, bundle.digest)
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unpacked = unpack(bundle)
        try:
            self._processes.start(
                PyfuncWorker(str(bundle.path), bundle, socket, unpacked, own_group=True)
            )
        except BaseException:
            unpacked.cleanup()
            raise

    def _retire(self, worker: PyfuncWorker) -> None:
        """Stop a worker some time after its version left the shelf, but not before its successor
        has loaded: until then the server uses the old version."""
        now = time.monotonic()
        model = worker.bundle.manifest.model
        successors = [
            w for w in self._processes.children if w is not worker and w.gone_since is None
        ]
        if not all(w.loaded for w in successors if w.bundle.manifest.model == model):
            self._processes.revive(worker)
        elif worker.gone_since is None:
            worker.gone_since = now
        elif now - worker.gone_since > LEAVING_SECONDS:
            self._processes.remove(worker)


def _exited(worker: PyfuncWorker, code: int) -> None:
    logger.warning("the worker of %s ended with exit %d", worker.name, code)


class PyfuncBundleWatch:
    """Watches the shelf's state for pyfunc bundles; each is opened once."""

    def __init__(self, shelf: Path) -> None:
        self._shelf = shelf
        self._watch = StateWatch(shelf)
        self._bundles: list[Bundle] = []

    def poll(self) -> list[Bundle]:
        """The bundles on the shelf now; a state or bundle that cannot be read changes nothing."""
        with contextlib.suppress(BundleError):
            state = self._watch.poll()
            if state is not None:
                entries = [*state.models.values(), *state.challengers.values()]
                self._bundles = [b for entry in entries for b in self._open(entry)]
        return self._bundles

    def _open(self, entry: ShelfEntry) -> Iterator[Bundle]:
        known = [b for b in self._bundles if b.digest == entry.digest]
        with contextlib.suppress(BundleError):
            bundle = known[0] if known else open_bundle(self._shelf, entry)
            if bundle.manifest.runtime == "pyfunc":
                yield bundle


def unpack(bundle: Bundle) -> tempfile.TemporaryDirectory[str]:
    """Unpack the bundle's MLflow model into a temporary folder.

    Raises:
        ExportError: The archive is damaged, too large for its size, or contains anything but plain
            files, folders and links between them.
    """
    folder = tempfile.TemporaryDirectory(prefix="tidemill-model-")
    size = bundle.model_path.stat().st_size  # links, which become copies, take the rest
    try:
        extract(bundle.model_path, Path(folder.name), max_bytes=2 * size)
    except (tarfile.TarError, OSError) as error:
        folder.cleanup()
        raise ExportError(f"{bundle.model_path} cannot be unpacked: {error}") from error
    return folder


def start_worker(folder: Path, socket: Path, model: Path) -> subprocess.Popen[bytes]:
    """Start a process that serves one model, in a group of its own and on Linux not outliving us.

    Its output goes to this process's output.
    """
    command = [sys.executable, "-m", "tidemill.loop.sync.pyfunc_server", str(folder), str(socket)]
    return spawn(
        [*command, "--model", str(model)],
        end_with_parent=signal.SIGKILL,
        process_group=0,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )


def supervise(
    supervisor: PyfuncSupervisor, stop: threading.Event, *, interval: float = INTERVAL
) -> None:
    """Supervise the workers until `stop` is set; a repeated error is logged once."""
    watch, last_error = PyfuncBundleWatch(supervisor.shelf), ""
    try:
        while not stop.is_set():
            try:
                supervisor.reconcile(watch.poll())
                last_error = ""
            except Exception as error:  # the loop must survive any error of a single pass
                if last_error != str(error):
                    logger.error("the workers could not be checked: %s", error)
                last_error = str(error)
            stop.wait(interval)
    finally:
        supervisor.close()


@program()
def main(arguments: Sequence[str] | None = None) -> None:
    """Supervise the workers of the home in the settings, until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tidemill.loop.sync.pyfunc_supervisor")
    parser.add_argument("--shelf", type=Path, help="the shelf; by default the one in the home")
    given = parser.parse_args(arguments)
    settings = load_settings()
    logs.configure(
        "pyfunc", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    with stop_event() as stop:
        supervise(PyfuncSupervisor(settings.home, given.shelf or settings.shelf), stop)


if __name__ == "__main__":
    main()
