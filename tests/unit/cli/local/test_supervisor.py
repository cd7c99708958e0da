from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tidemill.cli.local.supervisor import (
    MAX_FAILURES,
    Child,
    StopRequestedError,
    supervising,
)
from tidemill.errors import SettingsError, TidemillError, UnavailableError
from tidemill.loop.operations.process_states import process_problem, read_states
from tidemill.processes import RestartPolicy

SLEEP = "import time; time.sleep(900)"


def child(tmp_path: Path, code: str, name: str = "sleeper") -> Child:
    return Child(name, [sys.executable, "-c", code], tmp_path / f"{name}.out")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")


def wait_for(condition: object, timeout: float = 300.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_leaving_the_block_ends_every_child(tmp_path: Path) -> None:
    with supervising() as supervisor:
        first = supervisor.start(child(tmp_path, SLEEP, "one"))
        second = supervisor.start(child(tmp_path, SLEEP, "two"))
        pids = [c.process.pid for c in (first, second) if c.process]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_grandchildren_end_too(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]);"
        "print(p.pid, flush=True); time.sleep(900)"
    )
    with supervising() as supervisor:
        parent = supervisor.start(child(tmp_path, code))
        supervisor.wait_until(lambda: parent.tail().strip().isdigit(), "the grandchild", 300)
        grandchild = int(parent.tail())
    wait_for(lambda: gone(grandchild))


def test_a_child_that_dies_is_restarted(tmp_path: Path) -> None:
    with supervising() as supervisor:
        sleeper = supervisor.start(child(tmp_path, SLEEP))
        assert sleeper.process is not None
        first = sleeper.process.pid
        os.kill(first, signal.SIGKILL)
        supervisor.wait_until(
            lambda: sleeper.running and sleeper.process.pid != first, "the sleeper", 60
        )
        assert sleeper.failures == 1


def test_a_child_that_keeps_dying_is_reported_with_the_end_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.cli.local.supervisor.MAX_FAILURES", 2)
    with supervising() as supervisor:
        baker = supervisor.start(child(tmp_path, "raise SystemExit('no bread left')"))
        with pytest.raises(UnavailableError, match="no bread left"):
            supervisor.wait_until(lambda: False, "the baker", 300, needed=[baker])


def test_a_child_that_is_not_needed_may_end_as_often_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = RestartPolicy(delays=(0.0,), stable_seconds=30.0, stable_delay=0.0)
    monkeypatch.setattr("tidemill.cli.local.supervisor.RESTARTS", fast)
    with supervising(tmp_path) as supervisor:
        serving = supervisor.start(child(tmp_path, SLEEP, "serving"))
        helper = supervisor.start(child(tmp_path, "raise SystemExit(7)", "sync"))
        first = serving.process
        supervisor.wait_until(lambda: helper.failures > MAX_FAILURES + 2, "the failures", 300)
        assert serving.process is first
        assert serving.running
        helper.restart_at = time.monotonic() + 600
        supervisor.check()
        problem = process_problem(tmp_path)
        assert problem is not None
        assert re.match(r"sync ended \(exit 7\), \d+ times in a row", problem)
        up = {state.name: state.pid for state in read_states(tmp_path)}
        assert up == {"serving": first and first.pid, "sync": None}
    assert read_states(tmp_path) == ()


def test_settings_that_are_refused_at_the_first_start_end_it(tmp_path: Path) -> None:
    code = (
        "from tidemill.errors import SettingsError\n"
        "from tidemill.processes import program\n"
        "with program():\n    raise SettingsError('Setting x: no.')"
    )
    with supervising() as supervisor:
        refusing = supervisor.start(child(tmp_path, code))
        with pytest.raises(SettingsError, match="refuses its settings:\nSetting x: no"):
            supervisor.run()
        refusing.restarts = 1  # later the same settings are not the reason to end everything
        refusing.start()
        supervisor.wait_until(lambda: refusing.failures == 2, "the restart", 300)


def test_programs_are_supervised_while_another_runs_to_its_end(tmp_path: Path) -> None:
    waits = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)"
    touches = f"open({str(tmp_path / 'go')!r}, 'w')"
    with supervising() as supervisor:
        touching = supervisor.start(child(tmp_path, touches))
        assert touching.process is not None
        touching.process.wait()
        (tmp_path / "go").unlink()  # only a restart makes it again
        supervisor.run_once([sys.executable, "-c", waits])
        with pytest.raises(TidemillError, match="exit 3"):
            supervisor.run_once([sys.executable, "-c", "raise SystemExit(3)"])


def test_waiting_times_out(tmp_path: Path) -> None:
    with supervising() as supervisor:
        supervisor.start(child(tmp_path, SLEEP))
        with pytest.raises(UnavailableError, match="did not become ready within 0 s"):
            supervisor.wait_until(lambda: False, "the tide", 0.1)


def test_sigterm_leaves_the_block_without_an_error(tmp_path: Path) -> None:
    with supervising() as supervisor:
        sleeper = supervisor.start(child(tmp_path, SLEEP))
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.run()
    assert not sleeper.running
    assert issubclass(StopRequestedError, BaseException)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells children of their parent's death")
def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from tidemill.cli.local.supervisor import Child, supervising
with supervising() as s:
    c = s.start(Child("c", [sys.executable, "-c", {SLEEP!r}], Path({str(tmp_path / "o")!r})))
    print(c.process.pid, flush=True)
    s.run()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()
    wait_for(lambda: gone(pid))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_background_job_stops_at_a_signal_that_its_shell_ignored(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Its children get the default action back as well."""
    says = "import signal, time; print(signal.getsignal(signal.SIGINT)); time.sleep(600)"
    code = f"""
import sys
from pathlib import Path
from tidemill.cli.local.supervisor import Child, supervising
with supervising() as s:
    c = s.start(Child("c", [sys.executable, "-uc", {says!r}], Path({str(tmp_path / "o")!r})))
    s.wait_until(c.tail, "the child", 300)
    print(c.process.pid, c.tail().strip(), flush=True)
    s.run()
"""
    script = 'trap \'\' INT TERM; exec "$0" -c "$1"'
    command = ["sh", "-c", script, sys.executable, code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, handler = run.stdout.readline().split(maxsplit=1)
        assert "default_int_handler" in handler
        run.send_signal(number)
        assert run.wait(300) == 0
    wait_for(lambda: gone(int(pid)))


def test_trust_reaches_the_sync_and_the_pyfunc_supervisor(tmp_path: Path) -> None:
    from tidemill.cli.local import process_specs
    from tidemill.settings import Settings

    settings = Settings(home=tmp_path)
    assert process_specs.sync(settings, ["m"], trust=True).command[-2:] == ["m", "--trust"]
    assert "--trust" not in process_specs.sync(settings, ["m"]).command
    shelf = tmp_path / "elsewhere"
    assert process_specs.pyfunc_supervisor(settings, shelf).command[-2:] == ["--shelf", str(shelf)]


def test_a_signal_whose_exception_is_lost_still_stops_the_supervisor() -> None:
    with supervising() as supervisor:
        with contextlib.suppress(BaseException):  # as Python does around a finalizer
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        assert supervisor.stopping
        supervisor.run()
