"""The monitor's picture: latency and failures of each probe over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.dates as dates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tidemill.steps.plots import style
from tidemill.steps.plots.style import BLUE, FAINT, INK, RED

MAX_PANELS = 12


@dataclass(frozen=True)
class ProbeSeries:
    """One probe over time.

    Attributes:
        times: [looks] in seconds since the epoch.
        milliseconds: [looks] until the answer; NaN where that is not known.
        healthy: [looks].
    """

    times: NDArray[np.float64]
    milliseconds: NDArray[np.float64]
    healthy: NDArray[np.bool_]


def plot_api_monitor(lines: Mapping[str, ProbeSeries], title: str) -> Figure:
    """A panel for each probe: a blue dot for an answer, a red bar with a cross for a failure."""
    shown = list(lines.items())[:MAX_PANELS]
    count = max(1, len(shown))
    figure, grid = style.new_figure(title, 10.0, 1.0 + 2.1 * count, count, sharex=True)
    for axes, (name, line) in zip(grid, shown, strict=False):
        _panel(axes, name, line)
    grid[-1].set_xlabel("time, UTC")
    if not shown:
        grid[0].set_axis_off()
        grid[0].text(0.5, 0.5, "Nothing was probed.", ha="center", color=INK)
    return figure


def _panel(axes: Axes, name: str, line: ProbeSeries) -> None:
    well = line.healthy & np.isfinite(line.milliseconds)
    moments = line.times / 86_400.0  # days, as matplotlib counts them
    axes.plot(moments[well], line.milliseconds[well], color=FAINT, linewidth=0.8, zorder=1)
    axes.plot(moments[well], line.milliseconds[well], "o", color=BLUE, markersize=3.5, zorder=2)
    for moment in moments[~line.healthy]:
        axes.axvline(moment, color=RED, linewidth=1.5, alpha=0.7, zorder=0)
        axes.plot(moment, 0.94, "X", color=RED, markersize=7, transform=axes.get_xaxis_transform())
    failed = int((~line.healthy).sum())
    middle = f"median {np.median(line.milliseconds[well]):.1f} ms, " if well.any() else ""
    style.set_heading(
        axes, f"{name}: {middle}{failed} of {len(line.times)} failed", loud=failed > 0
    )
    axes.set_ylabel("answered in, ms")
    if well.any():
        axes.set_ylim(0, max(1.0, float(line.milliseconds[well].max()) * 1.15))
    locator = dates.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
