"""Several processes behind one port: a parent that restarts and stops them.

All accept connections from one listening socket that the parent opened, so a connection goes to a
process that is free, and none is lost when a process dies. The parent does nothing else: it has no
threads and no models. See decision 036.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType

from tidemill.errors import SettingsError, TidemillError
from tidemill.processes import (
    CONFIGURATION_ERROR,
    STOP_SIGNALS,
    ForkedProcess,
    ProcessSupervisor,
    RestartPolicy,
    SupervisedProcess,
    reset_stop_signals,
)
from tidemill.serving.server.sockets import bind, url_of
from tidemill.serving.settings import ServingSettings

log = logging.getLogger(__name__)
FAILED_TO_START = 3  # exit code
RESTARTS = RestartPolicy(
    delays=(1.0, 2.0, 4.0, 8.0, 15.0, 30.0), stable_seconds=30.0, stable_delay=0.0
)
KILL_SECONDS = 5.0  # after the grace period, until a process is killed


def run(settings: ServingSettings, *, on_started: Callable[[str], None] | None = None) -> None:
    """Serve with as many processes as the settings say, until SIGTERM or SIGINT.

    Args:
        on_started: Called with the base URL when every process is ready.

    Raises:
        SettingsError: The port is taken, or a setting is invalid.
        TidemillError: A process could not start.
    """
    if settings.workers == 1:
        from tidemill.serving.server import server

        server.run(settings, on_started=on_started)
        return
    from tidemill.serving.telemetry.counters import remove_dead_processes

    remove_dead_processes(settings.counts_dir)
    listener = bind(settings.host, settings.port)
    listener.listen(2048)
    WorkerSupervisor(settings, listener, on_started).run()


@dataclass
class ServingWorker(SupervisedProcess):
    """A forked process that runs `serve(number)`."""

    number: int
    serve: Callable[[int], None]

    def launch(self) -> ForkedProcess:
        pid = os.fork()
        if pid:
            log.info("%s is process %d", self.name, pid)
            return ForkedProcess(pid)
        status = FAILED_TO_START
        try:
            self.serve(self.number)
            status = 0
        except TidemillError as error:
            if isinstance(error, SettingsError):
                status = CONFIGURATION_ERROR
            log.error("%s cannot serve: %s", self.name, error)
        except BaseException:
            log.exception("%s failed", self.name)
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


class WorkerSupervisor:
    """Runs the serving processes until a signal arrives."""

    def __init__(
        self,
        settings: ServingSettings,
        listener: socket.socket,
        on_started: Callable[[str], None] | None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._on_started = on_started
        self._unready = set(range(1, settings.workers + 1))
        self._ready, self._report_ready = os.pipe()
        self._wake, self._wakeup = os.pipe()
        self._stopping = False
        self._failed: type[TidemillError] | None = None
        stop_seconds = settings.drain + settings.grace + KILL_SECONDS
        self._processes = ProcessSupervisor[ServingWorker](RESTARTS, self._exited, stop_seconds)

    def run(self) -> None:
        """Return when a signal has arrived and every process has ended.

        Raises:
            TidemillError: A process could not start.
        """
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for each in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(each, self._on_signal)
        serve = partial(self._serve, os.getpid())
        for number in range(1, self._settings.workers + 1):
            self._processes.start(ServingWorker(f"worker {number}", number, serve))
        while not self._stopping:
            self._wait()
            if not self._stopping:
                self._processes.check()
        self._listener.close()
        self._processes.stop()
        if self._failed:
            raise self._failed("A serving process could not start; see its log.")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in STOP_SIGNALS:
            self._stopping = True

    def _exited(self, worker: ServingWorker, code: int) -> None:
        assert worker.process is not None
        pause = RESTARTS.delay(worker.failures)
        log.error(
            "%s (process %d) ended with exit %d; restarting it in %.1f s",
            worker.name, worker.process.pid, code, pause,
        )  # fmt: skip
        refused = {FAILED_TO_START: TidemillError, CONFIGURATION_ERROR: SettingsError}.get(code)
        if refused is not None and worker.number in self._unready:
            self._failed, self._stopping = refused, True

    def _serve(self, parent: int, number: int) -> None:
        """Serve in a forked process; `parent` is the process that forked it."""
        signal.set_wakeup_fd(-1)
        reset_stop_signals()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from tidemill.serving.server import server
        from tidemill.serving.server.asgi import ServingApp
        from tidemill.serving.service import Service

        def report_ready(url: str) -> None:
            os.write(self._report_ready, bytes([number]))

        service = Service(self._settings, worker=f"w{number}")
        server.serve(self._settings, ServingApp(service), self._listener, report_ready, parent)

    def _wait(self) -> None:
        """Wait for a signal, a process that became ready, or the next restart."""
        pause = self._processes.next_restart()
        readable, _, _ = select.select(
            [self._wake, self._ready], [], [], 60.0 if pause is None else pause
        )
        if self._wake in readable:
            os.read(self._wake, 4096)
        if self._ready in readable:
            self._mark_ready(os.read(self._ready, 256))

    def _mark_ready(self, numbers: bytes) -> None:
        if not self._unready:
            return
        self._unready -= set(numbers)
        if not self._unready and self._on_started is not None:
            self._on_started(url_of(self._listener))
