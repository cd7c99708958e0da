"""Pictures of a window: training and window side by side, and the live metric over time.

Drawn from reports alone, so they can be made long after the rows are gone. In the style and the
colours of `tidemill.steps.pictures`; every function gives a Figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tidemill.steps.bars import Bars
from tidemill.steps.decay import DecayReport
from tidemill.steps.drift import DriftReport, FeatureDrift
from tidemill.steps.pictures import BLUE, FAINT, INK, RED

#: Panels drawn at most, largest effect first.
PANELS = 12
COLUMNS = 3
CATEGORIES = 8

KEY = "Training in grey, the window as coloured bars or a line: red is an alarm."

SECONDS_A_DAY = 86_400


def drift_picture(report: DriftReport, title: str) -> Figure:
    """A panel for each feature, what drifted first; training in grey, the window in colour.

    The window is red where it is an alarm and blue where it is not. The output and its confidence
    come first when they drifted.
    """
    extra = [d for d in (report.output, report.confidence) if d is not None]
    shown = [d for d in extra if d.drifted] + list(report.features)
    shown += [d for d in extra if not d.drifted]
    panels = shown[:PANELS]
    rows = max(1, -(-len(panels) // COLUMNS))
    figure = Figure(figsize=(11.0, 0.9 + 2.5 * rows), layout="constrained")
    figure.suptitle(
        f"{title}\n{report.summary}\n{KEY}", x=0.01, ha="left", fontsize=11, color=INK, wrap=True
    )
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, drift in zip(grid, panels, strict=False):
        _panel(axes, drift)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def metric_picture(
    times: Sequence[float], reports: Sequence[DecayReport], title: str, metric: str
) -> Figure:
    """The live metric of each window with its bounds, beside the held-out one.

    Args:
        times: When each window ended, in seconds since 1970.
        reports: What was found; windows without a verdict are left out.
    """
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for seconds, report in zip(times, reports, strict=True):
        if report.value is None or report.low is None or report.high is None:
            continue
        day = seconds / SECONDS_A_DAY
        colour = RED if report.hurt else BLUE
        axes.plot([day, day], [report.low, report.high], color=colour, linewidth=2)
        axes.plot(day, report.value, "o", color=colour, markersize=5)
    if reports:
        axes.axhline(reports[-1].reference, color=INK, linewidth=1, linestyle="--")
        axes.annotate(
            "held out", (1.0, reports[-1].reference), xycoords=("axes fraction", "data"),
            xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=INK,
        )  # fmt: skip
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_ylabel(metric)
    axes.xaxis_date()  # matplotlib's dates are days since 1970
    _dress(axes)
    figure.autofmt_xdate()
    return figure


def _panel(axes: Axes, drift: FeatureDrift) -> None:
    colour = RED if drift.drifted else BLUE
    if drift.bars.labels:
        _categories(axes, drift.bars, colour)
    elif drift.bars.edges:
        _numbers(axes, drift.bars, colour)
    name = drift.name if len(drift.name) <= 28 else drift.name[:27] + "…"
    gaps = f", {drift.missing_rate:.0%} missing" if drift.missing_rate >= 0.005 else ""
    axes.set_title(f"{name}: {drift.effect:.0%} moved{gaps}", loc="left", fontsize=9, color=colour)
    _dress(axes)


def _numbers(axes: Axes, bars: Bars, colour: str) -> None:
    """Densities, for the bars are of unequal width; the outermost are drawn as wide as others."""
    edges = np.asarray(bars.edges)
    if edges.size > 3:
        width = (edges[-2] - edges[1]) / (edges.size - 3)
        edges[0] = max(edges[0], edges[1] - width)
        edges[-1] = min(edges[-1], edges[-2] + width)
    widths = np.maximum(np.diff(edges), 1e-12)
    if edges.size == 2 and edges[0] == edges[1]:
        edges, widths = edges + np.array([-0.5, 0.5]), np.ones(1)
    axes.stairs(np.asarray(bars.reference) / widths, edges, fill=True, color=FAINT)
    axes.stairs(np.asarray(bars.window) / widths, edges, color=colour, linewidth=1.6)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=5)


def _categories(axes: Axes, bars: Bars, colour: str) -> None:
    places = np.arange(min(len(bars.labels), CATEGORIES))
    shown = slice(0, len(places))
    axes.barh(places - 0.2, bars.reference[shown], height=0.4, color=FAINT)
    axes.barh(places + 0.2, bars.window[shown], height=0.4, color=colour)
    axes.set_yticks(places, [label[:16] for label in bars.labels[shown]])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


def _dress(axes: Axes) -> None:
    axes.tick_params(colors=INK, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
