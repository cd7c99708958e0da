"""What policies refuse, and what durations mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill import Candidate, Challenge, Decay, Drift, Project, Retraining, csv
from tidemill.errors import ProjectError
from tidemill.policies import UNITS, seconds


@pytest.mark.parametrize("policy", [Drift, Decay, Retraining, Challenge])
def test_defaults_are_valid(policy: Callable[[], Any]) -> None:
    policy()


def test_drift_is_reported_and_does_not_retrain() -> None:
    assert "drift" not in Retraining().on
    assert "drift" in Retraining().report
    assert {"decay", "estimate"} <= set(Retraining().on)


@pytest.mark.parametrize(
    ("policy", "given", "field"),
    [
        (Drift, {"rows": 0}, "rows"),
        (Drift, {"rows": 2.5}, "rows"),
        (Drift, {"rows": True}, "rows"),
        (Drift, {"rows": 40}, "min_rows"),
        (Drift, {"alpha": 0.0}, "alpha"),
        (Drift, {"effect": 1.0}, "effect"),
        (Drift, {"separation": "high"}, "separation"),
        (Drift, {"age": "soon"}, "age"),
        (Drift, {"age": 0}, "age"),
        (Decay, {"tolerance": -0.1}, "tolerance"),
        (Decay, {"tolerance": float("nan")}, "tolerance"),
        (Decay, {"consecutive": 0}, "consecutive"),
        (Retraining, {"on": "decay"}, "on"),
        (Retraining, {"on": ("manual",)}, "on"),
        (Retraining, {"on": ("decay", "weather")}, "on"),
        (Retraining, {"report": ("schedule",)}, "report"),
        (Retraining, {"on": ("schedule",)}, "schedule"),
        (Retraining, {"schedule": "1d"}, "schedule"),
        (Retraining, {"on": ("labels",)}, "new_labels"),
        (Retraining, {"cooldown": -1}, "cooldown"),
        (Challenge, {"max_latency": 0.5}, "max_latency"),
        (Challenge, {"max_latency": float("nan")}, "max_latency"),
    ],
)
def test_invalid_values_are_refused_by_name(
    policy: Callable[..., Any], given: dict[str, Any], field: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        policy(**given)
    assert caught.value.field == field
    assert caught.value.expected


def test_unknown_decay_metric_is_refused() -> None:
    with pytest.raises(ProjectError, match="unknown metric 'speed'"):
        Project("p", csv("x.csv"), "y", [Candidate("c", dict)], decay=Decay(metric="speed"))


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)))
def test_a_duration_with_a_unit_is_that_many_seconds(number: int, unit: str) -> None:
    assert seconds(f"{number}{unit}") == number * UNITS[unit]
    assert seconds(number) == number


@given(st.text().filter(lambda text: not text.strip()[:1].isdigit()))
def test_invalid_texts_are_no_duration(text: str) -> None:
    with pytest.raises(ProjectError, match="not a duration"):
        seconds(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, None])
def test_invalid_values_are_no_duration(value: Any) -> None:
    with pytest.raises(ProjectError, match="not a duration"):
        seconds(value)
