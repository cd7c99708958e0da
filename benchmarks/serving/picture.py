"""The run as a picture: CPU time a request of every server, for each model and batch size."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.results import Results
from benchmarks.serving.train import MODELS

OURS_COLOUR, LIMIT_COLOUR, PEER_COLOUR = "#0b7285", "#adb5bd", "#e8590c"


def draw(results: Results, path: Path) -> None:
    """Bars on a logarithmic scale, at 16 connections or the first number that was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = list(dict.fromkeys((model, rows) for model, rows, _ in results.cells()))
    figure, axes = pyplot.subplots(
        len(settings), 1, figsize=(9, 4.2 * len(settings)), squeeze=False, layout="constrained"
    )
    for axis, (model, rows) in zip(axes[:, 0], settings, strict=True):
        counts = [c for m, r, c in results.cells() if (m, r) == (model, rows)]
        cell = (model, rows, 16 if 16 in counts else counts[0])
        found = [(c, results.figure(c, cell, lambda s: s.cpu)) for c in results.cases()]
        bars = sorted(((c, v) for c, v in found if v is not None), key=lambda bar: -bar[1])
        values = [value for _, value in bars]
        drawn = axis.barh(
            [results.titles[case] for case, _ in bars],
            values,
            color=[_colour(case) for case, _ in bars],
        )
        axis.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        what = "1 row" if rows == 1 else f"{rows} rows"
        axis.set_title(f"{MODELS[model]}, {what} a request", loc="left", fontsize=10)
        axis.set_xlabel(f"CPU time a request at {cell[2]} connections, us (log scale)", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _colour(case: str) -> str:
    if case.startswith("tidemill"):
        return OURS_COLOUR
    return LIMIT_COLOUR if case.startswith("limit") else PEER_COLOUR
