"""The monitor's process: `python -m tidemill.worker.watch [MODEL ...] [--every SECONDS]`.

It waits for an unavailable database; other errors are logged once and retried.
"""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tidemill import logs
from tidemill.errors import SettingsError, UnavailableError
from tidemill.loop.operations.signals import stop_event
from tidemill.platform import Platform
from tidemill.processes import program
from tidemill.settings import Settings, load_settings
from tidemill.stores.monitoring.webhook_outbox import WebhookSender, WebhookTarget

logger = logging.getLogger("tidemill.watch")

PAUSE_SECONDS = 5.0


@contextmanager
def webhook_delivery(platform: Platform) -> Iterator[WebhookSender | None]:
    """Deliver webhook events in a thread during the block, if a webhook is configured."""
    settings = platform.settings
    if settings.webhook_url is None:
        yield None
        return
    secret = settings.webhook_secret
    target = WebhookTarget(settings.webhook_url, secret.get_secret_value() if secret else None)
    sender, stop = WebhookSender(platform.database, target), threading.Event()
    thread = threading.Thread(target=sender.run, args=(stop,), name="webhook", daemon=True)
    thread.start()
    try:
        yield sender
    finally:
        stop.set()
        thread.join(timeout=PAUSE_SECONDS)


def watch(
    settings: Settings,
    stop: threading.Event,
    models: Sequence[str] = (),
    every: float | None = None,
) -> None:
    """Check models until `stop` is set."""
    while not stop.is_set():
        try:
            platform = Platform.open(settings)
        except (SettingsError, UnavailableError) as error:
            logger.warning("monitoring waits for the database: %s", error)
            stop.wait(PAUSE_SECONDS)
            continue
        try:
            with webhook_delivery(platform):
                platform.watcher.run(stop, models, every=every or settings.watch_every)
        finally:
            platform.close()


@program()
def main(arguments: Sequence[str] | None = None) -> None:
    """Check models until SIGTERM or SIGINT, with the settings of the environment."""
    parser = argparse.ArgumentParser(prog="python -m tidemill.worker.watch")
    parser.add_argument("models", nargs="*", help="the models to check; default: all")
    parser.add_argument("--every", type=float, help="seconds between two checks of a model")
    given = parser.parse_args(arguments)
    settings = load_settings()
    logs.configure(
        "watch", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    with stop_event() as stop:
        watch(settings, stop, given.models, given.every)


if __name__ == "__main__":
    main()
