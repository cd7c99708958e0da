"""Keeps a worker running for every version on the shelf that only MLflow's pyfunc can run.

    python -m tidemill.loop.sync.pyfunc_supervisor [--shelf DIR]

Whoever starts it trusts whoever can write to the registry: a worker runs the model's own code. One
that dies is started again, with growing pauses; one whose version is no longer on the shelf ends
once the server has let go of it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemill import logs
from tidemill.archives import extract
from tidemill.bundle import Bundle
from tidemill.errors import BundleError, ExportError
from tidemill.loop.operations.signals import stop_asked
from tidemill.serving.model.remote_runtime import loaded_mark, socket_path
from tidemill.serving.shelf.shelf import ShelfEntry, StateWatch, open_bundle
from tidemill.settings import Settings

logger = logging.getLogger(__name__)

INTERVAL = 0.25
PAUSES = (0.5, 1.0, 2.0, 5.0, 15.0)  # before the next start of a worker that died
STABLE_SECONDS = 30.0
LEAVING_SECONDS = 20.0  # what a version that left the shelf gets to end with
END_SECONDS = 5.0


@dataclass
class PyfuncWorker:
    """One model's process, and the folder that its model was unpacked into."""

    bundle: Bundle
    socket: Path
    unpacked: tempfile.TemporaryDirectory[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float = 0.0
    gone_since: float | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def standing(self) -> bool:
        """Whether it has loaded its model and answers."""
        return self.running and loaded_mark(self.socket).exists()

    def start(self) -> None:
        loaded_mark(self.socket).unlink(missing_ok=True)
        self.process = start_worker(self.bundle.path, self.socket, Path(self.unpacked.name))
        self.started = time.monotonic()

    def stop(self) -> None:
        stop_worker(self.process)
        for path in (self.socket, loaded_mark(self.socket)):
            path.unlink(missing_ok=True)
        self.unpacked.cleanup()


@dataclass
class PyfuncSupervisor:
    """The workers of one home's shelf."""

    home: Path
    shelf: Path
    workers: dict[str, PyfuncWorker] = field(default_factory=dict)  # by digest

    def look(self, wanted: Sequence[Bundle]) -> None:
        """Start what is missing, start again what died, end what is no longer wanted."""
        now = time.monotonic()
        digests = {held.digest for held in wanted}
        for held in wanted:
            if held.digest not in self.workers:
                self._begin(held)
        for digest, worker in list(self.workers.items()):
            if digest not in digests:
                self._let_go(digest, worker, now)
            else:
                worker.gone_since = None
                self._revive(worker, now)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.stop()
        self.workers.clear()

    def _begin(self, held: Bundle) -> None:
        socket = socket_path(self.home, held.digest)
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        worker = PyfuncWorker(held, socket, unpack(held))
        worker.start()
        self.workers[held.digest] = worker
        logger.info("%s: its worker is process %d", held.path, _pid(worker))

    def _revive(self, worker: PyfuncWorker, now: float) -> None:
        if worker.running:
            if now - worker.started > STABLE_SECONDS:
                worker.failures = 0
        elif not worker.due:
            pause = PAUSES[min(worker.failures, len(PAUSES) - 1)]
            code = worker.process.returncode if worker.process else None
            worker.failures += 1
            worker.due = now + pause
            logger.warning("the worker of %s ended with %s", worker.bundle.path, code)
        elif now >= worker.due:
            worker.due = 0.0
            worker.start()
            logger.info("%s: its worker is process %d", worker.bundle.path, _pid(worker))

    def _let_go(self, digest: str, worker: PyfuncWorker, now: float) -> None:
        """End a worker some time after its version left the shelf, but not before the one that
        takes its place stands: until then the server goes on with the old version."""
        model = worker.bundle.manifest.model
        heirs = [w for d, w in self.workers.items() if d != digest and w.gone_since is None]
        if not all(heir.standing for heir in heirs if heir.bundle.manifest.model == model):
            self._revive(worker, now)
        elif worker.gone_since is None:
            worker.gone_since = now
        elif now - worker.gone_since > LEAVING_SECONDS:
            worker.stop()
            del self.workers[digest]


class PyfuncBundleWatch:
    """The pyfunc bundles that the shelf's state names; opened once each."""

    def __init__(self, shelf: Path) -> None:
        self._shelf = shelf
        self._watch = StateWatch(shelf)
        self._bundles: list[Bundle] = []

    def look(self) -> list[Bundle]:
        """Those there are now; a state or bundle that cannot be read changes nothing."""
        with contextlib.suppress(BundleError):
            state = self._watch.poll()
            if state is not None:
                placed = [*state.models.values(), *state.challengers.values()]
                self._bundles = [b for p in placed for b in self._opened(p)]
        return self._bundles

    def _opened(self, placed: ShelfEntry) -> Iterator[Bundle]:
        known = [b for b in self._bundles if b.digest == placed.digest]
        with contextlib.suppress(BundleError):
            held = known[0] if known else open_bundle(self._shelf, placed)
            if held.manifest.runtime == "pyfunc":
                yield held


def unpack(held: Bundle) -> tempfile.TemporaryDirectory[str]:
    """The bundle's MLflow model in a folder of its own.

    Raises:
        ExportError: The archive holds something else than plain files.
    """
    folder = tempfile.TemporaryDirectory(prefix="tidemill-model-")
    try:
        with tarfile.open(held.model_path) as archive:
            extract(archive, Path(folder.name))
    except (tarfile.TarError, OSError) as error:
        folder.cleanup()
        raise ExportError(f"{held.model_path} cannot be unpacked: {error}") from error
    return folder


def start_worker(folder: Path, socket: Path, model: Path) -> subprocess.Popen[bytes]:
    """Start a process that answers for one model; its output joins ours."""
    command = [sys.executable, "-m", "tidemill.loop.sync.pyfunc_server", str(folder), str(socket)]
    return subprocess.Popen(
        [*command, "--model", str(model)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )


def stop_worker(process: subprocess.Popen[bytes] | None) -> None:
    """End a worker; kill it when it does not go."""
    if process is None:
        return
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def supervise(
    keeper: PyfuncSupervisor, stop: threading.Event, *, interval: float = INTERVAL
) -> None:
    """Look after the workers until `stop` is set; whatever goes wrong is told once."""
    wanted, trouble = PyfuncBundleWatch(keeper.shelf), ""
    try:
        while not stop.is_set():
            try:
                keeper.look(wanted.look())
                trouble = ""
            except Exception as error:  # one bundle's trouble must not end the others' workers
                if trouble != str(error):
                    logger.error("a worker cannot be looked after: %s", error)
                trouble = str(error)
            stop.wait(interval)
    finally:
        keeper.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Look after the workers of the home that the settings name, until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tidemill.loop.sync.pyfunc_supervisor")
    parser.add_argument("--shelf", type=Path, help="the folder of bundles; by default the home's")
    given = parser.parse_args(arguments)
    settings = Settings()
    logs.configure(
        "keeper", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    with stop_asked() as stop:
        supervise(PyfuncSupervisor(settings.home, given.shelf or settings.shelf), stop)


def _pid(worker: PyfuncWorker) -> int:
    return worker.process.pid if worker.process else 0


if __name__ == "__main__":
    main()
