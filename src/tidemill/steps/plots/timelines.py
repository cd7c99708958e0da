"""Plots over time: live metrics, probes of an API, and the losses of a replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.dates as dates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tidemill.signature import Task
from tidemill.steps.decay.check import DecayReport
from tidemill.steps.plots import style
from tidemill.steps.plots.style import BLACK, BLUE, FAINT, INK, RED, SMALL
from tidemill.steps.replay.comparison import StrategyResult, part_edges

SECONDS_PER_DAY = 86_400.0  # matplotlib counts dates in days since 1970
MAX_PANELS = 12


@dataclass(frozen=True)
class ProbeSeries:
    """The results of one probe over time.

    Attributes:
        times: When it was sent, in seconds since 1970 [checks].
        milliseconds: Until the response; NaN if there was none [checks].
        healthy: Whether it succeeded [checks].
    """

    times: NDArray[np.float64]
    milliseconds: NDArray[np.float64]
    healthy: NDArray[np.bool_]


def plot_api_monitor(probes: Mapping[str, ProbeSeries], title: str) -> Figure:
    """Draw a panel for each probe: a blue dot for a success, a red line with a cross for a failure.

    At most 12 probes are drawn.
    """
    shown = list(probes.items())[:MAX_PANELS]
    count = max(1, len(shown))
    figure, grid = style.new_figure(title, 10.0, 1.0 + 2.1 * count, count, sharex=True)
    for axes, (name, probe) in zip(grid, shown, strict=False):
        _probe_panel(axes, name, probe)
    grid[-1].set_xlabel("time, UTC")
    if not shown:
        grid[0].set_axis_off()
        grid[0].text(0.5, 0.5, "No probes were sent.", ha="center", color=INK)
    return figure


def _probe_panel(axes: Axes, name: str, probe: ProbeSeries) -> None:
    succeeded = probe.healthy & np.isfinite(probe.milliseconds)
    days, took = probe.times / SECONDS_PER_DAY, probe.milliseconds[succeeded]
    axes.plot(days[succeeded], took, color=FAINT, linewidth=0.8, zorder=1)
    axes.plot(days[succeeded], took, "o", color=BLUE, markersize=3.5, zorder=2)
    for day in days[~probe.healthy]:
        axes.axvline(day, color=RED, linewidth=1.5, alpha=0.7, zorder=0)
        axes.plot(day, 0.94, "X", color=RED, markersize=7, transform=axes.get_xaxis_transform())
    failed = int((~probe.healthy).sum())
    median = f"median {np.median(took):.1f} ms, " if took.size else ""
    text = f"{name}: {median}{failed} of {len(probe.times)} failed"
    style.set_heading(axes, text, loud=failed > 0)
    axes.set_ylabel("response time, ms")
    if took.size:
        axes.set_ylim(0, max(1.0, float(took.max()) * 1.15))
    locator = dates.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def plot_live_metric(
    times: Sequence[float], reports: Sequence[DecayReport], title: str, metric: str
) -> Figure:
    """Draw the live metric of each window with its interval, and the held-out metric.

    Args:
        times: When each window ended, in seconds since 1970.
        reports: One for each window; those without a verdict are left out.
    """
    figure, (axes,) = style.new_figure(title, 8.0, 3.8)
    named: set[str] = set()
    for seconds, report in zip(times, reports, strict=True):
        if report.value is None or report.low is None or report.high is None:
            continue
        day = seconds / SECONDS_PER_DAY
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
    axes.set_ylabel(f"{metric}, with interval")
    axes.set_xlabel("end of the window, UTC")
    style.legend(axes, loc="best")
    axes.xaxis_date()  # matplotlib's dates are days since 1970
    figure.autofmt_xdate()
    return figure


def plot_replay(
    results: Sequence[StrategyResult],
    rows: int,
    task: Task,
    *,
    triggers: Sequence[int] = (),
    swaps: Sequence[int] = (),
    title: str = "",
) -> Figure:
    """Draw the loss of each strategy over the parts of a replay.

    Args:
        results: One for each strategy; Tidemill's own comes first.
        rows: How many live rows were replayed.
        triggers, swaps: The rows after which retraining was triggered or the champion changed.
    """
    figure, (axes,) = style.new_figure(title, 10, 4.4)
    centers = [(part.start + part.stop) / 2 for part in part_edges(rows)]
    for number, result in enumerate(results):
        first = number == 0
        axes.plot(
            centers, result.over_time, label=result.name, markersize=4, **style.series(number),
            linewidth=2.2 if first else 1.2, zorder=3 if first else 2,
        )  # fmt: skip
    for positions, line, colour, label in (
        (triggers, ":", BLACK, "trigger"),
        (swaps, "-", FAINT, "new champion"),
    ):
        for number, position in enumerate(positions):
            axes.axvline(
                position, linestyle=line, color=colour, linewidth=1.1, zorder=1,
                label=label if number == 0 else None,
            )  # fmt: skip
    axes.set_xlabel("live rows, in order of arrival")
    classes = task == "classification"
    axes.set_ylabel("error rate" if classes else "mean absolute error, target's unit")
    axes.set_xlim(0, rows)
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # the legend is above the curves
    style.legend(axes, loc="upper left", ncols=3)
    return figure
