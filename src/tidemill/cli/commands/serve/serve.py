"""`tidemill serve`: serve models of an MLflow registry, without the control plane."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tidemill.addresses import bypass_proxies
from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, TrackingOption, open_settings, start_logs
from tidemill.cli.local import process_specs
from tidemill.cli.local.greeting import greet, is_answering
from tidemill.cli.local.home import ensure_key, lock_home
from tidemill.cli.local.ports import check_port
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Child, Supervisor, supervising
from tidemill.errors import SettingsError, TidemillError
from tidemill.serving.shelf.shelf import read_state
from tidemill.settings import Settings
from tidemill.stores.mlflow.versions import parse_reference

FIRST_SYNC_SECONDS = 120.0
EMPTY = "The registry has no version to serve."
app = command_app()


@app.command(epilog=notes())
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Registered names, models:/name@alias or models:/name/3. [all]"),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.", min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Processes that share the port.", min=1)] = 1,
    auth: Annotated[bool, typer.Option(help="Whether predictions need an API key.")] = True,
    shelf: Annotated[
        Path | None, typer.Option(help="Serve this folder of bundles, without a registry.")
    ] = None,
    trust: Annotated[
        bool, typer.Option(help="Unpickle and run models that other programs registered.")
    ] = False,
    journal: Annotated[Path | None, typer.Option(help="The folder of the journal.")] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Serve models of an MLflow registry; a new champion is served within seconds.

    A plain name means the champion, or the newest version if none was promoted. Bundles are kept on
    the shelf in the home, so that serving starts and continues while MLflow is down.

    Models that other programs registered are compiled first. A model that is pickled, or that only
    MLflow can run, executes its own code: allow that with --trust.

    Examples:

      tidemill serve churn

      tidemill serve models:/churn@champion models:/iris-classifier/3 --port 8080

      tidemill serve churn --tracking-uri http://mlflow:5000 --workers 4

      tidemill serve models:/legacy/7 --tracking-uri http://mlflow:5000 --trust
    """
    settings = open_settings(home, tracking_uri)
    at = ServerAddresses(host, port)
    bypass_proxies(host)
    with lock_home(settings.home, at):
        check_port(host, port, "--port")
        start_logs(settings, "serve-cli")
        key = ensure_key(settings, recorded=False)
        if not auth:
            terminal.err.print(
                f"[yellow]Authentication is off:[/] anyone who can reach {host}:{port} may predict."
            )
        references = models or ([settings.model_name] if settings.model_name else [])
        with supervising(settings.home) as supervisor:
            options = _server_options(references, workers, auth, shelf, journal)
            server = supervisor.start(_server(settings, at, options))
            trusted = trust or settings.trust_models
            if shelf is None:
                supervisor.start(process_specs.sync(settings, references, trust=trusted))
            if trusted:
                supervisor.start(process_specs.pyfunc_supervisor(settings, shelf))
            _await_models(supervisor, settings, at, server)
            greet(at, settings, shelf or settings.shelf, key if auth else None)
            supervisor.run()
        terminal.out.print("Stopped.")


def _server_options(
    references: list[str], workers: int, auth: bool, shelf: Path | None, journal: Path | None
) -> list[str]:
    """The command-line options of the data plane."""
    options = ["--workers", str(workers)]
    options += ["--shelf", str(shelf)] if shelf else []
    options += ["--journal", str(journal)] if journal else []
    options += [] if auth else ["--no-auth"]
    if references:
        options += ["--models", ",".join(parse_reference(name).name for name in references)]
    return options


def _server(settings: Settings, at: ServerAddresses, options: list[str]) -> Child:
    command = [sys.executable, "-m", "tidemill.serving", "--home", str(settings.home)]
    command += ["--host", at.host, "--port", str(at.port), *options]
    env = process_specs.environment(settings)
    return Child("serving", command, settings.logs / "serve.out", env)


def _await_models(
    supervisor: Supervisor, settings: Settings, at: ServerAddresses, server: Child
) -> None:
    """Wait until the first model is served.

    Raises:
        SettingsError: The registry was reached, but has nothing to serve.
    """
    try:
        supervisor.wait_until(
            lambda: is_answering(f"{at.api}/ready") or _nothing_to_serve(settings) is not None,
            "Serving",
            FIRST_SYNC_SECONDS,
            needed=[server],
        )
    except TidemillError as error:
        raise SettingsError(f"{error.detail} Its last output:\n{server.tail()}") from error
    if why := _nothing_to_serve(settings):
        # Every other reason names its own remedy.
        remedy = "Train and promote a model first, or check the name." if why == EMPTY else None
        raise SettingsError(why, remedy=remedy)


def _nothing_to_serve(settings: Settings) -> str | None:
    """Why there is nothing to serve; None if there is, or before the first sync has ended."""
    state = read_state(settings.shelf)
    if state.models or not state.synced_at:
        return None
    return "; ".join(state.problems.values()) or EMPTY
