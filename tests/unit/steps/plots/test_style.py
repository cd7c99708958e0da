"""Every figure has the style, and can be read without telling colours apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from tests.unit.steps.plots.test_drift import entry, table
from tests.unit.steps.plots.test_evaluation import case
from tidemill.steps.decay.check import DecayReport
from tidemill.steps.drift.check import check_drift
from tidemill.steps.plots import evaluation as pictures
from tidemill.steps.plots import style
from tidemill.steps.plots.drift import plot_drift
from tidemill.steps.plots.timelines import (
    ProbeSeries,
    plot_api_monitor,
    plot_live_metric,
    plot_replay,
)
from tidemill.steps.replay.comparison import StrategyResult, part_edges

RNG = np.random.default_rng(0)
Y, PREDICTED, PROBABILITIES, LABELS = case(7, 200)
#: How red, green and blue light look without one kind of cone (Machado and others, 2009).
BLIND = {
    "protanopia": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deuteranopia": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritanopia": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}


def drift() -> Figure:
    before = table(400, 0)
    profile = {"columns": {name: entry(before[name]) for name in before}}
    return plot_drift(check_drift(profile, table(300, 1, 1.0).assign(plan="a")), "churn")


def live() -> Figure:
    found = [
        DecayReport("accuracy", 100, True, hurt, 0.9, "", value=0.8, low=0.7, high=0.85)
        for hurt in (False, True)
    ]
    return plot_live_metric([1.7e9, 1.7e9 + 90_000], found, "churn", "accuracy")


def monitor() -> Figure:
    healthy = np.array([True, False, True, True])
    return plot_api_monitor(
        {"health": ProbeSeries(1.7e9 + np.arange(4.0), np.ones(4), healthy)}, "api"
    )


def courses() -> Figure:
    parts = len(list(part_edges(2000)))
    ways = [StrategyResult(f"way {i}", {}, 0.1, RNG.uniform(size=parts), 1, 1.0) for i in range(4)]
    return plot_replay(ways, 2000, "classification", triggers=[500], swaps=[700], title="t")


FIGURES: dict[str, Callable[[], Figure]] = {
    "confusion": lambda: pictures.plot_confusion_matrix(np.eye(3) * 4, ["a", "b", "c"], "t"),
    "curves": lambda: pictures.plot_roc_pr_curves(Y, PROBABILITIES, LABELS, "t"),
    "calibration": lambda: pictures.plot_calibration(Y, PROBABILITIES, PREDICTED, LABELS, "t"),
    "residuals": lambda: pictures.plot_residuals(RNG.normal(size=50), np.ones(50), "t", "price"),
    "drift": drift, "live": live, "monitor": monitor, "courses": courses,
}  # fmt: skip


@pytest.fixture(scope="module", params=FIGURES)
def figure(request: pytest.FixtureRequest) -> Figure:
    made = FIGURES[request.param]()
    style.to_png(made)  # draws it, so that all texts are placed
    return made


def shown(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def test_axes_are_labelled_styled_and_readable(figure: Figure) -> None:
    assert shown(figure)
    for axes in shown(figure):
        below = axes.get_subplotspec() is None or axes.get_subplotspec().is_last_row()
        shared = len(axes.get_shared_x_axes().get_siblings(axes)) > 1
        assert axes.get_xlabel() or (shared and not below), axes.get_title(loc="left")
        assert axes.get_ylabel(), axes.get_title(loc="left")
        assert not axes.spines["top"].get_visible()
        texts = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
        assert all(text.get_fontsize() >= style.SMALL for text in texts if text.get_text())
    assert figure.get_suptitle()


def test_colours_are_from_the_palette(figure: Figure) -> None:
    ours = {to_hex(c) for c in (*style.COLOURS, style.INK, style.FAINT, style.AREA, "#FFFFFF")}
    for axes in shown(figure):
        lines = [line for line in axes.lines if line.get_linestyle() != "None" or line.get_marker()]
        used = {to_hex(line.get_color()) for line in lines}
        for bars in (box for box in axes.containers if isinstance(box, BarContainer)):
            used |= {to_hex(bar.get_facecolor()) for bar in bars}
        assert used <= ours


def test_series_differ_in_more_than_colour(figure: Figure) -> None:
    for axes in shown(figure):
        named = [line for line in axes.lines if not line.get_label().startswith("_")]
        looks = [
            (line.get_linestyle(), line.get_marker(), line._unscaled_dash_pattern[1])
            for line in named
        ]
        assert len({str(look) for look in looks}) == len(named), [x.get_label() for x in named]


def test_an_alarm_is_shown_by_words_and_weight_too() -> None:
    first = drift().axes[0]
    assert "alarm" in first.get_title(loc="left")
    assert first._left_title.get_fontweight() == "bold"
    assert {line.get_marker() for line in live().axes[0].lines} >= {"o", "X"}
    assert "X" in {line.get_marker() for line in monitor().axes[0].lines}


def linear(colour: str) -> npt.NDArray[np.float64]:
    light = np.array(to_rgb(colour))
    return np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it, from 1 to 21."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(weights @ linear(c)) + 0.05 for c in (one, other))
    return high / low


def test_text_and_the_first_series_have_contrast_to_white() -> None:
    assert contrast(style.INK, "#FFFFFF") > 7
    assert contrast(style.FAINT, "#FFFFFF") > 3
    for colour in style.COLOURS[:3]:
        assert contrast(colour, "#FFFFFF") > 3, colour


@pytest.mark.parametrize("kind", BLIND)
def test_the_first_colours_differ_for_colour_blind_readers(kind: str) -> None:
    seen = [np.clip(np.array(BLIND[kind]) @ linear(c), 0, 1) ** (1 / 2.2) for c in style.COLOURS]
    pairs = [(i, j) for i in range(5) for j in range(i)]
    nearest = min(float(np.abs(seen[i] - seen[j]).max()) for i, j in pairs)
    assert nearest > 0.1
