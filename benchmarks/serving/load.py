"""The load: wrk, which posts bodies as fast as the answers come, over some connections."""

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
    "The benchmark drives its servers with wrk, and there is no wrk here. Install it with "
    "`apt-get install wrk` (Debian, Ubuntu), `dnf install wrk` (Fedora) or `brew install wrk`."
)


@dataclass(frozen=True)
class Load:
    """What came back: requests answered in `seconds`, the median and 99th percentile in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    bad_status: int
    broken: int


def find_wrk() -> str:
    """The path of wrk; SystemExit with how to install it where there is none."""
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
    """Post the bodies of the file in turn for some seconds, from one thread on those cores."""
    command = [wrk, "--threads", "1", "--connections", str(connections), "--latency"]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "30s"]
    command += ["--script", str(SCRIPT), url, "--", str(bodies)]
    command += [f"{name}: {value}" for name, value in headers.items()]
    with pinned(cores):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return read_result(done.stdout, done.stderr)


def read_result(output: str, complaint: str = "") -> Load:
    """The line that post.lua prints, out of everything wrk says."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return Load(**json.loads(line.removeprefix("RESULT ")))
    raise RuntimeError(f"wrk gave no result: {complaint or output}")
