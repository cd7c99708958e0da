"""Plot the CPU time per request of every server, by model and batch size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.serving.results import Results, Workload
from benchmarks.serving.train import MODELS
from tidemill.steps.plots import style

COLOURS = {"tidemill": style.BLUE, "limit": style.FAINT}
PEER_COLOUR = style.RED
#: Tidemill has its own marker shape.
SHAPES = {"tidemill": "D", "limit": "s"}


def draw(results: Results, path: Path) -> None:
    """Write the plot: one panel per model and batch size, one dot per server, log scale."""
    workloads = results.main_workloads()
    height = 0.27 * len(results.cases()) + 0.9
    figure, panels = style.new_figure("", 9, height * len(workloads), rows=len(workloads))
    for axis, workload in zip(panels, workloads, strict=True):
        _panel(axis, results, workload)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(style.to_png(figure))


def _panel(axis: Any, results: Results, workload: Workload) -> None:
    measured = [(case, results.figure(case, workload, lambda s: s.cpu)) for case in results.cases()]
    dots = sorted(((value, case) for case, value in measured if value is not None), reverse=True)
    floor = 10 ** math.floor(math.log10(min(value for value, _ in dots)))
    for position, (value, case) in enumerate(dots):
        kind = case.split(":")[0].split("-")[0]
        colour, shape = COLOURS.get(kind, PEER_COLOUR), SHAPES.get(kind, "o")
        axis.hlines(position, floor, value, color=colour, alpha=0.35, linewidth=1.5)
        axis.plot(value, position, shape, color=colour, markersize=6)
        axis.annotate(
            f"{value:,.0f}", (value, position), (8, 0), textcoords="offset points", va="center",
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
    axis.spines["left"].set_visible(False)
    axis.grid(False, axis="y")
    what = "1 row" if workload[1] == 1 else f"{workload[1]} rows"
    style.set_heading(axis, f"{MODELS[workload[0]]}, {what} per request")
    axis.set_xlabel(f"CPU time per request at {workload[2]} connections, us", fontsize=8)
