"""`tidemill up`: start everything on one machine, and train a first model if there is none."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from tidemill.addresses import bypass_proxies
from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, open_settings, start_logs
from tidemill.cli.local import process_specs
from tidemill.cli.local.greeting import Extras, greet, is_answering
from tidemill.cli.local.home import ensure_key, lock_home
from tidemill.cli.local.ports import check_port
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Supervisor, supervising
from tidemill.serving.shelf.shelf import read_state
from tidemill.settings import Settings

FIRST_PROJECT = "gallery:breast_cancer"
app = command_app()


@app.command(epilog=notes())
def up(
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The API's port.", min=1, max=65535)] = 8000,
    mlflow_port: Annotated[int, typer.Option(help="MLflow's port.", min=1, max=65535)] = 5000,
    first: Annotated[
        str, typer.Option(help="The project to train if no model is registered; '' for none.")
    ] = FIRST_PROJECT,
    scaled: Annotated[
        bool,
        typer.Option(
            "--scaled", help="Run several APIs and workers on PostgreSQL, Redis and MLflow."
        ),
    ] = False,
    apis: Annotated[
        int,
        typer.Option(help="With --scaled: number of APIs, on ports from --port upwards.", min=1),
    ] = 2,
    workers: Annotated[int, typer.Option(help="With --scaled: number of workers.", min=1)] = 3,
) -> None:
    """Start MLflow, the API and a worker; train and promote a first model if there is none.

    Ctrl-C stops everything that it started. All state is in the home, so the next `up` resumes
    there. With --scaled, the servers named by TIDEMILL_DATABASE_URL, TIDEMILL_BROKER_URL and
    MLFLOW_TRACKING_URI are used; those that are not named are started on loopback.

    Examples:

      tidemill up

      tidemill up --port 8080 --mlflow-port 5001

      tidemill up --home /srv/tidemill --first gallery:iris

      tidemill up --scaled --apis 2 --workers 3
    """
    settings = open_settings(home)
    at = ServerAddresses(host, port, mlflow_port)
    bypass_proxies(host)
    servers = [replace(at, port=port + number) for number in range(apis if scaled else 1)]
    with lock_home(settings.home, at):
        for server in servers:
            check_port(host, server.port, "--port")
        own_mlflow = settings.tracking_uri is None
        if own_mlflow:
            check_port(host, mlflow_port, "--mlflow-port")
        start_logs(settings, "up")
        with supervising(settings.home) as supervisor:
            if scaled:
                settings = _start_servers(supervisor, settings, at)
            key = ensure_key(settings)
            _start_serving(supervisor, settings, servers, first)
            extras = Extras(
                console=f"{at.api}/" if settings.console == "on" else None,
                mlflow=at.mlflow if own_mlflow else None,
                more_apis=servers[1:],
            )
            greet(at, settings, settings.shelf, key, extras)
            _start_others(supervisor, settings)
            if scaled:
                _start_workers(supervisor, settings, workers)
            else:
                supervisor.start(process_specs.worker(settings))
            if own_mlflow and not scaled:
                supervisor.start(process_specs.mlflow_server(settings, at))
            supervisor.run()
        terminal.out.print("Stopped.")


def _start_servers(supervisor: Supervisor, settings: Settings, at: ServerAddresses) -> Settings:
    from tidemill.cli.local import scaled  # needs psycopg, which is an extra

    terminal.out.print("Starting PostgreSQL, Redis and MLflow unless they are configured ...")
    settings = scaled.start_servers(supervisor, settings, at)
    file = shlex.quote(str(settings.home / scaled.ENVIRONMENT_FILE))
    terminal.out.print(f"To use them from other commands: set -a; . {file}", markup=False)
    return settings


def _start_serving(
    supervisor: Supervisor, settings: Settings, servers: list[ServerAddresses], first: str
) -> None:
    """Start the servers first: with models on the shelf they are ready within two seconds, unless
    other processes start at the same time. Without models, train the first one meanwhile."""
    several, children = len(servers) > 1, []
    for number, at in enumerate(servers, 1):
        name = f"api-{number}" if several else "api"
        children.append(supervisor.start(process_specs.api_server(settings, at, name)))
    if not _holds_models(settings):
        command = [sys.executable, "-m", "tidemill.cli.local.first_model", *filter(None, [first])]
        supervisor.run_once(command, process_specs.environment(settings))
    path = "/ready" if _holds_models(settings) else "/health"
    for at in servers:
        answering = partial(is_answering, f"{at.api}{path}")
        supervisor.wait_until(answering, "The API", 300, needed=children)


def _start_others(supervisor: Supervisor, settings: Settings) -> None:
    """Start the processes that run once, however many APIs and workers there are."""
    supervisor.start(process_specs.sync(settings, []))
    if settings.trust_models:
        supervisor.start(process_specs.pyfunc_supervisor(settings))
    supervisor.start(process_specs.ingest(settings))
    supervisor.start(process_specs.watch(settings))


def _start_workers(supervisor: Supervisor, settings: Settings, count: int) -> None:
    """Start workers that run one job each: a training uses a whole core."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    single = settings.model_copy(update={"worker_concurrency": 1})
    for number in range(1, count + 1):
        supervisor.start(process_specs.worker(single, f"worker-{number}"))


def _holds_models(settings: Settings) -> bool:
    return bool(read_state(settings.shelf).models)
