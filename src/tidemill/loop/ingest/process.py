"""Ingest: what the journal holds goes into the database, every record exactly once.

    python -m tidemill.loop.ingest          until SIGTERM; `tidemill ingest --once` drains and ends

Rows and the offset behind them are stored in one transaction. So after a crash, at any point, the
next process goes on behind the last row that is there, and of two processes at work on one segment
only one moves its offset; the other drops what it read. A segment is deleted when it is closed and
stored to its end. What each kind of trouble comes to:

    the database is away         the journal grows, ingest tries again; nothing is lost
    a frame cut off at the end   of a segment that is written: read when it is whole; of a closed
                                 one: its answers never left, it is skipped and counted
    a damaged frame              skipped and counted; reading goes on at the next whole one
    a record that is nonsense,   set aside in `rejected.jsonl` beside the segments, and counted
    or no database takes it
    an id that is there already  the row stays as it is, and is counted
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from tidemill import logs
from tidemill.errors import SettingsError, UnavailableError
from tidemill.loop.ingest.drain import Ingest
from tidemill.loop.ingest.retention import Retention
from tidemill.loop.ingest.signatures import SignatureLookup, registry_finder, shelf_finder
from tidemill.loop.ingest.state import IngestState, serve_metrics, write_state
from tidemill.loop.operations.signals import stop_event
from tidemill.settings import Settings
from tidemill.stores.database.schema import open_database
from tidemill.stores.mlflow.connection import set_http_timeouts, silence_mlflow_output
from tidemill.stores.mlflow.registry import Registry

logger = logging.getLogger(__name__)
PAUSES = (0.5, 1.0, 2.0, 5.0)  # between tries while the database is away


def follow(
    ingest: Ingest,
    stop: threading.Event,
    *,
    interval: float,
    retention: Retention,
    tell: Callable[[IngestState], None] = lambda state: None,
) -> None:
    """Drain again and again, and delete what is old, until `stop` is set.

    Whatever goes wrong is told once, and tried again.
    """
    failures, trouble = 0, None
    while not stop.is_set():
        try:
            ingest.drain(stop=stop)
            if retention.apply_if_due(stop):
                ingest.delete_stale_offsets()
            if trouble is not None:
                logger.info("ingest goes on")
            failures, trouble = 0, None
        except UnavailableError as error:
            if trouble is None:
                logger.warning("the journal waits: %s", error)
            failures, trouble = failures + 1, str(error)
        except Exception as error:
            if trouble != str(error):
                logger.exception("ingest failed")
            failures, trouble = failures + 1, str(error)
        ingest.counts.errors += failures > 0
        tell(ingest.state(trouble))
        stop.wait(PAUSES[min(failures, len(PAUSES)) - 1] if failures else interval)


@contextlib.contextmanager
def open_ingest(settings: Settings) -> Iterator[tuple[Ingest, Retention]]:
    """Ingest and retention as the settings have them.

    Raises:
        SettingsError: The database is at another schema.
        UnavailableError: The database cannot be reached.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(open_database(settings)) as database:
        finders = shelf_finder(settings.shelf), registry_finder(lambda: _registry(settings))
        yield (
            Ingest(database, settings.journal, SignatureLookup(*finders)),
            Retention.from_settings(settings, database),
        )


def reduce_gc() -> None:
    """Let Python look for cycles seldom: rows make none, and looking takes a fifth of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def _registry(settings: Settings) -> Registry:
    set_http_timeouts()
    silence_mlflow_output()
    return Registry(settings.mlflow_uri, settings.registry_uri)


def run(settings: Settings, stop: threading.Event) -> None:
    """Ingest until `stop` is set; a database that is away at the start is waited for."""
    metrics = serve_metrics(settings)

    def tell(state: IngestState) -> None:
        write_state(settings.home, state)

    try:
        while not stop.is_set():
            try:
                with open_ingest(settings) as (ingest, retention):
                    pause = settings.ingest_interval
                    follow(ingest, stop, interval=pause, retention=retention, tell=tell)
            except (SettingsError, UnavailableError) as error:
                logger.warning("ingest waits for its database: %s", error)
                tell(IngestState(updated=time.time(), problem=str(error)))
                stop.wait(PAUSES[-1])
    finally:
        metrics.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Ingest until SIGTERM or SIGINT; what the settings say holds."""
    argparse.ArgumentParser(prog="python -m tidemill.loop.ingest").parse_args(arguments)
    settings = Settings()
    logs.configure(
        "ingest", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    reduce_gc()
    with stop_event() as stop:
        run(settings, stop)
