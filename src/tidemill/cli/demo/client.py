"""`tidemill demo --url`: what a client can ask a running API, shown as curl lines and answers.

Its predictions are marked as probes, so that monitoring and retraining leave them out.
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

SHOWN = 400  # characters of a body or an answer
LISTS = ("/jobs", "/experiments", "/models")
WRONG = {"no such field": True}  # fits no model's signature


@dataclass(frozen=True)
class Exchange:
    """One request with its answer; `ok` is whether it was the answer to expect."""

    what: str
    method: str
    path: str
    curl: str
    status: int | None
    ok: bool
    answer: str


class ApiWalkthrough:
    """Asks a running API for one of each thing.

    Args:
        url: Where it answers.
        key: An API key; None asks without one, and a refusal for want of a key is then expected.
        tell: Is given every exchange as it happens.

    Raises:
        InputError: The address is none.
    """

    def __init__(
        self, url: str, key: str | None, tell: Callable[[Exchange], None] = lambda _: None
    ) -> None:
        self.url = url.rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InputError(
                f"'{url}' is no address of an API.", field="--url", expected="http://HOST:PORT"
            )
        self._key, self._tell = key, tell
        self._client = httpx.Client(timeout=30, headers={"X-API-Key": key} if key else {})

    def walk(self, model: str | None = None) -> Iterator[Exchange]:
        """Everything in turn, with the model named or the server's default.

        Raises:
            UnavailableError: Nobody answers, or there is no model to ask.
        """
        with self._client:
            health, _ = self._ask("is it there?", "/health")
            yield health
            if not health.ok:
                raise UnavailableError(
                    f"{self.url}/health: {health.answer}",
                    remedy="Start it with `tidemill up`, or check the address.",
                )
            info, found = self._ask("what does it serve?", "/info")
            yield info
            name = model or _default(found)
            if name is None:
                raise UnavailableError(
                    f"{self.url} serves no model.", remedy="Train and promote one first."
                )
            yield from self._model(name)
            yield from self._lists()
            yield self._ask("what does Prometheus see?", "/metrics")[0]

    def _model(self, name: str) -> Iterator[Exchange]:
        place = f"/models/{quote(name, safe='')}"
        schema, said = self._ask(f"what does {name} take?", f"{place}/schema")
        yield schema
        example = _example(said)
        if example is None:
            return
        single, answer = self._ask("one prediction", f"{place}/predict", example, guarded=True)
        yield single
        batch = {"instances": [example, example]}
        yield self._ask("two at once", f"{place}/predict_batch", batch, guarded=True)[0]
        wrong = {"features": WRONG}
        yield self._ask("input that does not fit", f"{place}/predict", wrong, refused=True)[0]
        if isinstance(answer, dict) and "id" in answer:
            label = {"id": answer["id"], "actual": answer["prediction"]}
            yield self._ask("what turned out to be true", "/feedback", label, guarded=True)[0]

    def _lists(self) -> Iterator[Exchange]:
        for path in LISTS:
            yield self._ask(f"which {path[1:]}?", path, guarded=True)[0]

    def _ask(
        self, what: str, path: str, body: Any = None, *, guarded: bool = False,
        refused: bool = False,
    ) -> tuple[Exchange, Any]:  # fmt: skip
        """One exchange, and its answer as a value.

        Args:
            guarded: Whether a key may be wanted: without one, 403 is right as well.
            refused: Whether 422 (or 400) is the right answer.
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
        self._tell(found)
        return found, value


def curl(url: str, body: Any, *, keyed: bool) -> str:
    """The request for a shell; the key is left to a variable."""
    words = ["curl", "-s", shlex.quote(url)]
    if keyed:
        words += ["-H", '"X-API-Key: $TIDEMILL_API_KEY"']
    if body is not None:
        words += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body))]
    return " ".join(words)


def shortened(text: str) -> str:
    """A text in one line, as much of it as is worth showing."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} ... ({len(text):,} characters)"


def _default(info: Any) -> str | None:
    if not isinstance(info, dict):
        return None
    names = [model["name"] for model in info.get("models") or ()]
    return info.get("default") or next(iter(names), None)


def _example(schema: Any) -> dict[str, Any] | None:
    """The first of the schema's examples that is one row."""
    examples = schema.get("examples") if isinstance(schema, dict) else None
    rows = (body for body in (examples or {}).values() if "instances" not in body)
    return next(rows, None)
