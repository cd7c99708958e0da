"""Follows the registry and updates the shelf: a process of its own, next to the server.

python -m tidemill.loop.sync [MODEL ...]     names, models:/name/3, models:/name@alias,
                                             tag:KEY=VALUE, all; nothing means all
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from tidemill import logs
from tidemill.bundle import Bundle
from tidemill.errors import UnavailableError
from tidemill.loop.sync.bundle_fetcher import BundleFor
from tidemill.loop.sync.selection import parse_selection
from tidemill.loop.sync.shelf_sync import ShelfSync
from tidemill.processes import program
from tidemill.settings import load_settings
from tidemill.stores.mlflow.connection import set_http_timeouts, silence_mlflow_output
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

logger = logging.getLogger(__name__)

INTERVAL = 0.4


def sync_forever(
    sync: ShelfSync,
    stop: threading.Event,
    *,
    interval: float = INTERVAL,
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """Update the shelf every `interval` seconds until `stop` is set.

    Errors are retried; a repeated one is logged once.

    Args:
        before_each: Called before each update.
    """
    last_error: str | None = None
    while not stop.is_set():
        started = time.monotonic()
        try:
            before_each()
            sync.once()
            if last_error is not None:
                logger.info("the registry can be reached again")
            last_error = None
        except UnavailableError as error:
            if last_error is None:
                logger.warning("keeping the shelf as it is: %s", error)
            last_error = str(error)
        except Exception as error:
            if last_error != str(error):
                logger.exception("the shelf could not be updated")
            last_error = str(error)
        stop.wait(max(0.05, interval - (time.monotonic() - started)))


@program()
def main(arguments: Sequence[str] | None = None) -> None:
    """Follow the registry until SIGTERM or SIGINT, with the environment's settings.

    Raises:
        NotFoundError: An argument is not a valid model reference.
    """
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    settings = load_settings()
    logs.configure(
        "sync", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    set_http_timeouts()
    silence_mlflow_output()
    registry = Registry(settings.mlflow_uri, settings.registry_uri)
    selection = replace(
        parse_selection(given.models), default=settings.model_name, stage=settings.model_stage
    )
    convert = _converter(registry, trust=given.trust or settings.trust_models)
    sync = ShelfSync(registry, settings.shelf, selection, bundle_for=convert)
    settings.make_home()
    alive = settings.home / "sync.alive"  # for health checks
    sync_forever(sync, threading.Event(), interval=given.interval, before_each=alive.touch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tidemill.loop.sync")
    parser.add_argument("models", nargs="*", help="models to serve; by default all")
    parser.add_argument("--interval", type=float, default=INTERVAL, help="seconds between updates")
    parser.add_argument(
        "--trust", action="store_true", help="allow models to be unpickled and their code to run"
    )
    return parser


def _converter(registry: Registry, *, trust: bool) -> BundleFor:
    def convert(version: ModelVersion, into: Path) -> Bundle:
        # Imported for the first version without a bundle: it loads ONNX and the training libraries.
        from tidemill.loop.sync.model_converter import ModelConverter

        return ModelConverter(registry, trust=trust)(version, into)

    return convert


def _exit(number: int, frame: FrameType | None) -> None:
    """Exit immediately, even in the middle of a call: every step leaves the shelf intact."""
    raise SystemExit(0)
