"""Serve a shelf with only the base dependencies: python -m tidemill.serving --shelf DIR."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from tidemill.errors import SettingsError, TidemillError
from tidemill.processes import CONFIGURATION_ERROR, keep_files_private
from tidemill.serving.settings import load
from tidemill.serving.telemetry import logs


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve; exit with a message if that fails."""
    keep_files_private()
    options = vars(_parser().parse_args(arguments))
    try:
        settings = load(**options)
        logs.configure(settings.log_level, settings.log_format)
        _warn(settings.auth, settings.host)
        from tidemill.serving.server.workers import run

        run(settings, on_started=lambda url: logging.info("serving on %s", url))
    except SettingsError as error:
        print(f"tidemill serve: {error}", file=sys.stderr, flush=True)
        sys.exit(CONFIGURATION_ERROR)
    except TidemillError as error:
        sys.exit(f"tidemill serve: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidemill serve",
        description="Serve predictions from a shelf of bundles.",
        epilog="All other settings are TIDEMILL_ environment variables.",
    )
    add = parser.add_argument
    add("--shelf", dest="shelf_dir", metavar="DIR", help="the folder of bundles")
    add("--home", metavar="DIR", help="the folder for keys and journal (.tidemill)")
    add("--models", metavar="NAMES", help="serve only these models, separated by commas")
    add("--host", help="the address to listen on (127.0.0.1)")
    add("--port", type=int, help="the port (8000); 0 for a free one")
    add("--workers", type=int, help="the number of processes that share the port (1)")
    add("--journal", dest="journal_dir", metavar="DIR", help="the journal's folder")
    off: dict[str, Any] = {"action": "store_const", "const": "off"}
    add("--no-journal", dest="journal", help="do not record predictions", **off)
    add("--no-auth", dest="auth", help="do not require API keys", **off)
    add("--log-level", type=str.upper, choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    return parser


def _warn(auth: str, host: str) -> None:
    if auth == "off":
        logging.warning("API keys are off: anyone who can reach %s can request predictions", host)


if __name__ == "__main__":
    main()
