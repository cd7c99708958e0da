"""MLflow's autologging for scikit-learn, enabled for one fit inside an existing run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tidemill.stores.mlflow.connection import without_warnings
from tidemill.stores.mlflow.tracking import TrackedRun

_URI = "MLFLOW_TRACKING_URI"


@contextmanager
def autologging(run: TrackedRun) -> Iterator[None]:
    """Log the parameters and training scores of what is fitted inside the block to `run`.

    Autologging creates no run and no model: Tidemill logs both itself. MLflow's autologging uses
    the process's active run, so a process can do this for only one fit at a time.
    """
    import mlflow
    import mlflow.sklearn

    before, in_environment = mlflow.get_tracking_uri(), os.environ.get(_URI)
    mlflow.set_tracking_uri(run.tracking.tracking_uri)
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
    """Undo that MLflow also sets its tracking URI in the environment, for its subprocesses."""
    if value is None:
        os.environ.pop(_URI, None)
    else:
        os.environ[_URI] = value
