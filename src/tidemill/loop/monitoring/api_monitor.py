"""The monitor: probes an API at a steady pace, and reports how it did.

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
    tell: Callable[[Sequence[Probe]], None],
) -> list[Probe]:
    """Probe every few seconds, at a pace that slow answers do not shift.

    Args:
        seconds: For how long; None means until `stop`.
        tell: Hears of each look.

    Returns:
        Everything that was found, oldest first.
    """
    found: list[Probe] = []
    began = time.monotonic()
    due = began
    while not stop.is_set():
        look = prober.probe_all()
        found += look
        tell(look)
        due = max(due + every, time.monotonic())
        if seconds is not None and due - began >= seconds:
            break
        stop.wait(due - time.monotonic())
    return found


class ProbeBuffer:
    """Keeps findings in the database, and those of a time without it until it is back."""

    def __init__(self, results: ApiProbes | None) -> None:
        self._results = results
        self.waiting: list[Probe] = []

    def keep(self, probes: Sequence[Probe]) -> None:
        """Store these, and what waits."""
        self.waiting += probes
        if self._results is None:
            return
        try:
            self._results.add(self.waiting)
        except UnavailableError as error:
            logger.warning("%d findings wait for the database: %s", len(self.waiting), error)
        else:
            self.waiting = []
