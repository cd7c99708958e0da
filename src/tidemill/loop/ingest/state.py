"""How ingest is doing: a file in the home, from which the API and the doctor tell it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemill.settings import Settings

FILE = "ingest.json"
STALE_SECONDS = 30.0


class IngestState(msgspec.Struct, frozen=True):
    """What one ingest process says of itself; counts are since its start.

    Attributes:
        updated: When it said so, in seconds since the epoch.
        lag_seconds: Time since the last moment at which the whole journal was stored.
        backlog_bytes: What of the journal is not stored.
        problem: Why it does not get on, None when it does.
    """

    updated: float
    lag_seconds: float = 0.0
    backlog_bytes: int = 0
    problem: str | None = None
    rows: int = 0
    duplicates: int = 0
    rejected: int = 0
    damaged_bytes: int = 0
    errors: int = 0
    unreadable: int = 0
    pid: int = msgspec.field(default_factory=os.getpid)

    @property
    def stale(self) -> bool:
        """Whether the process has not been heard of for a while."""
        return time.time() - self.updated > STALE_SECONDS


def write_state(home: Path, state: IngestState) -> None:
    """Replace the file; a disk that is full costs the news, not the work."""
    draft = home / f".{FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        draft.write_bytes(msgspec.json.encode(state))
        draft.replace(home / FILE)


def read_state(home: Path) -> IngestState | None:
    """What ingest last said; None where it never ran, or the file is not readable."""
    try:
        return msgspec.json.decode((home / FILE).read_bytes(), type=IngestState)
    except (OSError, msgspec.DecodeError):
        return None


class IngestMetrics(Collector):
    """Ingest in numbers, for Prometheus; silent where it never ran."""

    def __init__(self, state: Callable[[], IngestState | None]) -> None:
        self._state = state

    def describe(self) -> list[Metric]:
        return list(_families(IngestState(updated=0.0)))

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        if state is not None:
            yield from _families(state)


def _families(state: IngestState) -> Iterator[Metric]:
    silent = max(0.0, time.time() - state.updated) if state.stale else 0.0
    gauges = {
        "tidemill_ingest_lag_seconds": (
            "Time since the whole journal was stored, or ingest was heard of",
            state.lag_seconds + silent,
        ),
        "tidemill_ingest_backlog_bytes": ("Bytes of the journal that wait", state.backlog_bytes),
        "tidemill_ingest_up": (
            "1 while ingest runs and gets on",
            float(state.problem is None and not state.stale),
        ),
    }
    for name, (words, value) in gauges.items():
        yield GaugeMetricFamily(name, words, value=value)
    counters = {
        "tidemill_ingest_rows": ("Predictions stored", state.rows),
        "tidemill_ingest_duplicates": ("Predictions that were there already", state.duplicates),
        "tidemill_ingest_rejected": ("Records that no table takes", state.rejected),
        "tidemill_ingest_damaged_bytes": ("Bytes of the journal skipped", state.damaged_bytes),
        "tidemill_ingest_unreadable": ("Files of the journal left alone", state.unreadable),
        "tidemill_ingest_errors": ("Looks at the journal that failed", state.errors),
    }
    for name, (words, value) in counters.items():
        yield CounterMetricFamily(name, words, value=value)


class MetricsServer:
    """The metrics on a port of their own, where the settings name one."""

    def __init__(self, settings: Settings) -> None:
        self.port: int | None = None
        if settings.ingest_metrics_port is None:
            return
        registry = CollectorRegistry()
        registry.register(IngestMetrics(lambda: read_state(settings.home)))
        self._server, self._thread = start_http_server(
            settings.ingest_metrics_port, registry=registry
        )
        self.port = self._server.server_port

    def close(self) -> None:
        """Free the port."""
        if self.port is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


def serve_metrics(settings: Settings) -> MetricsServer:
    """Show the metrics if the settings say where."""
    return MetricsServer(settings)
