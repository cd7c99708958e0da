"""Several processes behind one port: a parent that keeps them alive, and ends them.

All accept from one listening socket that the parent opened, so a connection waits for whoever is
free and none is lost with a process. The parent does nothing else: no threads, no models.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from tidemill.errors import TidemillError
from tidemill.serving.http.sockets import bind, url_of
from tidemill.serving.settings import ServingSettings

log = logging.getLogger(__name__)
FAILED_TO_START = 3
SHORT_LIFE = 5.0  # seconds; a process that dies sooner is replaced after a pause
PAUSE = 1.0
PATIENCE = 5.0  # seconds beyond the grace before a process is killed
ENDING = (signal.SIGTERM, signal.SIGINT)


def run(settings: ServingSettings, *, on_started: Callable[[str], None] | None = None) -> None:
    """Serve with as many processes as the settings say, until a signal ends them.

    Args:
        on_started: Called with the base URL when every process is ready.

    Raises:
        SettingsError: The port is taken, or a setting does not hold.
    """
    if settings.workers == 1:
        from tidemill.serving.http import server

        server.run(settings, on_started=on_started)
        return
    from tidemill.serving.telemetry.counters import remove_dead_processes

    remove_dead_processes(settings.counts_dir)
    listener = bind(settings.host, settings.port)
    listener.listen(2048)
    WorkerSupervisor(settings, listener, on_started).run()


class WorkerSupervisor:
    """Starts the processes, replaces those that die, and ends them all."""

    def __init__(
        self,
        settings: ServingSettings,
        listener: socket.socket,
        on_started: Callable[[str], None] | None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._on_started = on_started
        self._workers: dict[int, tuple[int, float]] = {}  # pid -> number, start
        self._due: list[tuple[float, int]] = []  # when to start which number
        self._unready = set(range(1, settings.workers + 1))
        self._ready, self._tell_ready = os.pipe()
        self._wake, self._wakened = os.pipe()
        self._ending = False
        self._failed = False

    def run(self) -> None:
        """Until a signal came and every process has ended."""
        os.set_blocking(self._wakened, False)
        signal.set_wakeup_fd(self._wakened, warn_on_full_buffer=False)
        for each in (*ENDING, signal.SIGCHLD):
            signal.signal(each, self._on_signal)
        for number in range(1, self._settings.workers + 1):
            self._start(number)
        while not self._ending:
            self._wait()
            self._reap()
            self._start_due()
        self._end()
        if self._failed:
            raise TidemillError("A serving process could not start; its log says why.")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in ENDING:
            self._ending = True

    def _start(self, number: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._workers[pid] = (number, time.monotonic())
            log.info("worker %d is process %d", number, pid)
            return
        status = FAILED_TO_START
        try:
            self._become_worker(number, parent)
            status = 0
        except TidemillError as error:
            log.error("worker %d cannot serve: %s", number, error)
        except BaseException:
            log.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _become_worker(self, number: int, parent: int) -> None:
        signal.set_wakeup_fd(-1)
        for each in (*ENDING, signal.SIGCHLD):
            signal.signal(each, signal.SIG_DFL)
        from tidemill.serving.http import server
        from tidemill.serving.http.asgi import ServingApp
        from tidemill.serving.service import Service

        def tell(url: str) -> None:
            os.write(self._tell_ready, bytes([number]))

        service = Service(self._settings, worker=f"w{number}")
        server.serve(self._settings, ServingApp(service), self._listener, tell, parent=parent)

    def _wait(self) -> None:
        """Until a signal, a ready process, or the next start that is due."""
        now = time.monotonic()
        pause = min((when - now for when, _ in self._due), default=60.0)
        readable, _, _ = select.select([self._wake, self._ready], [], [], max(0.0, pause))
        if self._wake in readable:
            os.read(self._wake, 4096)
        if self._ready in readable:
            self._note_ready(os.read(self._ready, 256))

    def _note_ready(self, numbers: bytes) -> None:
        if not self._unready:
            return
        self._unready -= set(numbers)
        if not self._unready and self._on_started is not None:
            self._on_started(url_of(self._listener))

    def _reap(self) -> None:
        """Note which processes died, and when to replace them."""
        for pid, status in _dead():
            if pid not in self._workers:
                continue
            number, started = self._workers.pop(pid)
            if self._ending:
                continue
            code = os.waitstatus_to_exitcode(status)
            log.error("worker %d (process %d) ended with %d", number, pid, code)
            if code == FAILED_TO_START and number in self._unready:
                self._failed = self._ending = True
            lived = time.monotonic() - started
            pause = PAUSE if lived < SHORT_LIFE else 0.0
            self._due.append((time.monotonic() + pause, number))

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [number for when, number in self._due if when <= now]
        self._due = [(when, number) for when, number in self._due if when > now]
        for number in due:
            if not self._ending:
                self._start(number)

    def _end(self) -> None:
        """Let every process finish what it has begun; kill what does not end in time."""
        self._listener.close()
        for pid in self._workers:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._settings.drain + self._settings.grace + PATIENCE
        while self._workers and time.monotonic() < deadline:
            select.select([self._wake], [], [], 0.05)
            self._reap()
        for pid in self._workers:
            log.error("process %d did not end in time and is killed", pid)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _dead() -> list[tuple[int, int]]:
    """Children that ended, with their wait status."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, status))
