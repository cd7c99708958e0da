"""The control plane's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemill.errors import UnavailableError
from tidemill.loop.ingest.state import IngestMetrics, read_state
from tidemill.stores.jobs.jobs import Jobs

ACTIVE = ("running",)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class JobMetrics(Collector):
    """Jobs by state, read from the database when Prometheus asks; silent while it is away."""

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
        yield GaugeMetricFamily("training_jobs_active", "Jobs that run now", value=active)
        by_state = GaugeMetricFamily("tidemill_jobs", "Jobs by state", labels=["state"])
        for state, count in sorted(counts.items()):
            by_state.add_metric([state], count)
        yield by_state
        yield GaugeMetricFamily(
            "tidemill_job_queue_age_seconds", "Longest wait of a job that is due", value=age
        )


class ApiMetrics:
    """Counts of requests by route template, method and status; the jobs, and ingest's state.

    Args:
        home: Where ingest says how it is doing.
    """

    def __init__(self, jobs: Jobs, home: Path) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests",
            "Requests answered",
            ["method", "route", "code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "http_request_duration_seconds",
            "Time to answer",
            ["method", "route"],
            registry=self.registry,
            buckets=SECONDS,
        )
        self.labels = Counter(
            "tidemill_feedback_labels",
            "Labels that arrived, by what came of them",
            ["outcome"],
            registry=self.registry,
        )
        self.registry.register(JobMetrics(jobs))
        self.registry.register(IngestMetrics(lambda: read_state(home)))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def count_labels(self, outcomes: Mapping[str, int]) -> None:
        """Count labels by their outcome."""
        for outcome, count in outcomes.items():
            self.labels.labels(outcome).inc(count)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
