"""The one style of all pictures: sizes that can be read, and colours that all eyes tell apart.

Colours are Okabe and Ito's palette; what a colour says, a shape, a line or a word says too. Styles
are set on each figure: matplotlib's own settings belong to the whole process, and threads draw.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
#: For series, in this order; the first ones stand out most from white.
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
#: One for each colour: series differ in both.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
INK, FAINT, AREA, GRID = "#222222", "#8A8A8A", "#C4C4C4", "#E6E6E6"
HATCH = "////"

TITLE, TEXT, SMALL = 12, 10, 9  # points


def new_figure(
    title: str, width: float, height: float, rows: int = 1, columns: int = 1, **more: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of its own with dressed axes, row by row; sizes in inches.

    Args:
        more: For matplotlib's `subplots`, such as `sharex`.
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
    """A faint grid behind, no box around, and everything in ink that can be read."""
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
    """What a panel shows, above it; loud where it is an alarm."""
    weight = "bold" if loud else "normal"
    axes.set_title(text, loc="left", fontsize=TEXT, color=INK, fontweight=weight, pad=8)


def series(number: int) -> dict[str, Any]:
    """Colour, line and marker of a series, of which no two have the same."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def legend(axes: Axes, **more: Any) -> None:
    """A legend, where there is something to explain."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, fontsize=SMALL, title_fontsize=SMALL, framealpha=0.9, **more)


def shorten_names(names: Sequence[object], most: int = 24) -> list[str]:
    """Names that fit beside an axis."""
    texts = [str(name) for name in names]
    return [text if len(text) <= most else f"{text[: most - 1]}…" for text in texts]


def to_png(figure: Figure, *, dpi: int = 110) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", bbox_inches="tight")
    return buffer.getvalue()
