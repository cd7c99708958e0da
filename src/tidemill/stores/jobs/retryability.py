"""What an error in a job means: the end of it, or a reason to try again.

What the model's own code raises, and what was asked for wrongly, ends the job: it would fail again.
What lies outside (a server that is down, a full disk, a killed process) is tried again.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tidemill.errors import TidemillError, UnavailableError

OUTSIDE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
}
# By name, so that telling them apart imports none of these libraries.
OUTSIDE_CLASSES = (
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
# MLflow's client keeps only the words of what its connection met.
MLFLOW_WORDS = ("API request to", "failed with error code 5", "timed out")


@dataclass(frozen=True)
class Fault:
    """An error as its job keeps it; `outside` when it is not the model's own code's."""

    outside: bool
    problem: dict[str, Any] = field(default_factory=dict)


def judge(error: BaseException) -> Fault:
    """The fault an exception stands for, with its traceback."""
    if isinstance(error, TidemillError):
        problem = error.problem()
    else:
        title = type(error).__name__
        problem = {"title": title, "status": 500, "detail": f"{title}: {error}"}
    problem["traceback"] = "".join(traceback.format_exception(error))[-8_000:]
    return Fault(any(_is_outside(cause) for cause in _chain(error)), problem)


def killed(detail: str) -> Fault:
    """The fault of a process that ended without a word."""
    return Fault(True, {"title": "Killed", "status": 500, "detail": detail})


def over_limit(detail: str) -> Fault:
    """The fault of a job that was ended at one of its limits; trying again would meet it again."""
    return Fault(False, {"title": "Over its limit", "status": 500, "detail": detail})


def _is_outside(error: BaseException) -> bool:
    if isinstance(error, TidemillError):
        return isinstance(error, UnavailableError)
    if isinstance(error, ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in OUTSIDE_ERRNOS:
        return True
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if name.startswith("mlflow.exceptions."):
        return any(words in str(error) for words in MLFLOW_WORDS)
    return name.startswith(OUTSIDE_CLASSES) or "No space left on device" in str(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__
