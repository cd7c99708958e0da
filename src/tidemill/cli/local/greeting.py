"""What a server says when it is up: where it answers, and a request that works when pasted."""

from __future__ import annotations

import json
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tidemill.cli import terminal
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.settings import Settings

LONG_BODY = 2000


def greet(
    at: ServerAddresses,
    settings: Settings,
    key: tuple[Path, bool] | None,
    model: str | None,
    body: dict[str, Any],
    mlflow: str | None = None,
    others: Sequence[ServerAddresses] = (),
    pages: str | None = None,
) -> None:
    """Print the addresses and, where a model is served, a request for it.

    Args:
        key: The user's own key file, and whether it was made just now; None without keys.
        body: A request's body for the model.
        mlflow: Where MLflow's UI will answer, when it was started too.
        others: Where further instances of the API answer.
        pages: Where the console is, where there is one.
    """
    say = terminal.out.print
    say("\n[bold green]Tidemill is up.[/]  Ctrl-C ends it.\n")
    if pages:
        say(f"  console       {pages}  (sign in with the API key)")
    say(f"  predictions   {at.api}/predict")
    for other in others:
        say(f"                {other.api}/predict")
    say(f"  documents     {at.api}/docs")
    if mlflow:
        say(f"  MLflow        {mlflow}  (takes some seconds to start)")
    say(f"  state, logs   {settings.home}", soft_wrap=True)
    if key is not None and key[1]:
        say(f"  API key       {key[0]}  (made now; the server keeps only its hash)", soft_wrap=True)
    if model:
        say(f"\nAsk {model}:\n", markup=False)
        say(curl(at, key[0] if key else None, _data(settings, body)), markup=False, soft_wrap=True)
    say("")


def curl(at: ServerAddresses, key: Path | None, data: str) -> str:
    """A prediction as a shell command that works when pasted; `data` is quoted already."""
    header = f' -H "X-API-Key: $(cat {shlex.quote(str(key))})"' if key else ""
    return (
        f"curl -s {at.api}/predict{header} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {data}"
    )


def _data(settings: Settings, body: dict[str, Any]) -> str:
    """The body for a shell; one too long to read goes to a file."""
    text = json.dumps(body, ensure_ascii=False)
    if len(text) <= LONG_BODY:
        return shlex.quote(text)
    path = settings.home / "request.json"
    path.write_text(text, encoding="utf-8")
    return f"@{shlex.quote(str(path))}"


def example_request(shelf: Path, model: str | None = None) -> tuple[str | None, dict[str, Any]]:
    """A model's name (the shelf's default when none is named) and a request from its example."""
    from tidemill.serving.shelf.shelf import open_bundle, read_state

    state = read_state(shelf)
    name = model or state.default or next(iter(state.models), None)
    if name is None or name not in state.models:
        return None, {}
    held = open_bundle(shelf, state.models[name])
    row = list(held.example().rows[0])
    if held.signature.tensor:
        return name, {held.signature.tensor.name: row}
    return name, {"features": dict(zip(held.signature.names, row, strict=True))}


def is_answering(url: str) -> bool:
    """Whether a GET gives a 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, urllib.error.HTTPError):
        return False


def wait_for(url: str, timeout: float) -> bool:
    """Whether a GET gave a 2xx within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not is_answering(url):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
