"""`tidemill serve`: the data plane, following the registry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.context import HomeOption, TrackingOption, open_settings, start_logs
from tidemill.cli.local import process_specs
from tidemill.cli.local.greeting import example_request, greet, is_answering
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Child, Supervisor, supervising
from tidemill.errors import SettingsError, TidemillError
from tidemill.settings import Settings

FIRST_SYNC_SECONDS = 120.0
EMPTY = "The registry holds no version to serve."


def register(app: typer.Typer) -> None:
    command_help.add(app, serve, command_help.SERVE)


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
        Path | None, typer.Option(help="Serve this folder of bundles and follow no registry.")
    ] = None,
    trust: Annotated[
        bool, typer.Option(help="Unpickle and run models of other makers in the registry.")
    ] = False,
    journal: Annotated[Path | None, typer.Option(help="The journal's folder.")] = None,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Serve models of an MLflow registry, and follow it: a new champion answers within seconds.

    A plain name means the champion, or the newest version where none was promoted. What was served
    once is kept on the shelf in the home, so serving starts and goes on while MLflow is down.

    Any model of the registry will do. One that another program registered is compiled on the way;
    where it was pickled, or only MLflow can run it, --trust says that its code may be run.

    Examples:

      tidemill serve churn

      tidemill serve models:/churn@champion models:/iris-classifier/3 --port 8080

      tidemill serve churn --tracking-uri http://mlflow:5000 --workers 4

      tidemill serve models:/legacy/7 --tracking-uri http://mlflow:5000 --trust
    """
    settings = open_settings(home, tracking_uri)
    at = ServerAddresses(host, port)
    with process_specs.lock_home(settings.home, at):
        process_specs.check_port(host, port, "--port")
        start_logs(settings, "serve-cli")
        key, fresh = process_specs.ensure_key(settings, recorded=False)
        if not auth:
            terminal.err.print(f"[yellow]Keys are off:[/] whoever reaches {host}:{port} may ask.")
        wanted = models or ([settings.model_name] if settings.model_name else [])
        with supervising() as supervisor:
            server = supervisor.start(_server(settings, at, wanted, workers, auth, shelf, journal))
            trusted = trust or settings.trust_models
            if shelf is None:
                supervisor.start(process_specs.sync(settings, wanted, trust=trusted))
            if trusted:
                supervisor.start(process_specs.pyfunc_supervisor(settings, shelf))
            _await_models(supervisor, settings, at, server)
            folder = shelf or settings.shelf
            model, body = example_request(folder)
            greet(at, settings, (key, fresh) if auth else None, model, body)
            supervisor.run()
        terminal.out.print("Serving has ended.")


def _server(
    settings: Settings,
    at: ServerAddresses,
    wanted: list[str],
    workers: int,
    auth: bool,
    shelf: Path | None,
    journal: Path | None,
) -> Child:
    from tidemill.stores.mlflow.versions import parse_reference

    command = [sys.executable, "-m", "tidemill.serving", "--home", str(settings.home)]
    command += ["--host", at.host, "--port", str(at.port), "--workers", str(workers)]
    command += ["--shelf", str(shelf)] if shelf else []
    command += ["--journal", str(journal)] if journal else []
    command += [] if auth else ["--no-auth"]
    if wanted:
        command += ["--models", ",".join(parse_reference(name).name for name in wanted)]
    return Child(
        "serving", command, settings.logs / "serve.out", process_specs.environment(settings)
    )


def _await_models(
    supervisor: Supervisor, settings: Settings, at: ServerAddresses, server: Child
) -> None:
    """Wait for the first model.

    Raises:
        SettingsError: The registry was reached and has nothing to serve.
    """
    try:
        supervisor.wait_until(
            lambda: is_answering(f"{at.api}/ready") or _nothing_to_serve(settings) is not None,
            "Serving",
            FIRST_SYNC_SECONDS,
        )
    except TidemillError as error:
        raise SettingsError(f"{error.detail} It last said:\n{server.tail()}") from error
    if why := _nothing_to_serve(settings):
        told = why != EMPTY  # a problem names its own remedy
        remedy = None if told else "Train and promote a model first, or check the name."
        raise SettingsError(why, remedy=remedy)


def _nothing_to_serve(settings: Settings) -> str | None:
    """Why there is nothing to serve, once the registry has been asked; None while it may come."""
    from tidemill.serving.shelf.shelf import read_state

    state = read_state(settings.shelf)
    if state.models or not state.synced_at:
        return None
    return "; ".join(state.problems.values()) or EMPTY
