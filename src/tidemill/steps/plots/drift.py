"""A plot of a drift report: each feature in training beside the monitoring window.

It needs the report alone, so it can be drawn after the rows have been deleted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tidemill.steps.drift.check import DriftReport, FeatureDrift
from tidemill.steps.drift.picture_bins import PictureBins
from tidemill.steps.plots import style
from tidemill.steps.plots.style import (
    AREA,
    BLUE,
    HATCH,
    RED,
    set_heading,
    shorten_names,
)

MAX_PANELS = 12
COLUMNS = 3
MAX_CATEGORIES = 8

LEGEND_TEXT = "Grey: training. Lines and hatched bars: the window. Thick, red and bold: an alarm."


def plot_drift(report: DriftReport, title: str) -> Figure:
    """Draw a panel for each feature, at most 12, drifted ones first and then by effect.

    Training is grey; the window is red if the feature has drifted and blue if not. The model's
    output and its confidence come first if they have drifted, otherwise last.
    """
    extra = [d for d in (report.output, report.confidence) if d is not None]
    shown = [d for d in extra if d.drifted] + list(report.features)
    shown += [d for d in extra if not d.drifted]
    panels = shown[:MAX_PANELS]
    rows = max(1, -(-len(panels) // COLUMNS))
    text = f"{title}\n{report.summary}\n{LEGEND_TEXT}"
    figure, grid = style.new_figure(text, 11.0, 1.1 + 2.6 * rows, rows, COLUMNS)
    for axes, drift in zip(grid, panels, strict=False):
        _panel(axes, drift)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _panel(axes: Axes, drift: FeatureDrift) -> None:
    if drift.bins.labels:
        _categories(axes, drift.bins, drift.drifted)
    elif drift.bins.edges:
        _numbers(axes, drift.bins, drift.drifted)
    name = shorten_names([drift.name], 28)[0]
    missing = f", {drift.missing_rate:.0%} missing" if drift.missing_rate >= 0.005 else ""
    alarm = ", alarm" if drift.drifted else ""
    set_heading(axes, f"{name}: {drift.effect:.0%} moved{missing}{alarm}", loud=drift.drifted)


def _numbers(axes: Axes, bins: PictureBins, alarm: bool) -> None:
    """Draw densities, since bins differ in width; the outermost are cut to the usual width."""
    edges = np.asarray(bins.edges)
    if edges.size > 3:
        width = (edges[-2] - edges[1]) / (edges.size - 3)
        edges[0] = max(edges[0], edges[1] - width)
        edges[-1] = min(edges[-1], edges[-2] + width)
    widths = np.maximum(np.diff(edges), 1e-12)
    if edges.size == 2 and edges[0] == edges[1]:
        edges, widths = edges + np.array([-0.5, 0.5]), np.ones(1)
    axes.stairs(np.asarray(bins.reference) / widths, edges, fill=True, color=AREA)
    axes.stairs(np.asarray(bins.window) / widths, edges, **_window_style(alarm))
    axes.set_yticks([])
    axes.set(xlabel="value", ylabel="density")
    axes.locator_params(axis="x", nbins=5)


def _window_style(alarm: bool) -> dict[str, Any]:
    return {"color": RED if alarm else BLUE, "linewidth": 2.6 if alarm else 1.6}


def _categories(axes: Axes, bins: PictureBins, alarm: bool) -> None:
    positions = np.arange(min(len(bins.labels), MAX_CATEGORIES))
    shown = slice(0, len(positions))
    axes.barh(positions - 0.2, bins.reference[shown], height=0.4, color=AREA)
    axes.barh(
        positions + 0.2, bins.window[shown], height=0.4, color=RED if alarm else BLUE,
        hatch=HATCH, edgecolor="white",
    )  # fmt: skip
    axes.set_yticks(positions, shorten_names(bins.labels[shown], 16))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set(xlabel="share of rows", ylabel="category")
