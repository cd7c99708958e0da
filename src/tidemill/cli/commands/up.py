"""`tidemill up`: everything on one machine, from nothing to a served model."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.context import HomeOption, open_settings, start_logs
from tidemill.cli.local import process_specs
from tidemill.cli.local.greeting import example_request, greet, is_answering
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Supervisor, run_once, supervising
from tidemill.settings import Settings

FIRST_PROJECT = "gallery:breast_cancer"


def register(app: typer.Typer) -> None:
    command_help.add(app, up, command_help.BEGIN)


def up(
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The API's port.", min=1, max=65535)] = 8000,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's port.", min=1, max=65535)] = 5000,
    first: Annotated[
        str, typer.Option(help="The project to train when nothing is registered; '' for none.")
    ] = FIRST_PROJECT,
    scaled: Annotated[
        bool,
        typer.Option("--scaled", help="Several APIs and workers on PostgreSQL, Redis and MLflow."),
    ] = False,
    apis: Annotated[int, typer.Option(help="APIs of --scaled, from --port up.", min=1)] = 2,
    workers: Annotated[int, typer.Option(help="Workers of --scaled.", min=1)] = 3,
) -> None:
    """Start MLflow, the API and a worker; train and promote a first model if there is none.

    Ctrl-C ends everything it started. All state is under the home, so the next `up` goes on
    where this one stopped. With --scaled the servers that TIDEMILL_DATABASE_URL,
    TIDEMILL_BROKER_URL and MLFLOW_TRACKING_URI name are used, and those that none names are
    started too, on loopback.

    Examples:

      tidemill up

      tidemill up --port 8080 --mlflow-port 5001

      tidemill up --home /srv/tidemill --first gallery:iris

      tidemill up --scaled --apis 2 --workers 3
    """
    settings = open_settings(home)
    at = ServerAddresses(host, port, mlflow_port)
    places = [replace(at, port=port + place) for place in range(apis if scaled else 1)]
    with process_specs.lock_home(settings.home, at):
        for place in places:
            process_specs.check_port(host, place.port, "--port")
        own_mlflow = settings.tracking_uri is None
        if own_mlflow:
            process_specs.check_port(host, mlflow_port, "--mlflow-port")
        start_logs(settings, "up")
        with supervising() as supervisor:
            if scaled:
                settings = _start_servers(supervisor, settings, at)
            key = process_specs.ensure_key(settings)
            _start_serving(supervisor, settings, places, first)
            model, body = example_request(settings.shelf)
            pages = f"{at.api}/" if settings.console == "on" else None
            mlflow = at.mlflow if own_mlflow else None
            greet(at, settings, key, model, body, mlflow, places[1:], pages)
            _start_others(supervisor, settings)
            if scaled:
                _start_workers(supervisor, settings, workers)
            else:
                supervisor.start(process_specs.worker(settings))
            if own_mlflow and not scaled:
                supervisor.start(process_specs.mlflow_server(settings, at))
            supervisor.run()
        terminal.out.print("Everything has ended.")


def _start_servers(supervisor: Supervisor, settings: Settings, at: ServerAddresses) -> Settings:
    from tidemill.cli.local import scaled

    terminal.out.print("Starting PostgreSQL, Redis and MLflow where none is named ...")
    settings = scaled.start_servers(supervisor, settings, at)
    terminal.out.print(f"Other commands reach them after: set -a; . {settings.home}/scaled.env")
    return settings


def _start_serving(
    supervisor: Supervisor, settings: Settings, places: list[ServerAddresses], first: str
) -> None:
    """Serving before all else: with a shelf it answers within a second or two, if nothing else
    starts beside it; without one, the first model is trained meanwhile."""
    several = len(places) > 1
    for number, at in enumerate(places, 1):
        supervisor.start(
            process_specs.api_server(settings, at, f"api-{number}" if several else "api")
        )
    if not _holds_models(settings):
        command = [sys.executable, "-m", "tidemill.cli.local.first_model", *filter(None, [first])]
        run_once(command, process_specs.environment(settings))
    path = "/ready" if _holds_models(settings) else "/health"
    for at in places:
        url = f"{at.api}{path}"
        supervisor.wait_until(partial(is_answering, url), "Serving", 300)


def _start_others(supervisor: Supervisor, settings: Settings) -> None:
    """What needs to be there once, however many serve and work."""
    supervisor.start(process_specs.sync(settings, []))
    if settings.trust_models:
        supervisor.start(process_specs.pyfunc_supervisor(settings))
    supervisor.start(process_specs.ingest(settings))
    supervisor.start(process_specs.watch(settings))


def _start_workers(supervisor: Supervisor, settings: Settings, count: int) -> None:
    """Workers of one slot each: a fit uses the whole of a core."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    alone = settings.model_copy(update={"worker_concurrency": 1})
    for number in range(1, count + 1):
        supervisor.start(process_specs.worker(alone, f"worker-{number}"))


def _holds_models(settings: Settings) -> bool:
    from tidemill.serving.shelf.shelf import read_state

    return bool(read_state(settings.shelf).models)
