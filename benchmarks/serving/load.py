"""Load generation with wrk: a closed loop of POST requests over several connections."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.cores import pinned

SCRIPT = Path(__file__).parent / "post.lua"
MISSING = (
    "wrk, which generates the load, is not installed. Install it with "
    "`apt-get install wrk` (Debian, Ubuntu), `dnf install wrk` (Fedora) or `brew install wrk`."
)


@dataclass(frozen=True)
class Load:
    """Requests answered within `seconds`; p50 and p99 latency in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    bad_status: int
    broken: int


def find_wrk() -> str:
    """Return the path of wrk.

    Raises:
        SystemExit: wrk is not installed; the message says how to install it.
    """
    path = shutil.which("wrk")
    if path is None:
        raise SystemExit(MISSING)
    return path


def wrk_version(wrk: str) -> str:
    done = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).split("[")[0].strip()


def drive(
    wrk: str,
    url: str,
    bodies: Path,
    *,
    connections: int,
    seconds: float,
    headers: Mapping[str, str],
    cores: set[int],
) -> Load:
    """Post the bodies of the file in rotation for `seconds`, from one thread on `cores`."""
    command = [wrk, "--threads", "1", "--connections", str(connections), "--latency"]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "30s"]
    command += ["--script", str(SCRIPT), url, "--", str(bodies)]
    command += [f"{name}: {value}" for name, value in headers.items()]
    with pinned(cores):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return read_result(done.stdout, done.stderr)


def read_result(output: str, complaint: str = "") -> Load:
    """Parse the line that post.lua prints from the output of wrk."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return Load(**json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError(f"wrk printed no result: {complaint or output}")
