"""Serve the control plane alone: `python -m tidemill.api [--host HOST] [--port PORT]`."""

from __future__ import annotations

import argparse

import uvicorn

from tidemill import logs
from tidemill.addresses import bare_host
from tidemill.api.app import create_app
from tidemill.platform import Platform
from tidemill.processes import program
from tidemill.settings import Settings

SHUTDOWN_SECONDS = 15


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; running requests get `SHUTDOWN_SECONDS` to finish.

    Raises:
        SettingsError: The database has another schema version, or a setting is invalid.
        UnavailableError: The database cannot be reached.
    """
    logs.configure(
        "api", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    platform = Platform.open(settings)
    try:
        uvicorn.run(
            create_app(platform),
            host=bare_host(host) or "0.0.0.0",
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            headers=[("server", "tidemill")],
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    finally:
        platform.close()


@program()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tidemill.api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="the port")
    options = parser.parse_args()
    serve(Settings(), options.host, options.port)


if __name__ == "__main__":
    main()
