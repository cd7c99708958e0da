"""`tidemill demo`: show the whole loop once, or the answers of a running API."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import Exit, command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, open_settings
from tidemill.cli.demo.api_walkthrough import ApiWalkthrough, Exchange
from tidemill.cli.demo.drift import drift_demo
from tidemill.cli.demo.hot_swap import hot_swap_demo
from tidemill.cli.local.home import read_own_key

DEMO_KEYS = "step, result, seconds; with --url: what, method, path, curl, status, ok, answer"
app = command_app()


@app.command(epilog=notes(DEMO_KEYS, many=True, gated=True))
def demo(
    home: HomeOption = None,
    drift: Annotated[
        bool,
        typer.Option("--drift", help="Invert the labels under load, and show the loop's reaction."),
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="Call a running API instead, one request of each kind.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --url: the model. [default: the API's own]")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="TIDEMILL_API_KEY", help="With --url: an API key. [default: the home's own]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train two models, promote, serve, predict, and swap in a better version under load.

    With --drift: serve one model under load, invert the meaning of its inputs, and watch the loop
    detect the drift, retrain, compare the new versions with the champion, and swap.

    Both use a scratch folder and free ports, start the same programs as `up`, and remove everything
    afterwards (with --home, the folder stays).

    With --url: start nothing, but call a running API for its health, models, predictions, lists and
    metrics, and print every request and response. Exit 1 if a response is not as expected. The
    predictions are marked as probes, which monitoring ignores.

    Examples:

      tidemill demo

      tidemill demo --drift

      tidemill demo --home /tmp/look-around

      tidemill demo --url http://127.0.0.1:8000 --key "$(cat .tidemill/key)"
    """
    if url is not None:
        _walk_through(url, key or read_own_key(open_settings(home)), model, as_json)
        return
    with contextlib.ExitStack() as stack:
        folder = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-")))
        if drift:
            events = drift_demo(folder, quiet=as_json).rows
            rows = [(what, detail, seconds) for seconds, what, detail in events]
        else:
            rows = hot_swap_demo(folder)
        if as_json:
            fields = ("step", "result", "seconds")
            rounded = [(step, result, round(seconds, 3)) for step, result, seconds in rows]
            terminal.print_json([dict(zip(fields, row, strict=True)) for row in rounded])
        elif not drift:
            terminal.print_table(["step", "result", "seconds"], rows, "What happened")


def _walk_through(url: str, key: str | None, model: str | None, as_json: bool) -> None:
    """Call a running API; exit 1 if a response is not as expected."""
    on_exchange = (lambda _: None) if as_json else _print_exchange
    found = list(ApiWalkthrough(url, key, on_exchange).run(model))
    unexpected = [exchange.path for exchange in found if not exchange.ok]
    if as_json:
        terminal.print_json(found)
    elif unexpected:
        terminal.err.print(f"Unexpected responses: {', '.join(unexpected)}.", markup=False)
    else:
        terminal.out.print(f"\nAll {len(found)} responses are as expected.")
    if unexpected:
        raise typer.Exit(Exit.FAILED)


def _print_exchange(exchange: Exchange) -> None:
    colour = "green" if exchange.ok else "red"
    terminal.out.print(f"\n[bold]{exchange.what}[/]")
    terminal.out.print(f"$ {exchange.curl}", markup=False, soft_wrap=True)
    terminal.out.print(f"[{colour}]{exchange.status or 'no response'}[/] ", end="")
    terminal.out.print(exchange.answer, markup=False, soft_wrap=True)
