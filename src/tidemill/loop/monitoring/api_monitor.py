"""The API monitor: probe an API at a fixed interval.

`tidemill.loop.monitoring.api_monitor_report` reports on the probes:

reports/api_monitoring_report.png     latency and failures over time
reports/monitoring_summary.json       availability, latency, outages, versions seen
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from tidemill.errors import UnavailableError
from tidemill.loop.monitoring.api_probe import ApiProber
from tidemill.stores.monitoring.api_probes import ApiProbes, Probe

logger = logging.getLogger(__name__)


def monitor_api(
    prober: ApiProber,
    *,
    every: float,
    seconds: float | None,
    stop: threading.Event,
    on_probes: Callable[[Sequence[Probe]], None],
) -> list[Probe]:
    """Probe every `every` seconds; slow responses do not shift later probes.

    Args:
        seconds: Duration; None means until `stop`.
        on_probes: Called with the probes of each round.

    Returns:
        All probes, oldest first.
    """
    found: list[Probe] = []
    began = time.monotonic()
    due = began
    while not stop.is_set():
        probes = prober.probe_all()
        found += probes
        on_probes(probes)
        due = max(due + every, time.monotonic())
        if seconds is not None and due - began >= seconds:
            break
        stop.wait(due - time.monotonic())
    return found


class ProbeBuffer:
    """Stores probes in the database; keeps them in memory during an outage."""

    def __init__(self, results: ApiProbes | None) -> None:
        self._results = results
        self.pending: list[Probe] = []

    def add(self, probes: Sequence[Probe]) -> None:
        """Store these probes and the pending ones."""
        self.pending += probes
        if self._results is None:
            return
        try:
            self._results.add(self.pending)
        except UnavailableError as error:
            logger.warning("%d probes wait for the database: %s", len(self.pending), error)
        else:
            self.pending = []
