"""Whether errors are retried, a job's memory, and a worker that stops."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.errors import DataError, ProjectError, UnavailableError
from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.jobs.retryability import classify, limit_exceeded, process_died
from tidemill.worker.job_main import log_context
from tidemill.worker.job_process import group_memory
from tidemill.worker.job_runner import JobRunner


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def retryable_errors() -> list[BaseException]:
    import redis
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    return [
        UnavailableError("MLflow is down."),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        OSError(errno.ENOSPC, "No space left on device"),
        requests.exceptions.ConnectTimeout("slow"),
        redis.exceptions.ConnectionError("gone"),
        OperationalError("SELECT 1", {}, Exception("server closed the connection")),
        MlflowException("API request to http://x failed with exception timeout"),
    ]


@pytest.mark.parametrize("error", retryable_errors(), ids=lambda e: type(e).__name__)
def test_errors_outside_the_models_code_are_retried(error: BaseException) -> None:
    assert classify(raised(error)).retryable
    assert classify(raised(RuntimeError("while logging"), error)).retryable


@pytest.mark.parametrize(
    "error",
    [
        ValueError("C must be positive"),
        ProjectError("No candidate could be trained."),
        DataError("The target is missing."),
        MemoryError(),
        FileNotFoundError(errno.ENOENT, "no such file", "data.csv"),
        KeyError("column"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_of_the_models_own_code_are_not_retried(error: BaseException) -> None:
    assert not classify(raised(error)).retryable


def test_a_failure_has_the_detail_the_field_and_the_traceback() -> None:
    error = classify(raised(ProjectError("Bad C.", field="C"), ValueError("inner")))
    assert error.problem["detail"] == "Bad C."
    assert error.problem["field"] == "C"
    assert "ValueError: inner" in error.problem["traceback"]
    plain = classify(raised(ZeroDivisionError("division by zero"))).problem
    assert plain["detail"] == "ZeroDivisionError: division by zero"


def test_errors_with_circular_causes_are_classified() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    assert not classify(one).retryable


def test_a_killed_process_is_retried_and_an_exceeded_limit_is_not() -> None:
    assert process_died("SIGKILL").retryable
    assert not limit_exceeded("too long").retryable


def test_the_memory_of_a_group_includes_all_its_processes() -> None:
    code = "import os, sys; held = b'x' * (64 << 20); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", f"import os; os.fork(); {code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        held = group_memory(process.pid)
        process.communicate()
    assert held > 128 << 20
    assert held < 1 << 30
    assert group_memory(os.getpgid(0) + 1_000_000) == 0


def test_log_lines_about_a_job_have_its_id_and_its_request() -> None:
    job = Job("train", model="churn", request_id="r1", id="j1")
    assert log_context(job) == {"job_id": "j1", "model": "churn", "request_id": "r1"}
    assert log_context(Job("probe", id="j2")) == {"job_id": "j2"}


def test_a_stopping_worker_claims_no_more_jobs(home: Path) -> None:
    platform = Platform.open(Settings())
    runner = JobRunner(platform, "w")
    job, _ = platform.submit(NewJob("probe"))
    runner.stop()
    runner.run(job.id)
    assert platform.jobs.get(job.id).attempts == 0
    platform.close()
