"""Calls to MLflow that fail within seconds when it is down, and raise Tidemill's own errors.

connection = MlflowConnection("http://127.0.0.1:5000")
run = connection.call(lambda client: client.get_run(run_id)) See decision 002.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tidemill.errors import ConflictError, NotFoundError, TidemillError, UnavailableError
from tidemill.stores.mlflow.sqlite_store import create_mlflow_tables

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

PROBE_EVERY_SECONDS = 1.0
NOT_FOUND_CODES = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
CONFLICT_CODES = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_STATE",
}
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
_SILENT = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def set_http_timeouts(*, seconds: int = 10, retries: int = 2) -> None:
    """Make this process's HTTP calls to MLflow give up after seconds rather than minutes.

    MLflow reads these limits only from the environment, so a process that must not hang calls this
    when it starts. Variables that the operator has set keep their values.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(seconds))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def silence_mlflow_output() -> None:
    """Let MLflow log only errors in this process: no progress bars, no telemetry.

    MLflow reads these settings only from the environment; variables that the operator has set keep
    their values. Importing MLflow installs its log handlers, so it is imported before their level
    is changed.
    """
    for name, value in _SILENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Discard Python warnings raised inside the block; they concern MLflow's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_client(tracking_uri: str, registry_uri: str | None = None) -> MlflowClient:
    """Return MLflow's client, after creating the tables of a store that is a new SQLite file."""
    from mlflow import MlflowClient

    for uri in (tracking_uri, registry_uri or tracking_uri):
        create_mlflow_tables(uri)
    return MlflowClient(tracking_uri, registry_uri)


class MlflowConnection:
    """MLflow's client, with a quick check before calls that the server can be reached.

    Args:
        tracking_uri: The store of runs and their artifacts.
        registry_uri: The store of registered models; None means the tracking store.
        probe_seconds: How long a server may take to accept a connection. It is checked before a
            call, at most once a second, because MLflow itself would retry for minutes.
    """

    def __init__(
        self, tracking_uri: str, registry_uri: str | None = None, *, probe_seconds: float = 2.0
    ) -> None:
        self.tracking_uri = tracking_uri
        self.registry_uri = registry_uri or tracking_uri
        self._probe_seconds = probe_seconds
        self._reached_at = -PROBE_EVERY_SECONDS
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, created on first use; call it through `call`."""
        if self._client is None:
            self._client = open_client(self.tracking_uri, self.registry_uri)
        return self._client

    def call(self, request: Callable[[MlflowClient], T]) -> T:
        """Return the result of `request(client)`.

        Raises:
            NotFoundError, ConflictError: MLflow rejected the request.
            UnavailableError: MLflow, its database or its artifacts cannot be reached, or failed.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self._probe()
        try:
            return request(self.client)
        except MlflowException as error:
            translated = _translated(error)
            if isinstance(translated, UnavailableError):
                self._reached_at = -PROBE_EVERY_SECONDS
                self._probe()  # raises a shorter message if the server is down by now
            raise translated from error
        except (OSError, RuntimeError, SQLAlchemyError) as error:
            raise UnavailableError(f"MLflow failed: {error}") from error

    def pages(self, request: Callable[[MlflowClient, str | None], Any]) -> Iterator[Any]:
        """Yield the items of all pages; `request` takes a page token and returns a paged list."""
        token: str | None = None
        while True:
            page = self._page(request, token)
            yield from page
            token = page.token
            if not token:
                return

    def _page(self, request: Callable[[MlflowClient, str | None], Any], token: str | None) -> Any:
        return self.call(lambda client: request(client, token))

    def _probe(self) -> None:
        now = time.monotonic()
        if now - self._reached_at < PROBE_EVERY_SECONDS:
            return
        for uri in {self.tracking_uri, self.registry_uri}:
            problem = connection_problem(uri, self._probe_seconds)
            if problem is not None:
                raise UnavailableError(problem, remedy="Start it, or set MLFLOW_TRACKING_URI.")
        self._reached_at = now


def connection_problem(uri: str, seconds: float = 1.0) -> str | None:
    """Return why the server of a URI cannot be reached; None if it can, or the URI is a file."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in PORTS or not parts.hostname:
        return None
    port = parts.port or PORTS[scheme]
    try:
        socket.create_connection((parts.hostname, port), timeout=seconds).close()
    except OSError as error:
        return f"MLflow at {scheme}://{parts.hostname}:{port} cannot be reached: {error}."
    return None


def _translated(error: Any) -> TidemillError:
    code, message = str(error.error_code), str(error.message)
    if code in NOT_FOUND_CODES:
        return NotFoundError(message)
    if code in CONFLICT_CODES:
        return ConflictError(message)
    return UnavailableError(
        f"MLflow failed: {message[:300]}", remedy="Check with `tidemill doctor`, and try again."
    )
