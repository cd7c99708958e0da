"""`tidemill api`: serve the control plane alone, where the data plane is served elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.api.__main__ import serve
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, TrackingOption, open_settings

app = command_app()


@app.command(epilog=notes())
def api(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.", min=1, max=65535)] = 8000,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Serve the control plane without predictions: jobs, experiments, models, promotion, audit.

    Examples:

      tidemill api --port 8001

      TIDEMILL_DATABASE_URL=postgresql+psycopg://db/tidemill tidemill api --host 0.0.0.0
    """
    serve(open_settings(home, tracking_uri), host, port)
