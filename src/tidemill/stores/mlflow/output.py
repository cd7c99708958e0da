"""Keep MLflow to itself: no chatter on the console, no progress bars, no reports to its makers."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_SETTINGS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def silence_mlflow_output() -> None:
    """Let MLflow say errors only, in this process.

    MLflow reads these from the environment alone; what the operator set is left as it is. Its
    loggers write to the console by handlers of their own, which an import of it puts up, so it is
    imported first.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Python warnings raised inside are MLflow's own business and go nowhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
