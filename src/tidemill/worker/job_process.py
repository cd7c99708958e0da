"""The process of a job as its worker sees it: started, listened to, measured and killed.

See decision 051.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.jobs.retryability import process_died
from tidemill.worker.job_kinds import JobReport
from tidemill.worker.job_main import JobOutcome, run_job

# Loaded once by the server that job processes are forked from; a missing extra is skipped.
PRELOAD = [
    "tidemill.worker.job_main",
    "tidemill.worker.training",
    "mlflow.sklearn",
    "sklearn.linear_model",
    "skl2onnx",
    "onnxruntime",
    "matplotlib.figure",
]
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


class ProcessStarter:
    """Starts job processes by forking a server process that has the libraries loaded.

    Args:
        preload: Load the training libraries in that server; without it every job loads its own.
    """

    def __init__(self, settings: Settings, *, preload: bool) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD if preload else PRELOAD[:1])

    def warm_up(self) -> None:
        """Load the libraries now, so that the first job does not wait for them."""
        forkserver.ensure_running()

    def start(self, job: Job, kind: str) -> JobProcess:
        """Start a process that runs the job function of `kind` on the job."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=run_job, args=(self._settings, job, kind, theirs), daemon=True
        )
        process.start()
        theirs.close()
        return JobProcess(process, ours)


class JobProcess:
    """A running job process. Leaving its block kills it with everything it started."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    def __enter__(self) -> JobProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.pid is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self._process.kill()
        self._process.join()
        self._pipe.close()

    def receive(self, seconds: float) -> JobReport | JobOutcome | None:
        """Return the next message; None if none arrives in time, a failure if the process died."""
        try:
            if not self._pipe.poll(seconds):
                return None
            message: JobReport | JobOutcome = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            return process_died(f"The job's process ended with {self._exit_status()}.")
        return message

    def memory(self) -> int:
        """Return the resident memory of the process and everything it started, in bytes."""
        return 0 if self._process.pid is None else group_memory(self._process.pid)

    def _exit_status(self) -> str:
        code = self._process.exitcode
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return f"exit code {code}"


def group_memory(group: int) -> int:
    """Return the resident memory of a process group in bytes; shared pages count for each."""
    if (PROC / "self" / "stat").exists():
        return sum(_resident(entry, group) for entry in PROC.iterdir() if entry.name.isdigit())
    listed = subprocess.run(
        ["ps", "-axo", "pgid=,rss="], capture_output=True, text=True, check=False
    ).stdout.split()
    pairs = zip(listed[::2], listed[1::2], strict=False)
    return sum(int(kilobytes) * 1024 for pgid, kilobytes in pairs if int(pgid) == group)


def _resident(entry: Path, group: int) -> int:
    try:
        # Fields after the command's name, which may contain anything: state, parent, group, ...;
        # the 22nd is the number of resident pages (proc(5)).
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # the process has ended
        return 0
    return int(fields[21]) * PAGE_BYTES if int(fields[2]) == group else 0
