"""Query MLflow for a caller: quote its filters, translate its errors, convert its times."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from tidemill.border import MAX_INTEGER
from tidemill.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from tidemill.stores.jobs.retryability import classify

ERROR_CODES = {
    "INVALID_PARAMETER_VALUE": RequestError,
    "BAD_REQUEST": RequestError,
    "RESOURCE_DOES_NOT_EXIST": NotFoundError,
    "RESOURCE_ALREADY_EXISTS": ConflictError,
}


@contextmanager
def translated_mlflow_errors() -> Iterator[None]:
    """Raise MLflow's errors as Tidemill's.

    Raises:
        RequestError: MLflow does not accept the filter, order or cursor.
        NotFoundError: The run, experiment, model or version does not exist.
        UnavailableError: MLflow is down.
    """
    from mlflow.exceptions import MlflowException  # takes seconds; the API starts without it

    try:
        yield
    except MlflowException as error:
        kind = ERROR_CODES.get(error.error_code)
        if kind is not None:
            raise kind(f"MLflow: {error.message}") from error
        if classify(error).retryable:
            raise UnavailableError(f"MLflow did not answer: {error.message}") from error
        raise
    except (ValueError, OverflowError) as error:
        # Its client decodes cursors, and its store binds numbers, without a check of their own.
        raise RequestError(f"MLflow does not accept the request: {error}") from error


def quote(text: str) -> str:
    """The text as a string literal of MLflow's filter language.

    Raises:
        RequestError: The text contains both kinds of quotes, which the language cannot express.
    """
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise RequestError("A search text cannot contain both kinds of quotes.")


def mlflow_cursor(text: str | None) -> str | None:
    """A page token that MLflow can read; others fail inside of it.

    Raises:
        RequestError: The text is not one.
    """
    if text is None:
        return None
    try:
        token = json.loads(base64.b64decode(text))
        offset = token["offset"] if isinstance(token, dict) else None
    except (ValueError, KeyError, RecursionError):
        offset = None
    if not isinstance(offset, int) or not 0 <= offset <= MAX_INTEGER:
        raise RequestError(
            f"'{text}' is not a cursor of this list.",
            field="cursor",
            expected="the `next` of the previous page",
        )
    return text


def mlflow_time(milliseconds: int | None) -> datetime | None:
    """MLflow's milliseconds since the epoch as a UTC time."""
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
