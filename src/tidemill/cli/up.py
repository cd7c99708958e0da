"""`tidemill up`: everything on one machine, from nothing to a served model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tidemill.cli import console, household
from tidemill.cli.context import HomeOption, open_settings, start_logs
from tidemill.cli.greeting import example_request, greet, is_answering
from tidemill.cli.household import Addresses
from tidemill.cli.supervisor import Supervisor, run_once, supervising
from tidemill.settings import Settings

FIRST_PROJECT = "gallery:breast_cancer"


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Begin")(up)


def up(
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The API's port.", min=1, max=65535)] = 8000,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's port.", min=1, max=65535)] = 5000,
    first: Annotated[
        str, typer.Option(help="The project to train when nothing is registered; '' for none.")
    ] = FIRST_PROJECT,
) -> None:
    """Start MLflow, the API and a worker; train and promote a first model if there is none.

    Ctrl-C ends everything it started. All state is under the home, so the next `up` goes on
    where this one stopped.

    Examples:

      tidemill up

      tidemill up --port 8080 --mlflow-port 5001

      tidemill up --home /srv/tidemill --first gallery:iris
    """
    settings = open_settings(home)
    at = Addresses(host, port, mlflow_port)
    with household.hold_home(settings.home, at):
        household.check_port(host, port, "--port")
        own_mlflow = settings.tracking_uri is None
        if own_mlflow:
            household.check_port(host, mlflow_port, "--mlflow-port")
        start_logs(settings, "up")
        key, fresh = household.ensure_key(settings)
        with supervising() as supervisor:
            _start_serving(supervisor, settings, at, first)
            model, body = example_request(settings.shelf)
            mlflow = at.mlflow if own_mlflow else None
            greet(at, settings, (key, fresh), model, body, mlflow)
            _start_others(supervisor, settings, at, own_mlflow)
            supervisor.run()
        console.out.print("Everything has ended.")


def _start_serving(supervisor: Supervisor, settings: Settings, at: Addresses, first: str) -> None:
    """Serving before all else: with a shelf it answers within a second or two, if nothing else
    starts beside it; without one, the first model is trained meanwhile."""
    supervisor.start(household.one_port(settings, at))
    if not _holds_models(settings):
        command = [sys.executable, "-m", "tidemill.cli.first", *filter(None, [first])]
        run_once(command, household.environment(settings))
    url = f"{at.api}/ready" if _holds_models(settings) else f"{at.api}/health"
    supervisor.wait_until(lambda: is_answering(url), "Serving", 120)


def _start_others(
    supervisor: Supervisor, settings: Settings, at: Addresses, own_mlflow: bool
) -> None:
    supervisor.start(household.sync(settings, []))
    if settings.trust_models:
        supervisor.start(household.keeper(settings))
    supervisor.start(household.worker(settings))
    supervisor.start(household.ingest(settings))
    supervisor.start(household.watch(settings))
    if own_mlflow:
        supervisor.start(household.mlflow_server(settings, at))


def _holds_models(settings: Settings) -> bool:
    from tidemill.serving.shelf import read_state

    return bool(read_state(settings.shelf).models)
