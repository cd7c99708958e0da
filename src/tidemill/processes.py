"""Child processes: start them, restart those that end, and stop them in order.

Used by both planes: `tidemill up` (programs), the data plane (forked workers) and the pyfunc
supervisor (one process per model). No child is given up: see decision 195.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from tidemill.addresses import bypass_proxies
from tidemill.errors import SettingsError

log = logging.getLogger(__name__)

#: The exit code of a process that refuses its settings, as in sysexits.h: a restart cannot help.
CONFIGURATION_ERROR = os.EX_CONFIG

LINUX = sys.platform == "linux"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.02


def keep_files_private() -> None:
    """Create files and folders for this user alone from now on, in child processes too.

    Databases hold hashes of keys, logs and the journal hold what users sent.
    """
    os.umask(0o077)


class Process(Protocol):
    """A running child; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code.

        Raises:
            subprocess.TimeoutExpired: The process still runs after `timeout` seconds.
        """
        ...


class ForkedProcess:
    """A child made by `os.fork`, as a `Process`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(POLL_SECONDS)
        return code


@dataclass(frozen=True)
class RestartPolicy:
    """When a child that ended is started again.

    Attributes:
        delays: Seconds before the restart after the first, second, ... failure in a row. A failure
            is an end within `stable_seconds` of the start; the last delay repeats.
        stable_seconds: A child that ran this long has no failures any more.
        stable_delay: Seconds before the restart of such a child.
    """

    delays: tuple[float, ...]
    stable_seconds: float
    stable_delay: float

    def delay(self, failures: int) -> float:
        """Seconds before the restart after so many failures in a row."""
        return self.delays[min(failures, len(self.delays)) - 1] if failures else self.stable_delay


@dataclass
class SupervisedProcess:
    """One child of a supervisor. Subclasses implement `launch`.

    Attributes:
        stop_signal: The signal that asks it to end.
        own_group: It leads a process group; signals go to the whole group.
        stop_last: Other children depend on it, so it is stopped after them.
        failures: How often in a row it ended soon after its start, or could not be started.
        restarts: How often it was started again.
        exit_code: How it ended last; None if it has not, or could not be started.
    """

    name: str
    stop_signal: signal.Signals = field(default=signal.SIGTERM, kw_only=True)
    own_group: bool = field(default=False, kw_only=True)
    stop_last: bool = field(default=False, kw_only=True)
    process: Process | None = field(default=None, kw_only=True)
    started_at: float = field(default=0.0, kw_only=True)
    restart_at: float | None = field(default=None, kw_only=True)
    failures: int = field(default=0, kw_only=True)
    restarts: int = field(default=0, kw_only=True)
    exit_code: int | None = field(default=None, kw_only=True)

    def launch(self) -> Process:
        """Start the process."""
        raise NotImplementedError

    def stopped(self) -> None:
        """Called after the supervisor has stopped the process: clean up what it leaves behind."""

    def start(self) -> None:
        self.restart_at = None
        self.process = self.launch()
        self.started_at = time.monotonic()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process, or its group; a process that is gone is left alone."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.own_group:
                os.killpg(self.process.pid, number)
            elif self.process.poll() is None:
                os.kill(self.process.pid, number)


P = TypeVar("P", bound=SupervisedProcess)


class ProcessSupervisor(Generic[P]):
    """Restarts its children when they end, and stops them all.

    Args:
        policy: When an ended child is started again.
        on_exit: Called once with each child that ended by itself, and its exit code; -1 if it could
            not be started again. It may raise.
        stop_seconds: Seconds that children have to end by themselves before they are killed.
    """

    def __init__(
        self, policy: RestartPolicy, on_exit: Callable[[P, int], None], stop_seconds: float
    ) -> None:
        self.children: list[P] = []
        self.stop_seconds = stop_seconds
        self._policy = policy
        self._on_exit = on_exit

    def start(self, child: P) -> P:
        """Start a child and supervise it from now on."""
        child.start()
        self.children.append(child)
        return child

    def check(self) -> None:
        """Restart every child that has ended and whose delay is over."""
        for child in self.children:
            self.revive(child)

    def revive(self, child: P) -> None:
        """Restart one child if it has ended and its delay is over."""
        now = time.monotonic()
        if child.restart_at is not None:
            if now >= child.restart_at:
                self._restart(child)
        elif child.process is not None and (code := child.process.poll()) is not None:
            stable = now - child.started_at >= self._policy.stable_seconds
            child.failures = 0 if stable else child.failures + 1
            child.exit_code = code
            child.restart_at = now + self._policy.delay(child.failures)
            if child.own_group:  # what it had started would hold its port
                child.send_signal(signal.SIGKILL)
            self._on_exit(child, code)

    def _restart(self, child: P) -> None:
        child.restarts += 1
        try:
            child.start()
        except Exception as error:  # such as a full disk, or no more processes
            log.error("%s cannot be started: %s", child.name, error)
            child.failures += 1
            child.exit_code = None
            child.restart_at = time.monotonic() + self._policy.delay(child.failures)
            self._on_exit(child, -1)

    def next_restart(self) -> float | None:
        """Seconds until the next restart; None when no child waits for one."""
        due = [child.restart_at for child in self.children if child.restart_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def remove(self, child: P) -> None:
        """Stop one child and forget it."""
        self._stop([child])
        self.children.remove(child)

    def stop(self) -> None:
        """Stop every child, the last started first; kill those that do not end in time."""
        self._stop([child for child in self.children if not child.stop_last])
        self._stop([child for child in self.children if child.stop_last])
        self.children.clear()

    def _stop(self, children: Sequence[P]) -> None:
        for child in reversed(children):
            child.send_signal(child.stop_signal)
        deadline = time.monotonic() + self.stop_seconds
        for child in children:
            if child.process is not None:
                _wait_or_kill(child, child.process, deadline)
            child.stopped()


def _wait_or_kill(child: SupervisedProcess, process: Process, deadline: float) -> None:
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        log.error("%s (process %d) did not end in time and is killed", child.name, process.pid)
    child.send_signal(signal.SIGKILL)  # also the rest of its group
    process.wait()


def spawn(
    command: Sequence[str], *, end_with_parent: signal.Signals | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program with the default action for SIGTERM and SIGINT.

    Without that, a child would ignore the signals that our own parent made us ignore, as scripts do
    with SIGINT for what they start in the background.

    Args:
        end_with_parent: On Linux, the signal that the child gets when the calling thread ends, even
            by `kill -9`.
        options: As of `subprocess.Popen`.
    """
    return subprocess.Popen(
        command, preexec_fn=partial(_before_exec, end_with_parent if LINUX else None), **options
    )


@contextlib.contextmanager
def program() -> Iterator[None]:
    """The main block of a program of `tidemill up`: requests to this machine use no proxy.

    Its files are for its user alone. It exits with `CONFIGURATION_ERROR` and the message if the
    block raises a SettingsError.
    """
    bypass_proxies()
    keep_files_private()
    try:
        yield
    except SettingsError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(CONFIGURATION_ERROR)


def stop_process(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Stop one process that no supervisor restarts; kill it after so many seconds."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def reset_stop_signals() -> None:
    """Give SIGTERM and SIGINT their default action."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _before_exec(end_with_parent: signal.Signals | None) -> None:
    reset_stop_signals()
    if end_with_parent is not None:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, end_with_parent)
