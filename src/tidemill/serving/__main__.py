"""Serve a shelf with the base dependencies alone: python -m tidemill.serving --shelf DIR."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from tidemill.errors import TidemillError
from tidemill.serving.settings import load
from tidemill.serving.telemetry import logs


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, serve, and end with a clear message when that cannot be."""
    options = vars(_parser().parse_args(arguments))
    try:
        settings = load(**options)
        logs.configure(settings.log_level, settings.log_format)
        _warn(settings.auth, settings.host)
        from tidemill.serving.http.workers import run

        run(settings, on_started=lambda url: logging.info("serving on %s", url))
    except TidemillError as error:
        sys.exit(f"tidemill serve: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidemill serve",
        description="Answer predictions out of a shelf of bundles.",
        epilog="Every other setting is a TIDEMILL_ variable of the environment.",
    )
    add = parser.add_argument
    add("--shelf", dest="shelf_dir", metavar="DIR", help="the folder of bundles")
    add("--home", metavar="DIR", help="where keys and journal are kept (.tidemill)")
    add("--models", metavar="NAMES", help="serve only these, with commas")
    add("--host", help="the address to listen on (127.0.0.1)")
    add("--port", type=int, help="the port (8000); 0 takes a free one")
    add("--workers", type=int, help="processes that share the port (1)")
    add("--journal", dest="journal_dir", metavar="DIR", help="the journal's folder")
    add("--no-journal", dest="journal", action="store_const", const="off", help="record nothing")
    add("--no-auth", dest="auth", action="store_const", const="off", help="ask for no key")
    add("--log-level", type=str.upper, choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    return parser


def _warn(auth: str, host: str) -> None:
    if auth == "off":
        logging.warning("keys are off: whoever reaches %s can ask for predictions", host)


if __name__ == "__main__":
    main()
