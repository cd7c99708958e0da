"""What a server prints once it is ready: its addresses, and a request to paste into a shell."""

from __future__ import annotations

import json
import shlex
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.addresses import open_url
from tidemill.cli import terminal
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.serving.shelf.shelf import open_bundle, read_state
from tidemill.settings import Settings
from tidemill.signature import as_sent

LONG_BODY = 2000


@dataclass(frozen=True)
class Extras:
    """What is up besides one API: the addresses of the console, of MLflow and of more APIs."""

    console: str | None = None
    mlflow: str | None = None
    more_apis: Sequence[ServerAddresses] = ()


def greet(
    at: ServerAddresses,
    settings: Settings,
    shelf: Path,
    key: tuple[Path, bool] | None,
    extras: Extras = Extras(),
) -> None:
    """Print the addresses and, if the shelf holds a model, a request for it.

    Args:
        key: The user's key file, and whether it was created just now; None without authentication.
    """
    show = terminal.out.print
    show("\n[bold green]Tidemill is up.[/]  Ctrl-C stops it.\n")
    if extras.console:
        show(f"  console       {extras.console}  (sign in with the API key)")
    show(f"  predictions   {at.api}/predict")
    for other in extras.more_apis:
        show(f"                {other.api}/predict")
    show(f"  API docs      {at.api}/docs")
    if extras.mlflow:
        show(f"  MLflow        {extras.mlflow}  (takes some seconds to start)")
    show(f"  state, logs   {settings.home}", soft_wrap=True)
    if key is not None and key[1]:
        show(
            f"  API key       {key[0]}  (created now; the server stores only its hash)",
            soft_wrap=True,
        )
    model, body = example_request(shelf)
    if model:
        show(f"\nRequest a prediction from {model}:\n", markup=False)
        command = curl(at, key[0] if key else None, _data(settings, body))
        show(command, markup=False, soft_wrap=True)
    show("")


def curl(at: ServerAddresses, key: Path | None, data: str) -> str:
    """A prediction request as a shell command; `data` is already quoted for the shell."""
    header = f' -H "X-API-Key: $(cat {shlex.quote(str(key))})"' if key else ""
    return (
        f"curl -s {at.api}/predict{header} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {data}"
    )


def _data(settings: Settings, body: dict[str, Any]) -> str:
    """The body quoted for the shell; a long one is written to a file."""
    text = json.dumps(body, ensure_ascii=False)
    if len(text) <= LONG_BODY:
        return shlex.quote(text)
    path = settings.home / "request.json"
    path.write_text(text, encoding="utf-8")
    return f"@{shlex.quote(str(path))}"


def example_request(shelf: Path, model: str | None = None) -> tuple[str | None, dict[str, Any]]:
    """A model's name and a request body from its example row.

    Args:
        model: The model; None for the shelf's default.

    Returns:
        None and an empty body if the shelf holds no such model.
    """
    state = read_state(shelf)
    name = model or state.default or next(iter(state.models), None)
    if name is None or name not in state.models:
        return None, {}
    bundle = open_bundle(shelf, state.models[name])
    row = as_sent(bundle.signature, bundle.example().rows[0])
    if bundle.signature.tensor:
        return name, {bundle.signature.tensor.name: row}
    return name, {"features": dict(zip(bundle.signature.names, row, strict=True))}


def is_answering(url: str) -> bool:
    """Whether a GET request returns a 2xx status."""
    try:
        with open_url(url, timeout=2) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, urllib.error.HTTPError):
        return False
