"""The control plane's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemill.errors import UnavailableError
from tidemill.loop.ingest.state import IngestMetrics, read_state
from tidemill.loop.operations.process_states import ProcessMetrics, read_states
from tidemill.stores.jobs.jobs import Jobs

ACTIVE = ("running",)
BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class JobMetrics(Collector):
    """Jobs by state, read from the database at each scrape; nothing while the database is down."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def describe(self) -> list[Metric]:
        return list(self._families({}, 0.0))

    def collect(self) -> Iterator[Metric]:
        try:
            counts, age = self._jobs.counts(), self._jobs.queue_age()
        except UnavailableError:
            return
        yield from self._families(counts, age)

    def _families(self, counts: dict[str, int], age: float) -> Iterator[Metric]:
        active = sum(counts.get(state, 0) for state in ACTIVE)
        yield GaugeMetricFamily("training_jobs_active", "Jobs running now", value=active)
        by_state = GaugeMetricFamily("tidemill_jobs", "Jobs by state", labels=["state"])
        for state, count in sorted(counts.items()):
            by_state.add_metric([state], count)
        yield by_state
        yield GaugeMetricFamily(
            "tidemill_job_queue_age_seconds", "Age of the oldest job that is due", value=age
        )


class ApiMetrics:
    """HTTP requests, labels, jobs, ingest and supervised processes.

    Args:
        home: The home folder, where ingest and the supervisor write their states.
    """

    def __init__(self, jobs: Jobs, home: Path) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests",
            "HTTP requests",
            ["method", "route", "code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "http_request_duration_seconds",
            "Duration of HTTP requests",
            ["method", "route"],
            registry=self.registry,
            buckets=BUCKETS_SECONDS,
        )
        self.labels = Counter(
            "tidemill_feedback_labels",
            "Labels received, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.registry.register(JobMetrics(jobs))
        self.registry.register(IngestMetrics(lambda: read_state(home)))
        self.registry.register(ProcessMetrics(lambda: read_states(home)))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def count_labels(self, outcomes: Mapping[str, int]) -> None:
        """Add the number of labels with each outcome."""
        for outcome, count in outcomes.items():
            self.labels.labels(outcome).inc(count)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
