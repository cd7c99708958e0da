"""The state of ingest: a file in the home, which the API and its metrics read."""

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
from tidemill.state_files import decode_state

FILE = "ingest.json"
STALE_SECONDS = 30.0


class IngestState(msgspec.Struct, frozen=True):
    """The state of an ingest process; counts are since its start.

    Attributes:
        updated: When the state was written, in seconds since the epoch.
        lag_seconds: Time since the whole journal was last stored.
        backlog_bytes: Bytes of the journal not stored yet.
        problem: Why ingest makes no progress; None if it does.
        rows, duplicates: Predictions stored, and those that were stored before.
        rejected: Records that could not be stored.
        damaged_bytes: Bytes of the journal that were skipped.
        errors: Attempts to drain the journal that failed.
        unreadable: Journal files that could not be read.
        damaged_files: Journal files that are set aside now, because they were damaged.
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
    damaged_files: int = 0
    pid: int = msgspec.field(default_factory=os.getpid)

    @property
    def stale(self) -> bool:
        """Whether the process has not written its state for `STALE_SECONDS`."""
        return time.time() - self.updated > STALE_SECONDS


def write_state(home: Path, state: IngestState) -> None:
    """Replace the file; errors such as a full disk are ignored."""
    draft = home / f".{FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        draft.write_bytes(msgspec.json.encode(state))
        draft.replace(home / FILE)


def read_state(home: Path) -> IngestState | None:
    """Return the last state; None if ingest has never run or the file cannot be read."""
    try:
        return decode_state((home / FILE).read_bytes(), IngestState)
    except (OSError, ValueError):
        return None


class IngestMetrics(Collector):
    """Prometheus metrics of ingest; none if it has never run."""

    def __init__(self, state: Callable[[], IngestState | None]) -> None:
        self._state = state

    def describe(self) -> list[Metric]:
        return list(_families(IngestState(updated=0.0)))

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        if state is not None:
            yield from _families(state)


def _families(state: IngestState) -> Iterator[Metric]:
    unreported = max(0.0, time.time() - state.updated) if state.stale else 0.0
    gauges = {
        "tidemill_ingest_lag_seconds": (
            "Seconds since the whole journal was stored, counting time in which ingest is down",
            state.lag_seconds + unreported,
        ),
        "tidemill_ingest_backlog_bytes": (
            "Bytes of the journal not stored yet",
            state.backlog_bytes,
        ),
        "tidemill_ingest_damaged_files": (
            "Damaged journal files that are set aside in the journal's folder `damaged`",
            state.damaged_files,
        ),
        "tidemill_ingest_up": (
            "1 while ingest runs without problems",
            float(state.problem is None and not state.stale),
        ),
    }
    for name, (help_text, value) in gauges.items():
        yield GaugeMetricFamily(name, help_text, value=value)
    counters = {
        "tidemill_ingest_rows": ("Predictions stored", state.rows),
        "tidemill_ingest_duplicates": ("Predictions that had been stored before", state.duplicates),
        "tidemill_ingest_rejected": ("Records that could not be stored", state.rejected),
        "tidemill_ingest_damaged_bytes": (
            "Damaged bytes of the journal that were skipped",
            state.damaged_bytes,
        ),
        "tidemill_ingest_unreadable": ("Journal files that could not be read", state.unreadable),
        "tidemill_ingest_errors": ("Attempts to drain the journal that failed", state.errors),
    }
    for name, (help_text, value) in counters.items():
        yield CounterMetricFamily(name, help_text, value=value)


class MetricsServer:
    """Serves the metrics on a port of their own if the settings name one."""

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
        """Stop serving the metrics."""
        if self.port is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
