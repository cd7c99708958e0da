"""The run as a picture: CPU time a request of every server, for each model and batch size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.serving.results import Cell, Results
from benchmarks.serving.train import MODELS

COLOURS = {"tidemill": "#0b7285", "limit": "#868e96"}
PEER_COLOUR = "#e8590c"


def draw(results: Results, path: Path) -> None:
    """A dot for every server on a logarithmic scale, a panel for every model and batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = results.main_cells()
    height = 0.27 * len(results.cases()) + 0.9
    figure, axes = pyplot.subplots(
        len(cells), 1, figsize=(9, height * len(cells)), squeeze=False, layout="constrained"
    )
    for axis, cell in zip(axes[:, 0], cells, strict=True):
        _panel(axis, results, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, results: Results, cell: Cell) -> None:
    measured = [(case, results.figure(case, cell, lambda s: s.cpu)) for case in results.cases()]
    dots = sorted(((value, case) for case, value in measured if value is not None), reverse=True)
    floor = 10 ** math.floor(math.log10(min(value for value, _ in dots)))
    for place, (value, case) in enumerate(dots):
        colour = COLOURS.get(case.split(":")[0].split("-")[0], PEER_COLOUR)
        axis.hlines(place, floor, value, color=colour, alpha=0.35, linewidth=1.5)
        axis.plot(value, place, "o", color=colour, markersize=6)
        axis.annotate(
            f"{value:,.0f}", (value, place), (8, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    axis.set_yticks(
        range(len(dots)), [results.titles[case].replace("`", "") for _, case in dots], fontsize=8
    )
    axis.set_xscale("log")
    axis.set_xlim(floor, max(value for value, _ in dots) * 2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.xaxis.set_minor_formatter("")
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    what = "1 row" if cell[1] == 1 else f"{cell[1]} rows"
    axis.set_title(f"{MODELS[cell[0]]}, {what} a request", loc="left", fontsize=10)
    axis.set_xlabel(f"CPU time a request at {cell[2]} connections, us", fontsize=8)
