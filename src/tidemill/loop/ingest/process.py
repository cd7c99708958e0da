"""The ingest process: moves the journal's records into the database, each exactly once.

    python -m tidemill.loop.ingest          until SIGTERM; `tidemill ingest --once` drains and ends

Rows and the segment's new offset are stored in one transaction. After a crash at any point the next
process resumes after the last stored row. If two processes read one segment, only one of them can
move its offset; the other discards what it read. A segment is deleted when it is closed and stored
completely. What happens when something is wrong:

    the database is down         the journal grows and ingest retries; nothing is lost
    a frame is cut off at the    in an open segment: read once it is complete; in a closed one:
    end of a segment             skipped and counted, its response was never sent
    a segment is damaged         every intact frame is stored; the segment is kept in the folder
                                 `damaged` and counted
    a record is inconsistent,    written to `rejected.jsonl` beside the segments, and counted
    or the database refuses it
    an id is stored already      the row is not changed; counted as a duplicate
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
from tidemill.loop.ingest.state import IngestState, MetricsServer, write_state
from tidemill.loop.operations.signals import stop_event
from tidemill.processes import program
from tidemill.settings import Settings, load_settings
from tidemill.stores.database.schema import open_database
from tidemill.stores.mlflow.connection import set_http_timeouts, silence_mlflow_output
from tidemill.stores.mlflow.registry import Registry

logger = logging.getLogger(__name__)
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)  # between attempts while the database is down


def follow(
    ingest: Ingest,
    stop: threading.Event,
    *,
    interval: float,
    retention: Retention,
    report: Callable[[IngestState], None] = lambda state: None,
) -> None:
    """Drain the journal and apply the retention repeatedly, until `stop` is set.

    Each problem is logged once; everything is retried.

    Args:
        interval: Seconds between two drains.
        report: Called with the state after every drain.
    """
    failures, problem = 0, None
    while not stop.is_set():
        try:
            ingest.drain(stop=stop)
            if retention.apply_if_due(stop):
                ingest.delete_stale_offsets()
            if problem is not None:
                logger.info("ingest has resumed")
            failures, problem = 0, None
        except UnavailableError as error:
            if problem is None:
                logger.warning("ingest is waiting: %s", error)
            failures, problem = failures + 1, str(error)
        except Exception as error:
            if problem != str(error):
                logger.exception("ingest failed")
            failures, problem = failures + 1, str(error)
        ingest.counts.errors += failures > 0
        report(ingest.state(problem))
        stop.wait(RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1] if failures else interval)


@contextlib.contextmanager
def open_ingest(settings: Settings) -> Iterator[tuple[Ingest, Retention]]:
    """Open the database, and yield ingest and retention as configured in the settings.

    Raises:
        SettingsError: The database has another schema version.
        UnavailableError: The database cannot be reached.
    """
    settings.make_home()
    with contextlib.closing(open_database(settings)) as database:
        finders = shelf_finder(settings.shelf), registry_finder(lambda: _registry(settings))
        yield (
            Ingest(database, settings.journal, SignatureLookup(*finders)),
            Retention.from_settings(settings, database),
        )


def reduce_gc() -> None:
    """Collect garbage rarely: rows form no cycles, and collecting takes a fifth of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def _registry(settings: Settings) -> Registry:
    set_http_timeouts()
    silence_mlflow_output()
    return Registry(settings.mlflow_uri, settings.registry_uri)


def run(settings: Settings, stop: threading.Event) -> None:
    """Ingest until `stop` is set; waits for a database that is down at the start."""
    metrics = MetricsServer(settings)

    def report(state: IngestState) -> None:
        write_state(settings.home, state)

    try:
        while not stop.is_set():
            try:
                with open_ingest(settings) as (ingest, retention):
                    interval = settings.ingest_interval
                    follow(ingest, stop, interval=interval, retention=retention, report=report)
            except (SettingsError, UnavailableError) as error:
                logger.warning("ingest waits for its database: %s", error)
                report(IngestState(updated=time.time(), problem=str(error)))
                stop.wait(RETRY_SECONDS[-1])
    finally:
        metrics.close()


@program()
def main(arguments: Sequence[str] | None = None) -> None:
    """Ingest until SIGTERM or SIGINT, as configured in the settings."""
    argparse.ArgumentParser(prog="python -m tidemill.loop.ingest").parse_args(arguments)
    settings = load_settings()
    logs.configure(
        "ingest", level=settings.log_level, style=settings.log_format, folder=settings.log_folder
    )
    reduce_gc()
    with stop_event() as stop:
        run(settings, stop)
