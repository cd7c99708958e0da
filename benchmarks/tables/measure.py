"""Run one tool on one table in a process of its own, and measure its time and memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENCE = 6  # a tool is stopped after this many times its budget


def run_tool(tool: str, python: str, folder: Path, seconds: int) -> dict[str, Any]:
    """Run a worker; it writes `predictions.csv` and `notes.json` into its folder.

    Returns:
        Wall time and CPU time in seconds, the highest memory of its process tree in MB, its notes;
        with `error` if it failed.
    """
    out = folder / tool
    out.mkdir(exist_ok=True)
    command = [python, str(HERE / "workers" / f"{tool}_worker.py"), str(folder), str(seconds)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with (out / "log.txt").open("w") as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        peak = _Peak(child.pid)
        try:
            code: int | str = child.wait(seconds * PATIENCE + 120)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            code = "stopped: far over its budget"
        memory = peak.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result: dict[str, Any] = {
        "seconds": time.perf_counter() - started,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "memory": memory,
    }
    if code != 0:
        result["error"] = f"{code}: " + " ".join((out / "log.txt").read_text()[-300:].split())
    elif (out / "notes.json").is_file():
        result["notes"] = json.loads((out / "notes.json").read_text())
    return result


class _Peak:
    """The highest proportional memory of a session's processes, sampled four times a second."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._highest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._highest

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            self._highest = max(self._highest, sum(map(_memory, self._members())))

    def _members(self) -> list[Path]:
        return [p for p in Path("/proc").glob("[0-9]*") if _session_of(p) == self._session]


def _session_of(process: Path) -> int:
    try:
        return os.getsid(int(process.name))
    except OSError:
        return -1


def _memory(process: Path) -> float:
    try:
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
