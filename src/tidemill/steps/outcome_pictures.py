"""The courses of a replay as a picture: losses over time, with triggers and swaps marked."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from tidemill.project import Task
from tidemill.steps.outcome import Course, part_edges

#: Colours that people with any colour vision tell apart (Okabe & Ito).
COLOURS = ("#0072B2", "#999999", "#E69F00", "#CC79A7")


def courses_picture(
    courses: Sequence[Course],
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
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.add_subplot()
    middles = [(part.start + part.stop) / 2 for part in part_edges(rows)]
    for course, colour in zip(courses, COLOURS, strict=False):
        first = course is courses[0]
        axes.plot(
            middles, course.over_time, color=colour, label=course.name,
            linewidth=2.2 if first else 1.2, zorder=3 if first else 2,
        )  # fmt: skip
    for places, style, colour, label in (
        (triggers, ":", "#D55E00", "trigger"),
        (swaps, "-", "#009E73", "new champion"),
    ):
        for number, place in enumerate(places):
            axes.axvline(
                place, linestyle=style, color=colour, linewidth=1.1, zorder=1,
                label=label if number == 0 else None,
            )  # fmt: skip
    axes.set_xlabel("live rows")
    axes.set_ylabel("share of wrong answers" if task == "classification" else "mean absolute error")
    axes.set_xlim(0, rows)
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend(loc="upper left", fontsize=8, ncols=3)
    return figure
