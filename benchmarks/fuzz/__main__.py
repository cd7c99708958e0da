"""Send random requests: `python -m benchmarks.fuzz --plane data --requests 1000000`.

It trains a model in a new home, starts the server without any other process, sends from several
processes over raw sockets, and counts responses by status. It exits with 1 on a 5xx other than 503,
on a traceback in the log, on a request that is never answered, if the server ends, and if its
memory grows from the first quarter of the run to the last by more than `--growth` MB.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.chaos.processes import Up, free_ports
from benchmarks.fuzz.client import Counts
from benchmarks.fuzz.sender import Shape, send_from_process

PROCESSES = 2
UNLIMITED = {
    "TIDEMILL_RATE_LIMIT": "off",
    "TIDEMILL_RATE_LIMIT_ADDRESS": "off",
    "TIDEMILL_API_RATE_LIMIT": "off",
    "TIDEMILL_JOURNAL_SAMPLE": "0.001",
    "TIDEMILL_PROJECT": "gallery:iris",
}


def new_home(folder: Path, database: str | None) -> tuple[Path, dict[str, str]]:
    """A home with one model, and the environment of a server in it."""
    folder.chmod(0o755)
    up = Up(
        folder / "home", scaled=False, env={"TIDEMILL_DATABASE_URL": database} if database else {}
    )
    try:
        up.wait_until_ready()
    finally:
        up.close()
    uri = up.settings().mlflow_uri
    return up.home, {
        **up.env,
        **UNLIMITED,
        "TIDEMILL_HOME": str(up.home),
        "MLFLOW_TRACKING_URI": uri,
    }


@contextlib.contextmanager
def api_alone(env: dict[str, str], output: Path) -> Any:
    """The server of both planes; gives its port and process."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "tidemill.api.one_port", "--host", "127.0.0.1"]
    with output.open("ab") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_up(port, process)
        yield port, process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _ask(port, "GET", "/api/openapi.json")[0] == 200:
                return
        time.sleep(0.2)
    raise RuntimeError("the server does not answer")


def _ask(
    port: int,
    method: str,
    path: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}


def _session(port: int, key: str) -> tuple[str, str]:
    """Cookie and CSRF token of a console session."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _, headers = _ask(port, "POST", "/console/sign-in", urlencode({"key": key}), form)
    if status != 303:
        raise RuntimeError(f"the console refuses the key: {status}")
    cookie = headers["set-cookie"].partition(";")[0]
    page = _ask(port, "GET", "/console/train", headers={"Cookie": cookie})[1].decode()
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    if found is None:
        raise RuntimeError("the console's form has no token")
    return cookie, found[1]


def _memory(pid: int) -> float:
    """Resident memory in MB; 0 if the process has ended."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def fuzz(shape: Shape, count: int, pid: int) -> tuple[Counts, list[float], float]:
    """Send from several processes; the counts, the server's memory by second, and the seconds."""
    context = multiprocessing.get_context("spawn")
    started, memory, total = time.monotonic(), list[float](), Counts()
    workers = []
    for number in range(PROCESSES):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=send_from_process, args=(shape, number, count // PROCESSES, sender)
        )
        process.start()
        sender.close()
        workers.append((process, receiver))
    for process, receiver in workers:
        while not receiver.poll(1.0) and process.is_alive():
            memory.append(_memory(pid))
        with contextlib.suppress(EOFError):
            total.add(receiver.recv())
        process.join()
    return total, memory, time.monotonic() - started


def problems(counts: Counts, memory: list[float], folder: Path, growth: float) -> list[str]:
    """What is wrong; nothing if all is well."""
    found = [f"{n:,} responses {s}" for s, n in counts.statuses.items() if s >= 500 and s != 503]
    found += [f"{len(counts.hung)} requests were never answered"] if counts.hung else []
    quarter = max(1, len(memory) // 4)
    grown = sum(memory[-quarter:]) / quarter - sum(memory[quarter : 2 * quarter]) / quarter
    if not memory or memory[-1] == 0.0:
        found.append("the server has ended")
    elif grown > growth:
        found.append(f"memory grew by {grown:.0f} MB from the second quarter to the last")
    logs = [*(folder / "home" / "logs").glob("*"), *folder.glob("*.txt")]
    for path in logs:
        traces = path.read_text(errors="replace").count("Traceback (most recent call last)")
        found += [f"{traces} tracebacks in {path}"] if traces and path.is_file() else []
    return found


def run(options: argparse.Namespace, folder: Path) -> int:
    """Run once and print the result; the exit status."""
    home, env = new_home(folder, options.database)
    for old in (home / "logs").glob("*"):
        old.unlink()
    with api_alone(env, folder / "server.txt") as (port, process):
        key = (home / "key").read_text().strip()
        shape: Shape = {"plane": options.plane, "port": port, "key": key, "seed": options.seed}
        if options.plane == "control":
            shape["document"] = json.loads(_ask(port, "GET", "/api/openapi.json")[1])
            shape["session"] = _session(port, key)
        counts, memory, seconds = fuzz(shape, options.requests, process.pid)
        wrong = problems(counts, memory, folder, options.growth)
    print(f"{counts.sent:,} requests in {seconds:.0f} s, {counts.sent / seconds:,.0f} per second")
    print("by status: " + ", ".join(f"{s}: {n:,}" for s, n in sorted(counts.statuses.items())))
    print(f"complete requests on connections that were closed before their turn: {counts.silent:,}")
    if memory:
        quarters = [memory[len(memory) * i // 4] for i in range(4)] + [memory[-1]]
        print("memory, MB: " + ", ".join(f"{m:.0f}" for m in quarters))
    for status, request, answer in counts.samples[: options.show]:
        print(f"\n{status} {request[:1500]!r}\n  -> {answer!r}")
    for request in counts.hung[: options.show]:
        print(f"\nno answer to {request[:1500]!r}")
    print("\n" + ("Wrong: " + "; ".join(wrong) if wrong else "Nothing is wrong."))
    return 1 if wrong else 0


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plane", choices=["data", "control"], default="data")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth", type=float, default=64.0, help="MB that memory may grow")
    parser.add_argument("--show", type=int, default=10, help="samples of server errors to print")
    parser.add_argument("--database", help="URL of an empty database; SQLite by default")
    parser.add_argument("--folder", type=Path, help="keep the home and the logs here")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tm-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    status = run(options, folder)
    if not options.folder and status == 0:
        shutil.rmtree(folder, ignore_errors=True)
    elif status:
        print(f"The logs are in {folder}.")
    sys.exit(status)


if __name__ == "__main__":
    main()
