"""Pictures of a window: training and window side by side, and the live metric over time.

Drawn from reports alone, so they can be made long after the rows are gone. In the style and the
colours of `tidemill.steps.plots.style`; every function gives a Figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tidemill.steps.decay.check import DecayReport
from tidemill.steps.drift.check import DriftReport, FeatureDrift
from tidemill.steps.drift.picture_bins import PictureBins
from tidemill.steps.plots import style
from tidemill.steps.plots.style import (
    AREA,
    BLUE,
    HATCH,
    INK,
    RED,
    SMALL,
    set_heading,
    shorten_names,
)

#: Panels drawn at most, largest effect first.
MAX_PANELS = 12
COLUMNS = 3
MAX_CATEGORIES = 8

LEGEND_TEXT = (
    "Grey areas are training, lines and hatched bars the window; thick, red and bold is an alarm."
)

SECONDS_A_DAY = 86_400


def plot_drift(report: DriftReport, title: str) -> Figure:
    """A panel for each feature, what drifted first; training in grey, the window in colour.

    The window is red where it is an alarm and blue where it is not. The output and its confidence
    come first when they drifted.
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


def plot_live_metric(
    times: Sequence[float], reports: Sequence[DecayReport], title: str, metric: str
) -> Figure:
    """The live metric of each window with its bounds, beside the held-out one.

    Args:
        times: When each window ended, in seconds since 1970.
        reports: What was found; windows without a verdict are left out.
    """
    figure, (axes,) = style.new_figure(title, 8.0, 3.8)
    named: set[str] = set()
    for seconds, report in zip(times, reports, strict=True):
        if report.value is None or report.low is None or report.high is None:
            continue
        day = seconds / SECONDS_A_DAY
        colour, marker, name = (RED, "X", "worse") if report.degraded else (BLUE, "o", "not worse")
        axes.plot([day, day], [report.low, report.high], color=colour, linewidth=2)
        axes.plot(
            day, report.value, marker, color=colour, markersize=7,
            label=None if name in named else name,
        )  # fmt: skip
        named.add(name)
    if reports:
        axes.axhline(reports[-1].reference, color=INK, linewidth=1, linestyle="--")
        axes.annotate(
            "held out", (1.0, reports[-1].reference), xycoords=("axes fraction", "data"),
            xytext=(4, 0), textcoords="offset points", va="center", fontsize=SMALL, color=INK,
        )  # fmt: skip
    axes.set_ylabel(f"{metric}, with its bounds")
    axes.set_xlabel("end of the window, UTC")
    style.legend(axes, loc="best")
    axes.xaxis_date()  # matplotlib's dates are days since 1970
    figure.autofmt_xdate()
    return figure


def _panel(axes: Axes, drift: FeatureDrift) -> None:
    if drift.bins.labels:
        _categories(axes, drift.bins, drift.drifted)
    elif drift.bins.edges:
        _numbers(axes, drift.bins, drift.drifted)
    name = shorten_names([drift.name], 28)[0]
    gaps = f", {drift.missing_rate:.0%} missing" if drift.missing_rate >= 0.005 else ""
    alarm = ", alarm" if drift.drifted else ""
    set_heading(axes, f"{name}: {drift.effect:.0%} moved{gaps}{alarm}", loud=drift.drifted)


def _numbers(axes: Axes, bars: PictureBins, alarm: bool) -> None:
    """Densities, for the bars are of unequal width; the outermost are drawn as wide as others."""
    edges = np.asarray(bars.edges)
    if edges.size > 3:
        width = (edges[-2] - edges[1]) / (edges.size - 3)
        edges[0] = max(edges[0], edges[1] - width)
        edges[-1] = min(edges[-1], edges[-2] + width)
    widths = np.maximum(np.diff(edges), 1e-12)
    if edges.size == 2 and edges[0] == edges[1]:
        edges, widths = edges + np.array([-0.5, 0.5]), np.ones(1)
    axes.stairs(np.asarray(bars.reference) / widths, edges, fill=True, color=AREA)
    axes.stairs(np.asarray(bars.window) / widths, edges, **_line(alarm))
    axes.set_yticks([])
    axes.set(xlabel="value", ylabel="density")
    axes.locator_params(axis="x", nbins=5)


def _line(alarm: bool) -> dict[str, Any]:
    return {"color": RED if alarm else BLUE, "linewidth": 2.6 if alarm else 1.6}


def _categories(axes: Axes, bars: PictureBins, alarm: bool) -> None:
    places = np.arange(min(len(bars.labels), MAX_CATEGORIES))
    shown = slice(0, len(places))
    axes.barh(places - 0.2, bars.reference[shown], height=0.4, color=AREA)
    axes.barh(
        places + 0.2, bars.window[shown], height=0.4, color=_line(alarm)["color"], hatch=HATCH,
        edgecolor="white",
    )  # fmt: skip
    axes.set_yticks(places, shorten_names(bars.labels[shown], 16))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set(xlabel="share of rows", ylabel="category")
