"""The programs of `tidemill up` and of the demos: start, restart, stop."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tidemill.errors import SettingsError, TidemillError, UnavailableError
from tidemill.loop.operations.process_states import ProcessState, remove_states, write_states
from tidemill.processes import (
    CONFIGURATION_ERROR,
    STOP_SIGNALS,
    ProcessSupervisor,
    RestartPolicy,
    SupervisedProcess,
    spawn,
)

log = logging.getLogger(__name__)

STOP_SECONDS = 15.0
RESTARTS = RestartPolicy(
    delays=(0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0), stable_seconds=30.0, stable_delay=0.5
)
MAX_FAILURES = 5  # of a program that the start waits for


class StopRequestedError(BaseException):
    """SIGTERM or SIGINT arrived: everything must end, in order. Not an `Exception`, on purpose."""


@dataclass
class Child(SupervisedProcess):
    """One program in a session of its own; its output is appended to `output`.

    Attributes:
        env: Added to our own environment.
        user: The user that runs it, if not ours; only root may set it.
    """

    command: Sequence[str]
    output: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    own_group: bool = field(default=True, kw_only=True)

    def launch(self) -> subprocess.Popen[bytes]:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as out:
            return spawn(
                self.command,
                end_with_parent=self.stop_signal,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.env},
                start_new_session=True,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid if self.user else None,
                extra_groups=[] if self.user else None,
            )

    def tail(self, lines: int = 15) -> str:
        """The last lines of its output."""
        try:
            return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    @property
    def state(self) -> ProcessState:
        """Its state as other processes read it."""
        pid = self.process.pid if self.process is not None and self.restart_at is None else None
        return ProcessState(
            self.name, pid, self.restarts, self.failures, self.exit_code, str(self.output)
        )


class Supervisor(ProcessSupervisor[Child]):
    """Restarts programs that end, however often they do: the others continue meanwhile.

    Args:
        home: The folder in which the state of the programs is kept; None for nowhere.
    """

    def __init__(self, home: Path | None = None) -> None:
        super().__init__(RESTARTS, _exited, STOP_SECONDS)
        self.stopping = False
        self._home = home
        self._written: list[ProcessState] = []

    def check(self) -> None:
        """Restart the programs that have ended.

        Raises:
            SettingsError: A program refused its settings at its first start.
            StopRequestedError: SIGTERM or SIGINT arrived.
        """
        if self.stopping:
            raise StopRequestedError
        super().check()
        self._write_states()

    def stop(self) -> None:
        super().stop()
        if self._home is not None:
            remove_states(self._home)

    def _write_states(self) -> None:
        states = [child.state for child in self.children]
        if self._home is not None and states != self._written:
            write_states(self._home, states)
            self._written = states

    def wait_until(
        self,
        ready: Callable[[], bool],
        what: str,
        timeout: float,
        needed: Sequence[Child] = (),
    ) -> None:
        """Supervise the programs until `ready()`.

        Args:
            needed: The programs without which it does not become ready.

        Raises:
            UnavailableError: It did not become ready in `timeout` seconds, or a needed program
                ended five times in a row soon after its start.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            for child in needed:
                _give_up_if_failing(child)
            if time.monotonic() > deadline:
                raise UnavailableError(f"{what} did not become ready within {timeout:.0f} s.")
            time.sleep(0.05)

    def run(self) -> None:
        """Supervise the programs until a signal arrives."""
        while True:
            self.check()
            time.sleep(0.25)

    def run_once(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Supervise the programs while another runs on our terminal to its end.

        Raises:
            TidemillError: It failed; it has printed the reason itself.
        """
        process = spawn(command, end_with_parent=signal.SIGTERM, env={**os.environ, **(env or {})})
        try:
            while (code := process.poll()) is None:
                self.check()
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if code:
            raise TidemillError(f"`{' '.join(command[1:])}` ended with exit {code}.")


def _give_up_if_failing(child: Child) -> None:
    if child.failures >= MAX_FAILURES:
        raise UnavailableError(
            f"The {child.name} process ended {child.failures} times in a row "
            f"(exit {child.exit_code}). The end of its output:\n{child.tail()}",
            remedy=f"Read the whole output in {child.output}.",
        )


def _exited(child: Child, code: int) -> None:
    if code == CONFIGURATION_ERROR and not child.restarts:
        raise SettingsError(
            f"The {child.name} process refuses its settings:\n{child.tail()}",
            remedy=f"Correct the setting. The whole output is in {child.output}.",
        )
    pause = max(0.0, (child.restart_at or 0.0) - time.monotonic())
    log.warning("%s ended with exit %s; restarting it in %.1f s", child.name, code, pause)


@contextlib.contextmanager
def supervising(home: Path | None = None) -> Iterator[Supervisor]:
    """A supervisor that stops all its programs when the block is left, for whatever reason.

    SIGTERM and SIGINT leave the block without an error; a second signal meanwhile is ignored.

    Args:
        home: The folder in which the state of the programs is kept; None for nowhere.
    """
    supervisor = Supervisor(home)

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # Python drops exceptions raised in a finalizer, so the request is also kept here.
        supervisor.stopping = True
        raise StopRequestedError

    previous = {n: signal.signal(n, request_stop) for n in STOP_SIGNALS}
    try:
        with contextlib.suppress(StopRequestedError):
            yield supervisor
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        supervisor.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)
