"""Monitoring results as Prometheus metrics, read from the database at each scrape."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemill.errors import UnavailableError
from tidemill.stores.monitoring.results import MonitoredModel, MonitoringResults
from tidemill.stores.monitoring.triggers import Triggers

#: Features with series of their own, largest effect first: more would overload Prometheus.
MAX_FEATURES = 100
STATES = ("unknown", "steady", "data moved", "model degraded", "data moved and model degraded")
#: Former names of states: deprecated, exported for one more release.
OLD_STATES = {
    "model degraded": "model hurt",
    "data moved and model degraded": "data moved and model hurt",
}


class MonitoringMetrics(Collector):
    """Each model's last verdict, and its triggers; nothing while the database is down."""

    def __init__(self, watching: MonitoringResults, triggers: Triggers) -> None:
        self._watching = watching
        self._triggers = triggers

    def describe(self) -> list[Metric]:
        return list(_families([], []))

    def collect(self) -> Iterator[Metric]:
        try:
            watched, counts = self._watching.all(), self._triggers.counts()
        except UnavailableError:
            return
        yield from _families(watched, counts)


def _families(
    watched: list[MonitoredModel], counts: list[tuple[str, str, int]]
) -> Iterator[Metric]:
    gauge = GaugeMetricFamily
    score = gauge(
        "tidemill_drift_score",
        "Effect size of the drift: share of rows that moved",
        labels=["model", "feature"],
    )
    live = gauge(
        "tidemill_live_metric",
        "Metric on labelled live rows",
        labels=["model", "version", "metric"],
    )
    low = gauge(
        "tidemill_live_metric_low", "Lower bound of it", labels=["model", "version", "metric"]
    )
    high = gauge(
        "tidemill_live_metric_high", "Upper bound of it", labels=["model", "version", "metric"]
    )
    estimate = gauge(
        "tidemill_estimated_accuracy",
        "Accuracy estimated from confidences",
        labels=["model", "version"],
    )
    state = gauge(
        "tidemill_model_state", "1 for the model's current state", labels=["model", "state"]
    )
    age = gauge(
        "tidemill_watch_age_seconds", "Time since the model was last looked at", labels=["model"]
    )
    checked = gauge("tidemill_check_age_seconds", "Time since its last check", labels=["model"])
    for row in watched:
        verdict = row.verdict or {}
        _add_scores(score, row.model, verdict)
        _add_live((live, low, high), row, verdict.get("live"))
        if verdict.get("estimate"):
            estimate.add_metric([row.model, row.version], verdict["estimate"]["value"])
        for name in STATES:
            value = float(verdict.get("state") == name)
            state.add_metric([row.model, name], value)
            if name in OLD_STATES:
                state.add_metric([row.model, OLD_STATES[name]], value)
        age.add_metric([row.model], max(0.0, time.time() - row.updated))
        if verdict.get("checked"):
            checked.add_metric([row.model], max(0.0, time.time() - verdict["checked"]))
    triggers = CounterMetricFamily(
        "tidemill_triggers", "Triggers opened", labels=["model", "cause"]
    )
    for model, cause, count in counts:
        triggers.add_metric([model, cause], count)
    yield from (score, live, low, high, estimate, state, age, checked, triggers)


def _add_scores(family: GaugeMetricFamily, model: str, verdict: Mapping[str, Any]) -> None:
    scores = sorted((verdict.get("scores") or {}).items(), key=lambda entry: -(entry[1] or 0.0))
    for feature, effect in scores[:MAX_FEATURES]:
        if effect is not None:
            family.add_metric([model, feature], effect)


def _add_live(
    families: tuple[GaugeMetricFamily, ...], row: MonitoredModel, live: Mapping[str, Any] | None
) -> None:
    if live is None:
        return
    for family, name in zip(families, ("value", "low", "high"), strict=True):
        if live.get(name) is not None:
            family.add_metric([row.model, row.version, live["metric"]], live[name])
