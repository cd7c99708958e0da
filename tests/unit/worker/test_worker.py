"""What errors mean for a job, and how much memory its process holds."""

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


def outside_errors() -> list[BaseException]:
    import redis
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    return [
        UnavailableError("MLflow is away."),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        OSError(errno.ENOSPC, "No space left on device"),
        requests.exceptions.ConnectTimeout("slow"),
        redis.exceptions.ConnectionError("gone"),
        OperationalError("SELECT 1", {}, Exception("server closed the connection")),
        MlflowException("API request to http://x failed with exception timeout"),
    ]


@pytest.mark.parametrize("error", outside_errors(), ids=lambda e: type(e).__name__)
def test_what_lies_outside_the_model_is_tried_again(error: BaseException) -> None:
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
def test_what_the_models_own_code_raises_is_not(error: BaseException) -> None:
    assert not classify(raised(error)).retryable


def test_a_fault_tells_what_where_and_how_it_came_about() -> None:
    error = classify(raised(ProjectError("Bad C.", field="C"), ValueError("inner")))
    assert error.problem["detail"] == "Bad C."
    assert error.problem["field"] == "C"
    assert "ValueError: inner" in error.problem["traceback"]
    plain = classify(raised(ZeroDivisionError("division by zero"))).problem
    assert plain["detail"] == "ZeroDivisionError: division by zero"


def test_errors_that_refer_to_each_other_in_a_circle_are_judged_too() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    assert not classify(one).retryable


def test_a_killed_process_is_tried_again_and_one_over_its_limit_is_not() -> None:
    assert process_died("SIGKILL").retryable
    assert not limit_exceeded("too long").retryable


def test_the_memory_of_a_group_is_that_of_all_its_processes() -> None:
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


def test_log_lines_about_a_job_name_it_and_the_request_that_asked_for_it() -> None:
    job = Job("train", model="churn", request_id="r1", id="j1")
    assert log_context(job) == {"job_id": "j1", "model": "churn", "request_id": "r1"}
    assert log_context(Job("probe", id="j2")) == {"job_id": "j2"}


def test_a_worker_that_is_to_stop_claims_nothing_more(home: Path) -> None:
    platform = Platform.open(Settings())
    runner = JobRunner(platform, "w")
    job, _ = platform.submit(NewJob("probe"))
    runner.stop()
    runner.run(job.id)
    assert platform.jobs.get(job.id).attempts == 0
    platform.close()
