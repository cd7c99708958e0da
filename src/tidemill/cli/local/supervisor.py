"""Start child processes, keep them running, and end every one of them."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from tidemill.errors import TidemillError, UnavailableError

log = logging.getLogger(__name__)

LINUX = sys.platform == "linux"
GRACE = 15.0  # seconds a child has to end by itself
STABLE = 30.0  # a child that ran this long starts with a clean slate
MAX_FAILURES = 5


class StopRequestedError(BaseException):
    """SIGTERM or SIGINT arrived: everything must end, in order. Not an `Exception`, on purpose."""


@dataclass
class Child:
    """One program the supervisor looks after; its output goes to `output`.

    Attributes:
        user: Who runs it, where that is not us; only root may choose.
        end_with: The signal that asks it to end.
        foundation: Others stand on it, so it is ended after them.
    """

    name: str
    command: Sequence[str]
    output: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    end_with: signal.Signals = signal.SIGTERM
    foundation: bool = False
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float = 0.0

    def start(self) -> None:
        """Run the program in a session of its own; it is told to end should we die ourselves."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.env},
                start_new_session=True,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid if self.user else None,
                extra_groups=[] if self.user else None,
                preexec_fn=partial(_end_with_parent, self.end_with) if LINUX else None,
            )
        self.started = time.monotonic()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self, lines: int = 15) -> str:
        """The last lines it printed."""
        try:
            return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class Supervisor:
    """Keeps children running: one that dies is started again, with growing pauses."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.stopping = False

    def start(self, child: Child) -> Child:
        child.start()
        self.children.append(child)
        return child

    def check(self) -> None:
        """Restart what died.

        Raises:
            UnavailableError: A child died five times in a row shortly after its start.
            StopRequestedError: A signal arrived.
        """
        if self.stopping:
            raise StopRequestedError
        now = time.monotonic()
        for child in self.children:
            if child.running:
                if now - child.started > STABLE:
                    child.failures = 0
            elif child.due == 0.0:
                self._plan_restart(child, now)
            elif now >= child.due:
                child.due = 0.0
                child.start()

    def _plan_restart(self, child: Child, now: float) -> None:
        child.failures += 1
        code = child.process.returncode if child.process else None
        if child.failures >= MAX_FAILURES:
            raise UnavailableError(
                f"The {child.name} process ended {child.failures} times in a row (exit {code}). "
                f"Its last words:\n{child.tail()}",
                remedy=f"The whole story is in {child.output}.",
            )
        pause = 0.5 * 2 ** (child.failures - 1)
        log.warning("%s ended with exit %s; starting it again in %.1f s", child.name, code, pause)
        child.due = now + pause

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float) -> None:
        """Look after the children until `ready()`.

        Raises:
            UnavailableError: It did not become ready in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise UnavailableError(f"{what} did not become ready within {timeout:.0f} s.")
            time.sleep(0.05)

    def run(self) -> None:
        """Look after the children until a signal arrives."""
        while True:
            self.check()
            time.sleep(0.25)

    def stop(self) -> None:
        """End every child with all its descendants, last started first; kill what will not go."""
        _end([child for child in self.children if not child.foundation])
        _end([child for child in self.children if child.foundation])
        self.children.clear()


@contextlib.contextmanager
def supervising() -> Iterator[Supervisor]:
    """A supervisor whose children are all ended when the block is left, however it is left.

    SIGTERM and SIGINT leave the block quietly; a second signal while ending is ignored.
    """
    supervisor = Supervisor()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        # Python drops what is raised in a finalizer, so the wish is written down as well.
        supervisor.stopping = True
        raise StopRequestedError

    previous = {n: signal.signal(n, request_stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with contextlib.suppress(StopRequestedError):
            yield supervisor
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        supervisor.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_once(command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run a program on our terminal to its end; it ends when we do.

    Raises:
        TidemillError: It failed; it has said why itself.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        preexec_fn=_end_with_parent if LINUX else None,
    )
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code:
        raise TidemillError(f"`{' '.join(command[1:])}` ended with exit {code}.")


def _end(children: Sequence[Child]) -> None:
    for child in reversed(children):
        _signal_group(child, child.end_with)
    deadline = time.monotonic() + GRACE
    for child in children:
        if child.process is None:
            continue
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.1, deadline - time.monotonic()))
        _signal_group(child, signal.SIGKILL)
        child.process.wait()


def _signal_group(child: Child, number: signal.Signals) -> None:
    if child.process is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, number)


def _end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send a signal when the parent dies, even by `kill -9`."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)
