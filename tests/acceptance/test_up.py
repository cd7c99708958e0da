"""`tidemill up` with real processes and ports, and the command that it prints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

UP = [sys.executable, "-m", "tidemill", "up"]
#: Requests to this machine need no proxy.
BROKEN_PROXY = {"HTTP_PROXY": "http://192.0.2.1:9", "http_proxy": "http://192.0.2.1:9"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Up:
    """A running `tidemill up`, and what it has printed so far."""

    def __init__(self, home: Path, *more: str) -> None:
        port = free_port()
        # Not the next one, which a second API would take.
        self.ports = (port, next(p for p in iter(free_port, None) if abs(p - port) > 1))
        options = ["--home", str(home), "--port", str(self.ports[0])]
        options += ["--mlflow-port", str(self.ports[1])]
        self.output = home.parent / "up.txt"
        self.api = f"http://127.0.0.1:{self.ports[0]}"
        self.mlflow = f"http://127.0.0.1:{self.ports[1]}"
        self.command = [*UP, *options]
        self.start(*more)

    def start(self, *more: str) -> None:
        with self.output.open("w") as out:
            # MLflow's client leaves its settings in the environment of a process that used it.
            clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
            environment = {**clean, "COLUMNS": "300", **BROKEN_PROXY}
            self.process = subprocess.Popen(
                [*self.command, *more], stdout=out, stderr=subprocess.STDOUT, env=environment
            )

    def await_text(self, text: str, timeout: float = 300) -> str:
        deadline = time.monotonic() + timeout
        while text not in (printed := self.output.read_text()):
            assert self.process.poll() is None, printed
            assert time.monotonic() < deadline, printed
            time.sleep(0.05)
        return printed

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(300)


@contextlib.contextmanager
def running(home: Path, *more: str) -> Iterator[Up]:
    up = Up(home, *more)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.end()


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=300) as answer:  # its packages may still be loading
        body: bytes = answer.read()
        return body


def await_fetch(url: str, timeout: float = 300) -> bytes:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return fetch(url)
        except OSError:
            assert time.monotonic() < deadline, f"{url} never answered"
            time.sleep(0.1)


def descendants(pid: int) -> set[int]:
    """All processes below one, by the process table."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`tidemill up` from nothing, in a folder of its own."""
    home = tmp_path_factory.mktemp("up") / "#1?50%20é" / ".tidemill"
    home.parent.mkdir()
    with running(home, "--first", "gallery:iris") as up:
        up.await_text("from iris-classifier")
        yield up


def test_from_nothing_to_a_prediction_with_the_printed_command(served: Up) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed, and the printed command uses it")
    command = served.await_text("-d ").partition("from iris-classifier:")[2]
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=300, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["prediction"] in ("Iris-setosa", "Iris-versicolor", "Iris-virginica")
    assert answer["model"] == "iris-classifier"
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_the_mlflow_server_shows_the_registered_model(served: Up) -> None:
    await_fetch(f"{served.mlflow}/health")
    url = f"{served.mlflow}/api/2.0/mlflow/registered-models/get?name=iris-classifier"
    model = json.loads(fetch(url))["registered_model"]
    assert {"alias": "champion", "version": "1"} in model["aliases"]
    assert b"<html" in fetch(served.mlflow)[:500].lower()


def test_helpers_that_die_return_and_predictions_continue(served: Up) -> None:
    """MLflow's server leaves a child behind, which would keep its port."""
    await_fetch(f"{served.mlflow}/health")
    states = served.output.parent / ".tidemill" / "processes.json"
    pids = {each["name"]: each["pid"] for each in json.loads(states.read_bytes())["processes"]}
    for name in ("mlflow", "sync", "ingest", "watch", "worker"):
        os.kill(pids[name], signal.SIGKILL)
    deadline = time.monotonic() + 300
    while True:
        assert json.loads(fetch(f"{served.api}/ready"))["status"] == "ready"
        now = {each["name"]: each["pid"] for each in json.loads(states.read_bytes())["processes"]}
        if all(now.values()) and not {now[name] for name in pids} & {
            pid for name, pid in pids.items() if name != "api"
        }:
            break
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    assert now["api"] == pids["api"]
    await_fetch(f"{served.mlflow}/health")


def test_mlflow_refuses_foreign_hosts_and_origins(served: Up) -> None:
    await_fetch(f"{served.mlflow}/health")
    create = f"{served.mlflow}/api/2.0/mlflow/experiments/create"
    as_json = {"Content-Type": "application/json"}
    for foreign in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        request = urllib.request.Request(create, b'{"name": "x"}', {**as_json, **foreign})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=300)
        with refused.value as answer:
            assert answer.status == 403
    page = urllib.request.Request(
        f"{served.mlflow}/version", headers={"Origin": "http://evil.example"}
    )
    with urllib.request.urlopen(page, timeout=300) as answer:
        assert "access-control-allow-origin" not in answer.headers


def test_both_planes_answer_on_one_port(served: Up) -> None:
    ready = json.loads(fetch(f"{served.api}/ready"))
    assert ready["status"] == "ready"
    assert "iris-classifier" in fetch(f"{served.api}/experiments").decode()
    assert "/predict" in json.loads(fetch(f"{served.api}/openapi.json"))["paths"]


def test_predictions_need_a_key(served: Up) -> None:
    request = urllib.request.Request(f"{served.api}/predict", b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=300)
    with refused.value as answer:
        assert answer.status == 403
        assert json.load(answer)["title"] == "Forbidden"


def test_a_second_up_names_the_process_that_uses_the_home(served: Up, tmp_path: Path) -> None:
    home = served.output.parent / ".tidemill"
    second = subprocess.run(
        [*UP, "--home", str(home)], capture_output=True, text=True, timeout=300, check=False
    )
    assert second.returncode == 1
    assert f"process {served.process.pid}" in " ".join(second.stderr.split())
    assert served.api in " ".join(second.stderr.split())


def test_a_port_in_use_is_named_with_the_option_to_change(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = subprocess.run(
            [*UP, "--home", str(tmp_path / "h"), "--port", str(port)],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"Port {port}" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_every_process_and_the_next_up_resumes(
    served: Up, number: signal.Signals
) -> None:
    await_fetch(f"{served.mlflow}/health")
    children = descendants(served.process.pid)
    assert len(children) >= 5
    assert served.end(number) == 0
    assert [pid for pid in children if alive(pid)] == []
    assert "Traceback" not in served.output.read_text()
    served.start()
    printed = served.await_text("from iris-classifier")
    assert "created now" not in printed
    key = re.search(r"\$\(cat (.+)\)\"", printed)
    assert key is not None
    (file,) = shlex.split(key[1])
    assert Path(file).stat().st_mode & 0o777 == 0o600
