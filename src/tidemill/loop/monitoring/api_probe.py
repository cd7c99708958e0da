"""Probe an API: health, readiness, and a prediction of each model."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx

from tidemill.errors import InputError
from tidemill.stores.monitoring.api_probes import Probe
from tidemill.stores.predictions.prediction_rows import PROBE_PREFIX

MAX_ERROR = 300  # characters
ERRORS = (httpx.HTTPError, httpx.InvalidURL, ValueError)  # of the connection, or of its JSON


class ApiProber:
    """A monitored API. Close it when done.

    Predictions use the example in `/schema`. Their request ids mark them as probes, so that no
    monitoring window has them.

    Args:
        url: Of the API, such as http://127.0.0.1:8000.
        key: An API key with the scope predict.
        models: The models to predict with; () means all that are served.
        timeout: Seconds to wait for a response.

    Raises:
        InputError: The URL is invalid.
    """

    def __init__(
        self, url: str, key: str | None = None, *, models: Sequence[str] = (), timeout: float = 10.0
    ) -> None:
        self.url = url.rstrip("/")
        parsed = _parsed(self.url)
        if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
            raise InputError(
                f"'{url}' is not the URL of an API.", field="url", expected="http://HOST:PORT"
            )
        self._client = httpx.Client(
            timeout=timeout, headers={} if key is None else {"X-API-Key": key}
        )
        self._models = tuple(models)
        self._examples: dict[str, Any] = {}
        self.versions: dict[str, list[str]] = {}

    def probe_all(self) -> list[Probe]:
        """Send every probe once; a server that does not respond is a failed probe, not an error."""
        found = [self._ask("health", "/health", _is_ok), self._ask("ready", "/ready", _is_served)]
        return found + [self._predict(model) for model in self._names(found[0].healthy)]

    def close(self) -> None:
        self._client.close()

    def _names(self, there: bool) -> Sequence[str]:
        """The models to predict with; during an outage, those served last."""
        if self._models or not there:
            return self._models or tuple(self._examples)
        try:
            answer = self._client.get(f"{self.url}/info").raise_for_status().json()
            return [str(model["name"]) for model in answer["models"]]
        except (*ERRORS, KeyError, TypeError):
            return tuple(self._examples)

    def _predict(self, model: str) -> Probe:
        path = f"/models/{quote(model, safe='')}"
        if model not in self._examples:
            problem = self._fetch_example(model, f"{path}/schema")
            if problem is not None:
                return Probe(time.time(), f"{self.url}{path}/predict", "predict", False, *problem)
        found = self._ask("predict", f"{path}/predict", self._is_answer, self._examples[model])
        if found.status == 422:
            del self._examples[model]  # another version may need another example
        return found

    def _fetch_example(self, model: str, path: str) -> tuple[int | None, float | None, str] | None:
        """Fetch a request that the model accepts; return what went wrong, if anything."""
        started = time.perf_counter()
        status = None
        try:
            answer = self._client.get(f"{self.url}{path}")
            status = answer.status_code
            examples = answer.raise_for_status().json()["examples"]
            self._examples[model] = next(iter(examples.values()))
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            ValueError,
            LookupError,
            TypeError,
            StopIteration,
        ) as error:
            spent = 1000 * (time.perf_counter() - started)
            return status, spent, f"no example at {path}: {_error_text(error)}"
        return None

    def _ask(self, probe: str, path: str, fits: Any, body: Any = None) -> Probe:
        at, started = time.time(), time.perf_counter()
        status = None
        try:
            answer = self._send(path, body)
            status = answer.status_code
            error = None if status == 200 and fits(answer.json()) else _error_detail(answer)
        except ERRORS as problem:
            error = _error_text(problem)
        spent = 1000 * (time.perf_counter() - started)
        return Probe(at, f"{self.url}{path}", probe, error is None, status, spent, error)

    def _send(self, path: str, body: Any) -> httpx.Response:
        headers = {"X-Request-ID": f"{PROBE_PREFIX}{secrets.token_hex(8)}"}
        if body is None:
            return self._client.get(f"{self.url}{path}", headers=headers)
        return self._client.post(f"{self.url}{path}", json=body, headers=headers)

    def _is_answer(self, answer: Any) -> bool:
        """Whether it is a prediction; its version is recorded."""
        if not isinstance(answer, dict) or not {"prediction", "predictions"} & answer.keys():
            return False
        versions = self.versions.setdefault(str(answer.get("model")), [])
        if str(answer.get("version")) not in versions[-1:]:
            versions.append(str(answer.get("version")))
        return True


def _parsed(url: str) -> httpx.URL | None:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        return None


def _is_ok(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("status") == "ok"


def _is_served(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("status") in ("ready", "degraded")


def _error_detail(answer: httpx.Response) -> str:
    """The detail of an error response."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, LookupError, TypeError):
        detail = answer.text
    return f"{answer.status_code}: {detail}"[:MAX_ERROR].replace("\0", "")


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_ERROR].replace("\0", "")
