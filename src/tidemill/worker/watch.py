"""The process that watches: `python -m tidemill.worker.watch [MODEL ...] [--every SECONDS]`.

A database that is away is waited for; everything else is told once and tried again.
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
from tidemill.settings import Settings
from tidemill.stores.monitoring.webhook_outbox import WebhookSender, WebhookTarget

logger = logging.getLogger("tidemill.watch")

PAUSE_SECONDS = 5.0


@contextmanager
def webhook_delivery(platform: Platform) -> Iterator[WebhookSender | None]:
    """Notices are delivered beside the block, in a thread of their own, where a hook is set."""
    settings = platform.settings
    if settings.webhook_url is None:
        yield None
        return
    secret = settings.webhook_secret
    hook = WebhookTarget(settings.webhook_url, secret.get_secret_value() if secret else None)
    courier, stop = WebhookSender(platform.database, hook), threading.Event()
    thread = threading.Thread(target=courier.run, args=(stop,), name="courier", daemon=True)
    thread.start()
    try:
        yield courier
    finally:
        stop.set()
        thread.join(timeout=PAUSE_SECONDS)


def watch(
    settings: Settings,
    stop: threading.Event,
    models: Sequence[str] = (),
    every: float | None = None,
) -> None:
    """Watch until `stop` is set."""
    while not stop.is_set():
        try:
            platform = Platform.open(settings)
        except (SettingsError, UnavailableError) as error:
            logger.warning("watching waits for its database: %s", error)
            stop.wait(PAUSE_SECONDS)
            continue
        try:
            with webhook_delivery(platform):
                platform.watcher.run(stop, models, every=every or settings.watch_every)
        finally:
            platform.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Watch until SIGTERM or SIGINT; what the settings say holds."""
    parser = argparse.ArgumentParser(prog="python -m tidemill.worker.watch")
    parser.add_argument("models", nargs="*", help="which models; nothing means all")
    parser.add_argument("--every", type=float, help="seconds between two looks at each model")
    given = parser.parse_args(arguments)
    settings = Settings()
    logs.configure(
        "watch", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    with stop_event() as stop:
        watch(settings, stop, given.models, given.every)


if __name__ == "__main__":
    main()
