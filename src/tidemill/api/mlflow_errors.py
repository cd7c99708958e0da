"""Asking MLflow on behalf of a caller: its refusals are the caller's, its absence is a 503."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tidemill.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from tidemill.stores.jobs.retryability import classify

REFUSALS = {
    "INVALID_PARAMETER_VALUE": RequestError,
    "BAD_REQUEST": RequestError,
    "RESOURCE_DOES_NOT_EXIST": NotFoundError,
    "RESOURCE_ALREADY_EXISTS": ConflictError,
}


@contextmanager
def translated_mlflow_errors() -> Iterator[None]:
    """Turn what MLflow refuses into an error of ours.

    Raises:
        RequestError: A filter, an order or a cursor that MLflow does not read.
        NotFoundError: A run, experiment, model or version that is not there.
        UnavailableError: MLflow went away.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        kind = REFUSALS.get(error.error_code)
        if kind is not None:
            raise kind(f"MLflow: {error.message}") from error
        if classify(error).retryable:
            raise UnavailableError(f"MLflow did not answer: {error.message}") from error
        raise


def quote(text: str) -> str:
    """The text as MLflow's filters take one."""
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise RequestError("Text with both kinds of quotes cannot be searched for.")
