"""Calls to MLflow that end: quickly when nobody is there, and with our own errors.

link = MlflowLink("http://127.0.0.1:5000")
run = link.call(lambda: link.client.get_run(run_id))
models = list(link.pages(lambda token: link.client.search_registered_models(page_token=token)))
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tidemill.errors import ConflictError, NotFoundError, TidemillError, UnavailableError
from tidemill.stores.mlflow.new_database import create_mlflow_tables

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

PROBE_EVERY = 1.0
MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "INVALID_STATE"}


def set_http_timeouts(*, seconds: int = 10, retries: int = 2) -> None:
    """Make MLflow's HTTP calls of this process give up after seconds rather than minutes.

    MLflow reads these limits from the environment alone, so a process that must not hang calls this
    at its start. What the operator set is left as it is.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(seconds))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def open_client(tracking_uri: str, registry_uri: str | None = None) -> MlflowClient:
    """MLflow's client, with the tables of a store that is a new file of SQLite."""
    from mlflow import MlflowClient

    for uri in (tracking_uri, registry_uri or tracking_uri):
        create_mlflow_tables(uri)
    return MlflowClient(tracking_uri, registry_uri)


class MlflowConnection:
    """MLflow's client behind a quick look whether the server is there.

    Args:
        tracking_uri: Where runs and their artifacts are.
        registry_uri: Where models are registered; None means in the same place.
        probe_seconds: How long a server may take to accept a connection. It is asked before a call,
            at most once a second, because MLflow itself would try again for minutes.
    """

    def __init__(
        self, tracking_uri: str, registry_uri: str | None = None, *, probe_seconds: float = 2.0
    ) -> None:
        self.tracking_uri = tracking_uri
        self.registry_uri = registry_uri or tracking_uri
        self._probe_seconds = probe_seconds
        self._reached = -PROBE_EVERY
        self._made: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, made when it is first needed; use it inside `call`."""
        if self._made is None:
            self._made = open_client(self.tracking_uri, self.registry_uri)
        return self._made

    def call(self, request: Callable[[MlflowClient], T]) -> T:
        """Return the result of `request(client)`.

        Raises:
            NotFoundError, ConflictError: MLflow refused what was asked.
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
                self._reached = -PROBE_EVERY
                self._probe()  # says it in fewer words when nobody is there any more
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
        if now - self._reached < PROBE_EVERY:
            return
        for uri in {self.tracking_uri, self.registry_uri}:
            _connect(uri, self._probe_seconds)
        self._reached = now


def _translated(error: Any) -> TidemillError:
    code, message = str(error.error_code), str(error.message)
    if code in MISSING:
        return NotFoundError(message)
    if code in REFUSED:
        return ConflictError(message)
    return UnavailableError(
        f"MLflow failed: {message[:300]}", remedy="Look with `tidemill doctor`, and try again."
    )


def _connect(uri: str, seconds: float) -> None:
    """See whether somebody listens where a server should be; a file has nobody to ask.

    Raises:
        UnavailableError: Nobody does.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in PORTS or not parts.hostname:
        return
    port = parts.port or PORTS[scheme]
    try:
        socket.create_connection((parts.hostname, port), timeout=seconds).close()
    except OSError as error:
        raise UnavailableError(
            f"MLflow at {scheme}://{parts.hostname}:{port} cannot be reached: {error}.",
            remedy="Start it, or set MLFLOW_TRACKING_URI.",
        ) from error
