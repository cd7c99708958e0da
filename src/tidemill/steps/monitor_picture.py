"""The monitor's picture: latency and failures of each probe over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.dates as dates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tidemill.steps.pictures import BLUE, FAINT, INK, RED

PANELS = 12


@dataclass(frozen=True)
class Line:
    """One probe over time.

    Attributes:
        times: [looks] in seconds since the epoch.
        milliseconds: [looks] until the answer; NaN where that is not known.
        healthy: [looks].
    """

    times: NDArray[np.float64]
    milliseconds: NDArray[np.float64]
    healthy: NDArray[np.bool_]


def monitor_picture(lines: Mapping[str, Line], title: str) -> Figure:
    """A panel for each probe: a blue dot for an answer, a red bar for a failure."""
    shown = list(lines.items())[:PANELS]
    count = max(1, len(shown))
    figure = Figure(figsize=(10.0, 0.8 + 1.9 * count), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, wrap=True)
    grid = figure.subplots(count, 1, squeeze=False, sharex=True).ravel()
    for axes, (name, line) in zip(grid, shown, strict=False):
        _panel(axes, name, line)
    if not shown:
        grid[0].set_axis_off()
        grid[0].text(0.5, 0.5, "Nothing was probed.", ha="center", color=INK)
    return figure


def _panel(axes: Axes, name: str, line: Line) -> None:
    well = line.healthy & np.isfinite(line.milliseconds)
    moments = line.times / 86_400.0  # days, as matplotlib counts them
    axes.plot(moments[well], line.milliseconds[well], color=FAINT, linewidth=0.8, zorder=1)
    axes.plot(moments[well], line.milliseconds[well], ".", color=BLUE, markersize=4, zorder=2)
    for moment in moments[~line.healthy]:
        axes.axvline(moment, color=RED, linewidth=1.5, alpha=0.7, zorder=0)
    failed = int((~line.healthy).sum())
    middle = f"median {np.median(line.milliseconds[well]):.1f} ms, " if well.any() else ""
    axes.set_title(f"{name}: {middle}{failed} of {len(line.times)} failed", loc="left", fontsize=9)
    axes.set_ylabel("ms", fontsize=8)
    if well.any():
        axes.set_ylim(0, max(1.0, float(line.milliseconds[well].max()) * 1.15))
    locator = dates.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
