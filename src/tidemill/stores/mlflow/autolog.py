"""MLflow's own autologging for scikit-learn, switched on for one fit inside one run of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tidemill.stores.mlflow.connection import without_warnings
from tidemill.stores.mlflow.tracking import TrackedRun, Tracking

_URI = "MLFLOW_TRACKING_URI"


@contextmanager
def autologging(tracking: Tracking, run: TrackedRun) -> Iterator[None]:
    """Let what is fitted inside log itself to `run`: all parameters, scores on the training rows.

    No run and no model is made by it: both are logged once, by us. MLflow's autologging works
    through an active run of the process, so one process can do this for one fit at a time.
    """
    import mlflow
    import mlflow.sklearn

    before, in_environment = mlflow.get_tracking_uri(), os.environ.get(_URI)
    mlflow.set_tracking_uri(tracking.tracking_uri)
    try:
        with without_warnings():
            mlflow.sklearn.autolog(
                log_models=False,
                log_datasets=False,
                log_post_training_metrics=False,
                silent=True,
            )
        with mlflow.start_run(run_id=run.id):
            yield
    finally:
        mlflow.sklearn.autolog(disable=True, silent=True)
        mlflow.set_tracking_uri(before)
        _restore(in_environment)


def _restore(value: str | None) -> None:
    """MLflow also writes its address into the environment, for processes it starts."""
    if value is None:
        os.environ.pop(_URI, None)
    else:
        os.environ[_URI] = value
