"""The style of all plots: readable sizes, and colours that are safe for colour-blind readers.

The colours are Okabe and Ito's palette. Whatever a colour says is also said by a shape, a line
style or a word. Styles are set on each figure, because matplotlib's global settings are shared by
all threads of a process. See decision 146.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
#: For series, in this order; the first have the highest contrast to white.
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
#: One for each colour, so that series differ in both.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
INK, FAINT, AREA, GRID = "#222222", "#8A8A8A", "#C4C4C4", "#E6E6E6"
HATCH = "////"

TITLE, TEXT, SMALL = 12, 10, 9  # points


def new_figure(
    title: str, width: float, height: float, rows: int = 1, columns: int = 1, **more: Any
) -> tuple[Figure, list[Axes]]:
    """Create a figure and its styled axes, row by row; `width` and `height` in inches.

    Args:
        more: Passed to matplotlib's `subplots`, such as `sharex`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(
            title, x=0.012, ha="left", fontsize=TITLE, fontweight="bold", color=INK, wrap=True
        )
    grid = figure.subplots(rows, columns, squeeze=False, **more).ravel()
    for axes in grid:
        style_axes(axes)
    return figure, list(grid)


def style_axes(axes: Axes) -> None:
    """Give axes a faint grid, no box, and dark text."""
    axes.set_axisbelow(True)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=SMALL)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(TEXT)


def set_heading(axes: Axes, text: str, *, loud: bool = False) -> None:
    """Set the heading of a panel; bold if `loud`, for an alarm."""
    weight = "bold" if loud else "normal"
    axes.set_title(text, loc="left", fontsize=TEXT, color=INK, fontweight=weight, pad=8)


def series(number: int) -> dict[str, Any]:
    """The colour, line style and marker of a series: keyword arguments for `Axes.plot`."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def legend(axes: Axes, **more: Any) -> None:
    """Add a legend if there is anything to explain."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, fontsize=SMALL, title_fontsize=SMALL, framealpha=0.9, **more)


def shorten_names(names: Sequence[object], most: int = 24) -> list[str]:
    """Shorten names to at most `most` characters, so that they fit beside an axis."""
    texts = [str(name) for name in names]
    return [text if len(text) <= most else f"{text[: most - 1]}…" for text in texts]


def to_png(figure: Figure, *, dpi: int = 110) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", bbox_inches="tight")
    return buffer.getvalue()
