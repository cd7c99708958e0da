"""Child processes: signals of what is started, restart delays, and the order of stopping."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers import wait_until
from tidemill.processes import (
    ForkedProcess,
    ProcessSupervisor,
    RestartPolicy,
    SupervisedProcess,
    spawn,
    stop_process,
)

PROMPT = RestartPolicy(delays=(0.0,), stable_seconds=30.0, stable_delay=0.0)
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@dataclass
class Program(SupervisedProcess):
    """A program that logs when it was stopped."""

    command: list[str]
    log: list[str] = field(default_factory=list)

    def launch(self) -> subprocess.Popen[bytes]:
        return spawn(self.command, start_new_session=self.own_group)

    def stopped(self) -> None:
        self.log.append(self.name)


def test_a_program_gets_default_signals_where_ours_are_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
        process = spawn([sys.executable, "-c", code], stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.communicate(timeout=60)[0] == b"False\n"


@pytest.mark.parametrize(("failures", "delay"), [(0, 0.25), (1, 1.0), (2, 3.0), (3, 3.0)])
def test_the_last_delay_repeats(failures: int, delay: float) -> None:
    policy = RestartPolicy(delays=(1.0, 3.0), stable_seconds=30.0, stable_delay=0.25)
    assert policy.delay(failures) == delay


def test_a_child_is_restarted_after_its_delay_and_counts_failures() -> None:
    exits: list[int] = []
    policy = RestartPolicy(delays=(60.0,), stable_seconds=30.0, stable_delay=0.0)
    supervisor = ProcessSupervisor[Program](policy, lambda _, code: exits.append(code), 5.0)
    child = supervisor.start(Program("p", [sys.executable, "-c", "raise SystemExit(7)"]))
    assert child.process is not None
    first = child.process
    first.wait(60)
    assert supervisor.next_restart() is None
    supervisor.check()
    supervisor.check()
    assert (exits, child.failures, child.process) == ([7], 1, first)
    assert 50.0 < (supervisor.next_restart() or 0.0) <= 60.0
    child.restart_at = time.monotonic()
    supervisor.check()
    assert child.process is not first
    supervisor.stop()


def test_a_child_that_ran_long_has_no_failures() -> None:
    supervisor = ProcessSupervisor[Program](PROMPT, lambda *_: None, 5.0)
    child = supervisor.start(Program("p", [sys.executable, "-c", ""]))
    assert child.process is not None
    child.process.wait(60)
    child.failures, child.started_at = 3, time.monotonic() - 31.0
    supervisor.check()
    assert child.failures == 0
    supervisor.stop()


def test_what_a_killed_program_had_started_ends_before_the_restart(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = (
        "import os, subprocess, sys, time\n"
        "lower = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "with open(sys.argv[1] + '.draft', 'w') as file: file.write(str(lower.pid))\n"
        "os.rename(sys.argv[1] + '.draft', sys.argv[1])\n"
        "time.sleep(3600)\n"
    )
    policy = RestartPolicy(delays=(60.0,), stable_seconds=30.0, stable_delay=0.0)
    supervisor = ProcessSupervisor[Program](policy, lambda *_: None, 5.0)
    command = [sys.executable, "-c", code, str(started)]
    child = supervisor.start(Program("p", command, own_group=True))
    wait_until(started.exists, "the program to start another")
    lower = int(started.read_text())
    assert child.process is not None
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait(60)
    assert is_running(lower)
    supervisor.check()
    try:
        wait_until(lambda: not is_running(lower), "the other to end", 60)
    finally:
        supervisor.stop()
        with contextlib.suppress(ProcessLookupError):
            os.kill(lower, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_that_cannot_be_started_again_is_tried_later() -> None:
    supervisor = ProcessSupervisor[Program](PROMPT, lambda *_: None, 5.0)
    child = supervisor.start(Program("p", [sys.executable, "-c", ""]))
    assert child.process is not None
    child.process.wait(60)
    child.command = ["/does/not/exist"]
    for _ in range(20):
        supervisor.check()
    assert child.failures > 5
    assert child.exit_code is None
    child.command = SLEEP
    supervisor.check()
    assert child.running
    supervisor.stop()


def test_children_that_others_depend_on_are_stopped_last() -> None:
    log: list[str] = []
    supervisor = ProcessSupervisor[Program](PROMPT, lambda *_: None, 5.0)
    for name, last in (("database", True), ("worker", False)):
        supervisor.start(Program(name, SLEEP, log, stop_last=last))
    supervisor.stop()
    assert log == ["worker", "database"]
    assert supervisor.children == []


def test_a_child_that_ignores_the_signal_is_killed() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(flush=True); time.sleep(60)"
    )
    with spawn([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stop_process(process, 0.1)
        assert process.returncode == -signal.SIGKILL


def test_a_forked_process_has_an_exit_code() -> None:
    process = ForkedProcess(os.posix_spawn(SLEEP[0], SLEEP, os.environ))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == process.poll() == -signal.SIGTERM
