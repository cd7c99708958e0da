"""Whether a job that failed is worth retrying.

Errors of the model's own code and wrong requests end the job: it would fail again. Errors outside
(a server that is down, a full disk, a killed process) are retried.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tidemill.errors import TidemillError, UnavailableError

RETRYABLE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
}
# By name, so that classifying an error imports none of these libraries.
RETRYABLE_CLASSES = (
    "requests.exceptions.",
    "urllib3.exceptions.",
    "redis.exceptions.",
    "psycopg.OperationalError",
    "psycopg.errors.",
    "sqlalchemy.exc.OperationalError",
    "sqlalchemy.exc.InterfaceError",
    "sqlalchemy.exc.TimeoutError",
    "botocore.exceptions.",
)
# MLflow's client keeps only the message of a connection error, not its class.
RETRYABLE_MLFLOW_MESSAGES = ("API request to", "failed with error code 5", "timed out")


@dataclass(frozen=True)
class JobFailure:
    """An error as it is stored with its job, in the shape of problem+json."""

    retryable: bool
    problem: dict[str, Any] = field(default_factory=dict)


def classify(error: BaseException) -> JobFailure:
    """Return the failure that an exception amounts to, with its traceback."""
    if isinstance(error, TidemillError):
        problem = error.problem()
    else:
        title = type(error).__name__
        problem = {"title": title, "status": 500, "detail": f"{title}: {error}"}
    problem["traceback"] = "".join(traceback.format_exception(error))[-8_000:]
    return JobFailure(any(_is_retryable(cause) for cause in _causes(error)), problem)


def process_died(detail: str) -> JobFailure:
    """Return the failure of a job whose process ended without sending an outcome."""
    return JobFailure(True, {"title": "Killed", "status": 500, "detail": detail})


def limit_exceeded(detail: str) -> JobFailure:
    """Return the failure of a job that exceeded one of its limits, as it would again."""
    return JobFailure(False, {"title": "Over its limit", "status": 500, "detail": detail})


def _is_retryable(error: BaseException) -> bool:
    if isinstance(error, TidemillError):
        return isinstance(error, UnavailableError)
    if isinstance(error, ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in RETRYABLE_ERRNOS:
        return True
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if name.startswith("mlflow.exceptions."):
        return any(message in str(error) for message in RETRYABLE_MLFLOW_MESSAGES)
    return name.startswith(RETRYABLE_CLASSES) or "No space left on device" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes; errors may refer to each other in a circle."""
    visited: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in visited:
        visited.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
