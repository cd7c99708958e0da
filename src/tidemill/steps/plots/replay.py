"""The courses of a replay as a picture: losses over time, with triggers and swaps marked."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from tidemill.project import Task
from tidemill.steps.plots import style
from tidemill.steps.replay.comparison import StrategyResult, part_edges


def plot_replay(
    courses: Sequence[StrategyResult],
    rows: int,
    task: Task,
    *,
    triggers: Sequence[int] = (),
    swaps: Sequence[int] = (),
    title: str = "",
) -> Figure:
    """Each way's loss, part by part.

    Args:
        courses: The loop's first.
        rows: How many rows were played.
        triggers, swaps: After which rows there was one.
    """
    figure, (axes,) = style.new_figure(title, 10, 4.4)
    middles = [(part.start + part.stop) / 2 for part in part_edges(rows)]
    for number, course in enumerate(courses):
        first = course is courses[0]
        axes.plot(
            middles, course.over_time, label=course.name, markersize=4, **style.series(number),
            linewidth=2.2 if first else 1.2, zorder=3 if first else 2,
        )  # fmt: skip
    for places, line, colour, label in (
        (triggers, ":", style.BLACK, "trigger"),
        (swaps, "-", style.FAINT, "new champion"),
    ):
        for number, place in enumerate(places):
            axes.axvline(
                place, linestyle=line, color=colour, linewidth=1.1, zorder=1,
                label=label if number == 0 else None,
            )  # fmt: skip
    axes.set_xlabel("live rows, in the order they came")
    counted = task == "classification"
    axes.set_ylabel("share of wrong answers" if counted else "mean absolute error, target's unit")
    axes.set_xlim(0, rows)
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # the legend is above the curves
    style.legend(axes, loc="upper left", ncols=3)
    return figure
