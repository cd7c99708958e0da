"""The report of the simulation: tables by stream and by seed, and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
COLOURS = {"left alone": "#999999", "schedule, all": "#E69F00", "loop": "#0072B2"}
SHOWN = (
    "abrupt-agrawal", "abrupt-friedman", "gradual-agrawal", "gradual-hyperplane",
    "recurring-stagger", "none-sea",
)  # fmt: skip

Results = dict[str, Any]


def markdown(done: Results) -> str:
    """Render the page."""
    notes = (HERE / "notes.md").read_text()
    return notes.replace("{by_stream}", _by_stream(done)).replace("{by_seed}", _by_seed(done))


def _streams(done: Results) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(done):
        found.setdefault(key.rpartition("-")[0], []).append(done[key])
    return found


def _by_stream(done: Results) -> str:
    ways = list(next(iter(done.values())))
    lines = ["| stream | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for name, seeds in _streams(done).items():
        cells = [
            f"{np.mean([s[way]['loss'] for s in seeds]):.4f} "
            f"({np.mean([s[way]['retrainings'] for s in seeds]):.1f})"
            for way in ways
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _by_seed(done: Results) -> str:
    ways = list(next(iter(done.values())))
    lines = ["| stream, seed | " + " | ".join(ways) + " | the loop |"]
    lines.append("|---" * (len(ways) + 2) + "|")
    for key in sorted(done):
        cells = [f"{done[key][w]['loss']:.4f} ({done[key][w]['retrainings']})" for w in ways]
        swaps = [f"{row:,}: {what}" for row, what in done[key]["loop"]["events"] if " (" in what]
        lines.append(f"| {key} | " + " | ".join(cells) + f" | {'; '.join(swaps)} |")
    return "\n".join(lines)


def draw(done: Results, path: Path) -> None:
    """Plot the losses of six streams over time, for the first seed."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    for place, name in enumerate(SHOWN, 1):
        axes = figure.add_subplot(2, 3, place)
        found = next(done[key] for key in sorted(done) if key.startswith(f"{name}-"))
        for way, colour in COLOURS.items():
            values = np.convolve(found[way]["over_time"], np.ones(3) / 3, mode="same")
            places = np.linspace(2000, 20_000, len(values))
            axes.plot(places[1:-1], values[1:-1], color=colour, label=way,
                      linewidth=2 if way == "loop" else 1.2)  # fmt: skip
        for row, _ in found["loop"]["events"][: found["loop"]["retrainings"]]:
            axes.axvline(row, color="#D55E00", linestyle=":", linewidth=1)
        axes.set_title(name, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_xticks(range(0, 20_001, 5000))
    figure.axes[0].legend(fontsize=8)
    figure.supylabel("error rate or mean absolute error")
    figure.supxlabel("rows (dotted: the loop retrains)")
    figure.savefig(path, dpi=90)
