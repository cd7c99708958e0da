"""Drift plots are drawn from reports alone."""

import numpy as np
import pandas as pd
import pytest

from tidemill.steps.decay.check import DecayReport
from tidemill.steps.drift.check import DriftReport, check_drift
from tidemill.steps.drift.histogram import category_histogram, numeric_histogram
from tidemill.steps.plots.drift import MAX_PANELS, plot_drift
from tidemill.steps.plots.style import to_png
from tidemill.steps.plots.timelines import plot_live_metric


def entry(values):
    numeric = values.dtype.kind in "fi"
    sketch = numeric_histogram(values) if numeric else category_histogram(values)
    fields = {name: getattr(sketch, name) for name in sketch.__struct_fields__}
    return {"kind": "number" if numeric else "text", **fields}


def table(rows, seed, shift=0.0):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(rows, 14)), columns=[f"x{i}" for i in range(14)])
    frame["x3"] += shift
    return frame.assign(constant=1.0, plan=random.choice(["a", "b"], rows))


@pytest.fixture(scope="module")
def report():
    before = table(800, 0)
    profile = {"columns": {name: entry(before[name]) for name in before}}
    return check_drift(profile, table(300, 1, shift=1.0))


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_drifted_features_come_first_and_the_rest_by_effect(report):
    figure = plot_drift(report, "churn, version 3")

    assert titles(figure)[0].startswith("x3: ")
    assert len(titles(figure)) == MAX_PANELS
    assert report.summary in figure.get_suptitle()
    assert to_png(figure).startswith(b"\x89PNG")


def test_categories_and_constants_are_drawn_too(report):
    chosen = tuple(f for f in report.features if f.name in ("plan", "constant"))
    few = DriftReport(300, 300, True, False, "Still.", features=chosen)
    figure = plot_drift(few, "churn")

    assert {title.split(":")[0] for title in titles(figure)} >= {"plan", "constant"}
    assert to_png(figure)


def test_a_report_without_a_verdict_is_drawn_empty():
    figure = plot_drift(DriftReport(3, 3, False, False, "No verdict."), "churn")

    assert "No verdict." in figure.get_suptitle()
    assert not any(axes.axison for axes in figure.axes)


def test_the_metric_is_drawn_over_time_with_its_bounds():
    holds = DecayReport("f1_score", 300, True, False, 0.9, "", 0.89, 0.85, 0.93, 0.01)
    hurt = DecayReport("f1_score", 300, True, True, 0.9, "", 0.7, 0.65, 0.75, 0.2)
    short = DecayReport("f1_score", 3, False, False, 0.9, "")
    figure = plot_live_metric([0.0, 3600.0, 7200.0], [holds, hurt, short], "churn", "f1_score")

    assert len(figure.axes[0].lines) == 2 * 2 + 1
    assert to_png(figure)
    assert plot_live_metric([], [], "churn", "f1_score").axes
