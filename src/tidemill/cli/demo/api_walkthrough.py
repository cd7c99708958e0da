"""`tidemill demo --url`: call a running API as a client does, and show each request and response.

The predictions are marked as probes, so that monitoring and retraining ignore them.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from tidemill.errors import InputError, UnavailableError
from tidemill.stores.predictions.prediction_rows import PROBE_PREFIX

SHOWN = 400  # characters of a response
LISTS = ("/jobs", "/experiments", "/models")
INVALID_ROW = {"no such field": True}  # valid for no model


@dataclass(frozen=True)
class Exchange:
    """One request and its response; `ok` says whether the response was as expected."""

    what: str
    method: str
    path: str
    curl: str
    status: int | None
    ok: bool
    answer: str


class ApiWalkthrough:
    """Calls a running API with one request of each kind.

    Args:
        url: The API's address.
        key: An API key; None sends none, and then a 403 for lack of a key is as expected.
        on_exchange: Called with every exchange as it happens.

    Raises:
        InputError: The URL is invalid.
    """

    def __init__(
        self, url: str, key: str | None, on_exchange: Callable[[Exchange], None] = lambda _: None
    ) -> None:
        self.url = url.rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InputError(
                f"'{url}' is not the URL of an API.", field="--url", expected="http://HOST:PORT"
            )
        self._key, self._on_exchange = key, on_exchange
        self._client = httpx.Client(timeout=30, headers={"X-API-Key": key} if key else {})

    def run(self, model: str | None = None) -> Iterator[Exchange]:
        """All requests in turn, to the named model or the server's default.

        Raises:
            UnavailableError: The API does not respond, or serves no model.
        """
        with self._client:
            health, _ = self._send("health", "/health")
            yield health
            if not health.ok:
                raise UnavailableError(
                    f"{self.url}/health: {health.answer}",
                    remedy="Start it with `tidemill up`, or check the address.",
                )
            info, found = self._send("models served", "/info")
            yield info
            name = model or _default(found)
            if name is None:
                raise UnavailableError(
                    f"{self.url} serves no model.", remedy="Train and promote one first."
                )
            yield from self._model(name)
            yield from self._lists()
            yield self._send("Prometheus metrics", "/metrics")[0]

    def _model(self, name: str) -> Iterator[Exchange]:
        path = f"/models/{quote(name, safe='')}"
        schema, answer = self._send(f"input schema of {name}", f"{path}/schema")
        yield schema
        example = _example(answer)
        if example is None:
            return
        single, answer = self._send("one prediction", f"{path}/predict", example, guarded=True)
        yield single
        batch = {"instances": [example, example]}
        yield self._send("two predictions at once", f"{path}/predict_batch", batch, guarded=True)[0]
        wrong = {"features": INVALID_ROW}
        yield self._send("invalid input", f"{path}/predict", wrong, refused=True)[0]
        if isinstance(answer, dict) and "id" in answer:
            label = {"id": answer["id"], "actual": answer["prediction"]}
            yield self._send("feedback: the true label", "/feedback", label, guarded=True)[0]

    def _lists(self) -> Iterator[Exchange]:
        for path in LISTS:
            yield self._send(f"list of {path[1:]}", path, guarded=True)[0]

    def _send(
        self, what: str, path: str, body: Any = None, *, guarded: bool = False,
        refused: bool = False,
    ) -> tuple[Exchange, Any]:  # fmt: skip
        """Send one request; returns the exchange and the response's JSON.

        Args:
            guarded: Whether the route needs a key: without one, 403 is as expected too.
            refused: Whether 422 (or 400) is the expected status.
        """
        method = "GET" if body is None else "POST"
        headers = {"X-Request-ID": f"{PROBE_PREFIX}{secrets.token_hex(8)}"}
        status, value, text = None, None, ""
        try:
            got = self._client.request(method, self.url + path, json=body, headers=headers)
            status, text = got.status_code, got.text
            value = got.json() if "json" in got.headers.get("content-type", "") else None
        except (httpx.HTTPError, ValueError) as error:
            text = f"{type(error).__name__}: {error}"
        good = status in (400, 422) if refused else status is not None and 200 <= status < 300
        ok = good or (self._key is None and status == 403 and (guarded or refused))
        line = curl(self.url + path, body, keyed=self._key is not None)
        found = Exchange(what, method, path, line, status, ok, shortened(text))
        self._on_exchange(found)
        return found, value


def curl(url: str, body: Any, *, keyed: bool) -> str:
    """The request as a curl command, with the key in a shell variable."""
    words = ["curl", "-s", shlex.quote(url)]
    if keyed:
        words += ["-H", '"X-API-Key: $TIDEMILL_API_KEY"']
    if body is not None:
        words += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body))]
    return " ".join(words)


def shortened(text: str) -> str:
    """The first characters of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} ... ({len(text):,} characters)"


def _default(info: Any) -> str | None:
    if not isinstance(info, dict):
        return None
    names = [model["name"] for model in info.get("models") or ()]
    return info.get("default") or next(iter(names), None)


def _example(schema: Any) -> dict[str, Any] | None:
    """The first example in the schema that is a single row."""
    examples = schema.get("examples") if isinstance(schema, dict) else None
    rows = (body for body in (examples or {}).values() if "instances" not in body)
    return next(rows, None)
